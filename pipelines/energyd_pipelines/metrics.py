"""What did others find of a student's quality? The result file of lm-eval, read into metrics of its run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import energyd_client as energy
from energyd_pipelines.errors import DistillError


def read_lm_eval(path: Path) -> list[tuple[str, float, int | None]]:
    """(name, value, examples or None) of each figure: `gsm8k/exact_match,strict-match`. Raises DistillError.

    `path`: the JSON that `lm_eval --output_path` writes, or its folder, of which the newest file counts.
    """
    if path.is_dir():
        files = sorted(path.rglob("results*.json"), key=lambda p: p.stat().st_mtime)
        if not files:
            raise DistillError("no results*.json of lm-eval there", where=str(path), cure="name its file")
        path = files[-1]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tasks = found["results"]
        sizes = found.get("n-samples", {})
        figures = [
            (f"{task}/{name}", float(value), _size(sizes.get(task)))
            for task, values in tasks.items()
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            and "_stderr" not in name
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DistillError(
            f"no result file of lm-eval: {type(error).__name__}: {error!s:.80}", where=str(path),
            cure="the JSON with `results` that lm_eval --output_path writes",
        ) from error  # fmt: skip
    if not figures:
        raise DistillError("no figure in this result file", where=str(path), cure="another file")
    return figures


def _size(samples: object) -> int | None:
    effective = samples.get("effective") if isinstance(samples, dict) else None
    return effective if isinstance(effective, int) else None


def add_metrics(run_id: str, path: Path) -> int:
    """Figures of an lm-eval result file to a run, which may have ended; how many."""
    figures = read_lm_eval(path)
    before = os.environ.get("ENERGYD_RUN_ID")
    os.environ["ENERGYD_RUN_ID"] = run_id  # a run is joined by its id
    try:
        with energy.run() as run:
            for name, value, n in figures:
                run.metric(name, value, n=n)
    finally:
        if before is None:
            del os.environ["ENERGYD_RUN_ID"]
        else:
            os.environ["ENERGYD_RUN_ID"] = before
    return len(figures)
