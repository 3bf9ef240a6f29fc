"""What does a stage get wrong when its edges do not wait for the GPU, and what does waiting cost?

    python3 tests/bench/sync_edges.py > docs/results/sync-edges-h100.md     (needs a GPU; about 100 s)

CUDA takes work into a queue and returns. In each trial one queue of known length is measured by several
stages at once, so that all see the same joules:

    GPU idle │ begin manual, synced, unsynced │ queue the work │ end unsynced │ end synced │ end manual │ idle
                                                               └ begin after, unsynced ─────────────────┘
`manual` ends after the program's own torch.cuda.synchronize: the truth. `--pretend` rehearses without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accuracy import paths
from bench.accuracy.store import Daemon

QUEUES_S = (0.2, 1.0, 5.0)
STEP_S = 0.124  # a training step of a 1B model on an H100
IDLE_S = 0.4
ABOUT = """
    In each trial all stages see one and the same queue of work (the file's head has a drawing).
    `manual` is the truth; `after-unsynced` begins right after the work was queued and ends when the GPU
    was idle for {idle} s; `after-synced` has only that idle time.
"""


class Cuda:
    """Queues bf16 products of 16384 cubed (12 ms on an H100): 5 s fit into CUDA's queue of 1,024 launches."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.name = torch.cuda.get_device_name(0)
        self._big = [torch.randn(16384, 16384, device="cuda").to(torch.bfloat16) for _ in range(3)]
        self._small = [torch.randn(4096, 4096, device="cuda").to(torch.bfloat16) for _ in range(3)]
        self._seconds = {id(kind): self._time(kind) for kind in (self._big, self._small)}

    def _time(self, kind: Any) -> float:
        self._launch(kind, 5)
        self.wait()
        began = time.perf_counter()
        self._launch(kind, 30)
        self.wait()
        return (time.perf_counter() - began) / 30

    def _launch(self, kind: Any, times: int) -> None:
        for _ in range(times):
            self._torch.mm(kind[0], kind[1], out=kind[2])

    def queue(self, seconds: float, *, fine: bool = False) -> None:
        """Put that much work into the queue. `fine`: as many short kernels, as a training step has."""
        kind = self._small if fine else self._big
        self._launch(kind, max(1, round(seconds / self._seconds[id(kind)])))

    def wait(self) -> None:
        """Until the queue is empty."""
        self._torch.cuda.synchronize()


class Pretended:
    """A queue that is a clock, for rehearsals."""

    name = "no GPU (pretended)"

    def __init__(self) -> None:
        from energyd_client import cuda

        self._until = 0.0
        cuda.synchronize = self.wait

    def queue(self, seconds: float, *, fine: bool = False) -> None:
        """Work that is done by itself."""
        self._until = max(self._until, time.monotonic()) + seconds

    def wait(self) -> bool:
        """Until the queue is empty."""
        time.sleep(max(0.0, self._until - time.monotonic()))
        return True


def trial(gpu: Any, run: Any, seconds: float, name: str) -> float:
    """One queue seen by all stages; how long queueing took, s."""
    gpu.wait()
    time.sleep(IDLE_S)
    manual = run.stage(f"{name}.manual").begin()
    synced = run.stage(f"{name}.synced", sync=True).begin()
    unsynced = run.stage(f"{name}.unsynced").begin()
    began = time.perf_counter()
    gpu.queue(seconds)
    queueing = time.perf_counter() - began
    unsynced.end()
    after = run.stage(f"{name}.after-unsynced").begin()
    synced.end()
    gpu.wait()
    manual.end()
    with run.stage(f"{name}.after-synced", sync=True):
        time.sleep(IDLE_S)
    after.end()
    return queueing


def step_times(gpu: Any, run: Any, steps: int) -> dict[str, list[float]]:
    """Seconds of one training-like step: without stages, with one that does not wait, with one that does."""

    def bare() -> None:
        gpu.queue(STEP_S, fine=True)

    def staged(sync: bool) -> Callable[[], None]:
        def step() -> None:
            with run.stage("step", sync=sync):
                gpu.queue(STEP_S, fine=True)

        return step

    found: dict[str, list[float]] = {}
    modes = {"no stage": bare, "stage": staged(False), "stage, sync=True": staged(True)}
    for _ in range(3):
        for words, step in modes.items():
            gpu.wait()
            began = time.perf_counter()
            for _ in range(steps):
                step()
            gpu.wait()
            found.setdefault(words, []).append((time.perf_counter() - began) / steps)
    return found


def waits(gpu: Any, times: int) -> dict[str, np.ndarray]:
    """How long a wait takes, s: with nothing queued, and with one step queued."""
    idle, busy = [], []
    for _ in range(times):
        gpu.wait()
        began = time.perf_counter()
        gpu.wait()
        idle.append(time.perf_counter() - began)
    for _ in range(max(2, times // 20)):
        gpu.queue(STEP_S, fine=True)
        began = time.perf_counter()
        gpu.wait()
        busy.append(time.perf_counter() - began)
    return {"nothing queued": np.array(idle), "one step of 124 ms queued": np.array(busy)}


def energies(store: Path) -> dict[str, tuple[float, float]]:
    """{stage: (J, s)} of the GPU. Raises nothing for a stage without energy: it is NaN."""
    from energyd.store.read import open_reader

    query = "SELECT stage, energy_j, (t1_ns - t0_ns) / 1e9 FROM stage_energy WHERE domain = 'gpu'"
    with open_reader(store) as reader:
        return {
            s: (float("nan") if j is None else float(j), float(t)) for s, j, t in reader.sql(query).fetchall()
        }


def table(found: dict[str, tuple[float, float]], repeats: dict[float, int]) -> list[str]:
    """A row for each queue and kind of stage."""
    lines = [
        "| queue | stage | seconds | J, median | share of the truth, median | p5 to p95 | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for seconds, times in repeats.items():
        names = [f"q{seconds:g}.{i}" for i in range(times)]
        truth = np.array([found.get(f"{n}.manual", (np.nan, 0))[0] for n in names])
        for kind in ("manual", "synced", "unsynced", "after-unsynced", "after-synced"):
            rows = np.array([found.get(f"{n}.{kind}", (np.nan, np.nan)) for n in names])
            share = rows[:, 0] / truth
            has = share[~np.isnan(share)]
            if not len(has):
                lines.append(f"| {seconds:g} s | {kind} | – | – | – | – | 0 |")
                continue
            low, high = np.percentile(has, [5, 95])
            lines.append(
                f"| {seconds:g} s | {kind} | {np.nanmedian(rows[:, 1]):.3f} | {np.nanmedian(rows[:, 0]):.1f} "
                f"| {np.median(has):.4f} | {low:.4f} to {high:.4f} | {len(has)} |"
            )
    return lines


def main() -> int:
    """Run and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretend", action="store_true", help="no GPU: a rehearsal")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--queues", default=",".join(f"{s:g}" for s in QUEUES_S), help="seconds")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="syn"))
    paths.export()
    began = time.monotonic()
    daemon = Daemon(folder, folder / "log")
    try:
        gpu: Any = Pretended() if options.pretend else Cuda()
        daemon.wait()
        import energyd_client

        run = energyd_client.run("sync-edges").begin()
        repeats = {float(s): options.repeats for s in options.queues.split(",")}
        queueing = {
            s: np.median([trial(gpu, run, s, f"q{s:g}.{i}") for i in range(n)]) for s, n in repeats.items()
        }
        steps, costs = step_times(gpu, run, max(2, options.repeats)), waits(gpu, 20 * options.repeats)
        run.end()
        energyd_client.flush(10)
        time.sleep(3)  # the last samples must follow the last stage
        found = energies(daemon.store)
    finally:
        daemon.stop()
    print("# What an edge that does not wait for the GPU gets wrong\n")
    print(f"Generated by `tests/bench/sync_edges.py` on {gpu.name} in {time.monotonic() - began:.0f} s.\n")
    print(" ".join(ABOUT.split()).format(idle=IDLE_S) + "\n")
    print("\n".join(table(found, repeats)))
    print(
        "\nQueueing itself took "
        + ", ".join(f"{1e3 * q:.1f} ms for {s:g} s" for s, q in queueing.items())
        + ".\n"
    )
    print("## What waiting costs\n\n| torch.cuda.synchronize | median, µs | p99, µs |\n|---|---|---|")
    for words, seconds in costs.items():
        print(f"| {words} | {1e6 * np.median(seconds):.1f} | {1e6 * np.percentile(seconds, 99):.1f} |")
    print("\n| one step of many short kernels | ms, three rounds | against no stage |\n|---|---|---|")
    base = np.median(steps["no stage"])
    for words, rounds in steps.items():
        text = ", ".join(f"{1e3 * s:.2f}" for s in rounds)
        print(f"| {words} | {text} | {100 * (np.median(rounds) / base - 1):+.2f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
