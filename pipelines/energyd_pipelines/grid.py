"""Which cells does a study have, in which order do they run, and what came out?"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from energyd_pipelines import models
from energyd_pipelines import processes as proc
from energyd_pipelines.artifacts.registry import Registry
from energyd_pipelines.cell import Cell
from energyd_pipelines.config import Config
from energyd_pipelines.data import tokenizer_of
from energyd_pipelines.errors import DistillError
from energyd_pipelines.identity import must_share_tokens
from energyd_pipelines.metrics import add_metrics
from energyd_pipelines.progress import Progress
from energyd_pipelines.starved import STARVED_ABOVE
from energyd_pipelines.study_folder import alone_in


def run_grid(
    config: Config, preset: str, folder: Path, *, minutes: float | None = None
) -> list[dict[str, Any]]:
    """Run every cell that is not finished; the results of all that are then. Raises DistillError.

    With `minutes` no cell but the first begins that would end later, were it to take as long as the longest
    before it.
    """
    here = proc.begin(config.device, config.threads)
    say = Progress(quiet=not here.first)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    longest = 0.0
    try:
        folder = here.same_path(folder)
        with alone_in(folder) if here.first else nullcontext():
            cells = list(cells_of(config, preset, folder, here, say))
            if any(cell.result is None for cell in cells):
                models.warm_up()
            for cell in cells:
                began = time.monotonic()
                if longest and here.agree(began + longest > deadline):  # the first always begins
                    break
                if cell.result is None:
                    _run(cell)
                here.wait()
                longest = max(longest, time.monotonic() - began)
            results = [r for c in cells if (r := c.result) is not None]
        for line in summary(results) if results else ():
            say.done(line)
        if left := [f"{c.name} seed {c.seed}" for c in cells if c.result is None]:
            say.done(f"left for --resume: {', '.join(left)}")
        return results
    finally:
        proc.end(here)


def n_cells(config: Config) -> int:
    """How many cells a study has."""
    return len(config.seeds) * len(config.students) * len(config.pipelines)


def _run(cell: Cell) -> None:
    from energyd_pipelines.recipes import RECIPES

    began = time.monotonic()
    try:
        quality = RECIPES[cell.pipeline](cell)
    except RuntimeError as error:
        said = str(error).strip().split("\n", 1)[0]
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in said:
            raise
        raise DistillError(
            f"it does not fit in the memory of {cell.processes.device}: {said:.120}", where=cell.name,
            cure="a smaller train.micro_batch, evaluate.batch, kd.batch or student",
        ) from error  # fmt: skip
    cell.trained = None
    if cell.config.evaluate.lm_eval and cell.processes.first:
        _add_lm_eval(cell)
    share = (cell.result or {}).get("starved_share")
    starved = f"  STARVED: {share:.0%} of student.train near idle" if share and share > STARVED_ABOVE else ""
    spared = "".join(f"  reused {s['stage']}" for s in cell.saved)
    cell.say.done(
        f"{cell.name:<14} seed {cell.seed}  exact match {quality.exact_match:.3f}  nll {quality.nll:.3f}"
        f"  {time.monotonic() - began:5.1f} s{spared}{starved}"
    )


def _add_lm_eval(cell: Cell) -> None:
    """Figures of the result file that the configuration names, to the run that just ended."""
    names = {"student": cell.student.name, "pipeline": cell.pipeline, "seed": cell.seed}
    result, path = cell.result, Path(cell.config.evaluate.lm_eval.format(**names))
    assert result is not None
    if not path.exists():  # lm-eval asks the student, which has only just been written
        cell.say.done(f"no {path} yet; when there is: distill metrics {cell.folder} {path}")
        return
    add_metrics(result["run_ids"][-1], path)


def cells_of(
    config: Config, preset: str, folder: Path, here: proc.Processes, say: Progress
) -> Iterator[Cell]:
    """Seed by seed, size by size, pipeline by pipeline: an interrupted study has whole comparisons."""
    tokenizer = tokenizer_of(config.data, config.students[0].ref)
    for student in config.students:
        must_share_tokens(student, "student", tokenizer.hash)
    if config.teacher is not None and set(config.pipelines) != {"sft"}:
        must_share_tokens(config.teacher, "teacher", tokenizer.hash)
    if "kd" in config.pipelines and config.kd.k > tokenizer.vocab_size:
        raise DistillError(
            f"kd.k is {config.kd.k}, the vocabulary has {tokenizer.vocab_size} tokens",
            cure="a smaller kd.k",
            code=2,
        )
    registry = Registry(config.reuse.root)
    if os.environ.get("ENERGYD_RUN_ID") and here.first:
        say.done("ENERGYD_RUN_ID is set: all cells join that run, and no study can tell them apart")
    for seed in config.seeds:
        for student in config.students:
            for pipeline in config.pipelines:
                where = folder / f"{pipeline}-{student.name}-{seed}"
                yield Cell(config, preset, pipeline, student, seed, where, tokenizer, registry, here, say)


def summary(results: list[dict[str, Any]]) -> Iterator[str]:
    """Mean exact match by pipeline and size, and what reuse spared."""
    pipelines = list(dict.fromkeys(r["pipeline"] for r in results))
    students = list(dict.fromkeys(r["student"] for r in results))
    yield ""
    yield "exact match   " + "".join(f"{s:>10}" for s in students)
    for pipeline in pipelines:
        row = f"{pipeline:<14}"
        for student in students:
            of = [r["exact_match"] for r in results if (r["pipeline"], r["student"]) == (pipeline, student)]
            row += f"{fmean(of):>10.3f}" if of else f"{'':>10}"
        yield row
    saved = [s for r in results for s in r["saved"]]
    if saved:
        yield ""
    for stage in dict.fromkeys(s["stage"] for s in saved):
        of_stage = [s for s in saved if s["stage"] == stage]
        known = [s["total_j"] for s in of_stage if s["total_j"] is not None]
        worth = (
            f"{sum(known):.4g} J ({of_stage[0]['origin']})"
            if len(known) == len(of_stage)
            else "unknown energy"
        )
        yield f"reused {stage}: {len(of_stage)} × not made again, which saved {worth}"
