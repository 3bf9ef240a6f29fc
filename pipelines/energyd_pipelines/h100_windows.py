"""How is one steady window of one kind of work measured, so that nothing before or after is in it?"""

from __future__ import annotations

import gc
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import click
import torch

import energyd_client as energy
from energyd_pipelines.examples import Counts
from energyd_pipelines.h100_config import Piece
from energyd_pipelines.shapes import H100_BF16_FLOPS

_MARGIN_S: Final = 15.0  # warming up, and the step that passes the window's end


@dataclass
class Work:
    """What one step did. `flops` as a model needs them, without what checkpointing repeats."""

    counts: Counts = field(default_factory=Counts)
    generated: int = 0
    flops: float = 0.0
    waited_s: float = 0.0  # for data

    def units(self) -> dict[str, int]:
        """As `stage.count` takes them; what does not occur is left out."""
        found = {**self.counts.units(), "generated": self.generated}
        return {unit: n for unit, n in found.items() if n}

    def __add__(self, other: Work) -> Work:
        return Work(
            self.counts + other.counts, self.generated + other.generated,
            self.flops + other.flops, self.waited_s + other.waited_s,
        )  # fmt: skip


@dataclass
class Variant:
    """One kind of work: which stage it is, and how it starts; what comes back does a step at each `next`."""

    name: str
    stage: str
    start: Callable[[], Iterator[Work]]
    facts: dict[str, Any] = field(default_factory=dict)  # size, batch, length …
    warm_up: int = 2  # steps before the window
    seconds: float | None = None  # of the window; None: as the study says


def rounds(piece: Piece, variants: list[Variant]) -> set[str]:
    """Every variant `repeats` times, each round in its own order; what was measured before is skipped.

    Gives the names of those that failed.
    """
    dice = random.Random(piece.config.seed)
    failed: set[str] = set()
    for repeat in range(piece.config.repeats):
        for variant in dice.sample(variants, len(variants)):
            if variant.name in failed or (variant.name, repeat) in piece.done:
                continue
            if piece.seconds() < piece.config.window_s + (0 if piece.config.pretend else _MARGIN_S):
                piece.left.append(f"{variant.name} #{repeat}")
                continue
            if not window(piece, variant, repeat):
                failed.add(variant.name)  # it would fail again; the reason is kept
            variant.warm_up = min(variant.warm_up, 1)  # its kernels are chosen, its memory is there
    return failed


def window(piece: Piece, variant: Variant, repeat: int) -> bool:
    """Measure one; False where it failed. Its line is on disk when this returns."""
    row: dict[str, Any] = {
        "variant": variant.name, "repeat": repeat, "stage": variant.stage, "part": piece.config.part,
        **variant.facts, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    labels = {k: v for k, v in row.items() if isinstance(v, (str, int, float)) and k != "began"}
    run = energy.run(f"h100 {variant.name}", study="h100", weights="random", **labels)
    error = ""
    try:
        with run:
            row["run_id"] = run.run_id
            seconds = piece.config.window_s if variant.seconds is None else variant.seconds
            _fill(row, run, variant, seconds)
    except Exception as failure:  # a piece goes on: what failed is a line with the reason
        error = f"{type(failure).__name__}: {failure}".split("\n")[0][:300]
    if error:  # outside of `except`, whose traceback holds what filled the memory
        row["error"] = error
        _forget()
    elif _has_context():
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    _keep(piece, row)
    said = error or ", ".join(f"{row[k]:,.0f} {k}" for k in row if k.endswith("_per_s"))
    click.echo(f"[{piece.seconds():5.0f} s left] {variant.name} #{repeat}: {said}")
    return not error


def _fill(row: dict[str, Any], run: energy.Run, variant: Variant, seconds: float) -> None:
    """Warm up, measure, write what was done into the row."""
    if _has_context():  # looking must not make one: a machine without it is one of the things measured
        torch.cuda.reset_peak_memory_stats()
    steps = variant.start()
    with run.stage("warm-up"):
        for _ in range(variant.warm_up):
            next(steps)
    total, n = Work(), 0
    with run.stage(variant.stage, sync=True) as stage:
        began = time.perf_counter()
        while True:
            work = next(steps)
            total, n = total + work, n + 1
            if time.perf_counter() - began >= seconds:
                break
        _wait()
        took = time.perf_counter() - began
        stage.count(**total.units())
    row |= {"stage_id": stage.stage_id, "seconds": took, "steps": n, **total.units()}
    row |= {f"{unit}_per_s": count / took for unit, count in total.units().items()}
    row["data_wait_s"] = total.waited_s
    if total.flops:
        row["flops"], row["mfu"] = total.flops, total.flops / took / H100_BF16_FLOPS
    if hasattr(steps, "close"):
        steps.close()


def idle(device: torch.device) -> Iterator[Work]:
    """Nothing."""
    while True:
        time.sleep(0.1)
        yield Work()


def burn(device: torch.device) -> Iterator[Work]:
    """A bf16 matrix product after another, on random data."""
    side = 8192 if device.type == "cuda" else 64
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    while True:
        for _ in range(20):
            torch.mm(a, b)
        _wait()
        yield Work(flops=20 * 2.0 * side**3)


def prerun(piece: Piece, device: torch.device) -> None:
    """Idle, idle with a context, busy: what the machine takes before there is work. Once a piece."""
    seconds = piece.config.idle_s
    if seconds <= 0:
        return
    if not _has_context():
        _once(piece, "idle", idle, device, seconds)
    torch.zeros(1, device=device)
    _wait()
    _once(piece, "context", idle, device, seconds)
    _once(piece, "burn", burn, device, seconds)


def _once(
    piece: Piece,
    what: str,
    start: Callable[[torch.device], Iterator[Work]],
    where: torch.device,
    seconds: float,
) -> None:
    name = f"{piece.config.part} prerun {what}"
    if (name, 0) not in piece.done:
        warm_up = 0 if what != "burn" else 2
        variant = Variant(name, f"prerun.{what}", lambda: start(where), warm_up=warm_up, seconds=seconds)
        window(piece, variant, 0)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _has_context() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _wait() -> None:
    if _has_context():
        torch.cuda.synchronize()


def _forget() -> None:
    gc.collect()
    if _has_context():
        torch.cuda.empty_cache()


def _keep(piece: Piece, row: dict[str, Any]) -> None:
    with (piece.out / "windows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
