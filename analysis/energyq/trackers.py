"""How do a run's joules get beside its losses, in Weights & Biases or MLflow?

    with energy.run("kd-1b") as run: ...
    log_mlflow(run.run_id)          # into the active MLflow run
    log_wandb(run.run_id)           # into the active W&B run

After the run, since a stage's energy is known once a sample has passed its end. Trackers' own system metrics
are samples every 10 s or so; what is logged here is what `energyq stages` shows. An energy that is not known
is left out, and `energy/reason` says why; it is never logged as 0.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final

from energyd.store.read import ReadError, default_store, open_reader

MAX_PATHS: Final = 100
"""Stages by path that become metrics: a run with one stage a step would flood its tracker."""

_RUN: Final = "FROM run_totals WHERE run_id = $run_id"
_STAGES: Final = "FROM stage_totals WHERE run_id = $run_id ORDER BY t0_ns, stage_id"
_PENDING: Final = "SELECT count(*) FROM stages WHERE run_id = $run_id AND state <> 'final'"
_SUMS: Final = {"joules": "total_j", "gpu_joules": "gpu_j", "cpu_joules": "cpu_j", "seconds": "seconds"}

Row = dict[str, Any]


def figures(
    run_id: str, *, store: Path | None = None, timeout_s: float = 15.0
) -> tuple[dict[str, float], dict[str, str]]:
    """What a run cost, as (metrics, texts) with names such as `energy/train/joules`.

    Stages of the same path are added up; a sum that lacks one of its parts is left out. Waits up to
    `timeout_s` seconds until every stage's energy is known. Raises ReadError.
    """
    run, stages = _read(run_id, store or default_store(), timeout_s)
    metrics: dict[str, float] = {}
    for name, column in _SUMS.items():
        if run[column] is not None:
            metrics[f"energy/{name}"] = float(run[column])
    for key, name in (("u_random_j", "u_random_joules"), ("u_total_j", "u_total_joules"), ("coverage",) * 2):
        if run[key] is not None:
            metrics[f"energy/{name}"] = float(run[key])
    by_path: dict[str, list[Row]] = {}
    for row in stages:
        by_path.setdefault(re.sub(r"[^\w ./:-]", "_", row["path"]), []).append(row)
    for path, rows in list(by_path.items())[:MAX_PATHS]:
        metrics |= {f"energy/{path}/{name}": value for name, value in _summed(rows).items()}
    texts = {"energy/run_id": run_id, "energy/sources": run["sources"], "energy/domains": run["domains"]}
    texts |= {"energy/reason": run["reason"], "energy/flags": ", ".join(run["flags"] or [])}
    if len(by_path) > MAX_PATHS:
        texts["energy/left_out"] = f"{len(by_path) - MAX_PATHS} stages by path; energyq has them all"
    return metrics, {name: text for name, text in texts.items() if text}


def log_mlflow(run_id: str, *, store: Path | None = None, timeout_s: float = 15.0) -> dict[str, float]:
    """Log `figures` into the active MLflow run, as metrics and tags; returns the metrics."""
    import mlflow

    metrics, texts = figures(run_id, store=store, timeout_s=timeout_s)
    mlflow.log_metrics(metrics)
    mlflow.set_tags({name.replace("/", "."): text for name, text in texts.items()})
    return metrics


def log_wandb(run_id: str, *, store: Path | None = None, timeout_s: float = 15.0) -> dict[str, float]:
    """Log `figures` into the summary and config of the active W&B run; returns the metrics."""
    import wandb

    if wandb.run is None:
        raise RuntimeError("no W&B run is active\n  cure: log before wandb.finish()")
    metrics, texts = figures(run_id, store=store, timeout_s=timeout_s)
    wandb.run.summary.update(metrics)
    wandb.run.config.update(texts, allow_val_change=True)
    return metrics


def _read(run_id: str, store: Path, timeout_s: float) -> tuple[Row, list[Row]]:
    params = {"run_id": run_id}
    deadline = time.monotonic() + timeout_s
    while True:
        with open_reader(store) as reader:
            found = reader.sql(_RUN, params).dicts()
            pending = reader.sql(_PENDING, params).fetchall()[0][0]
            late = time.monotonic() > deadline
            if found and (not pending or late):
                return found[0], reader.sql(_STAGES, params).dicts()
        if late:
            raise ReadError(f"no run {run_id} in {store}\n  cure: `energyq runs` lists them")
        time.sleep(0.5)


def _summed(rows: list[Row]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, column in _SUMS.items():
        parts = [row[column] for row in rows if row[column] is not None]
        if len(parts) == len(rows):
            found[name] = float(sum(parts))
    if "joules" in found and found["seconds"] > 0:
        found["mean_watts"] = found["joules"] / found["seconds"]
    units = {row["token_unit"] for row in rows}
    (unit,) = units if len(units) == 1 else (None,)
    tokens = sum(row["tokens"] or 0 for row in rows)
    if unit and tokens and "joules" in found:
        found[f"joules_per_{re.sub(r'[^A-Za-z0-9_]', '_', unit)}"] = found["joules"] / float(tokens)
    return found
