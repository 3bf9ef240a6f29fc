"""What does a store know of a study: runs labelled `pipeline` and `student`, and the artifacts they share?

A run that used an artifact bears the energy of the stage that made it, wherever that ran: so the producer and
those who reuse show the same teacher energy, and dividing it by the number of uses is left to the question.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from energyq.find import Refused, question
from energyq.study import Execution, Study

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
MUST_BE_ALIKE = ("tokenizer", "train_config")
"""Labels that the paper wants equal in all runs of a study, beside hardware, driver and domains."""


def read_store(reader: Reader, *, metric: str | None = None) -> Study:
    """Every completed run with the labels `pipeline` and `student`. Raises Refused if there is none."""
    rows = reader.sql(question("study_runs"), {"metric": metric}).dicts()
    done = [r for r in rows if r["status"] == "ok"]
    if not done:
        raise Refused(
            f"{reader.store} holds no completed run with the labels pipeline and student\n"
            '  cure: energy.run("kd-1b", pipeline="kd", student="1B"), or --study poster'
        )
    ids = [r["run_id"] for r in done]
    stages = _by_run(reader.sql(question("study_stages"), {"runs": ids}).dicts())
    artifacts = _by_run(reader.sql(question("study_artifacts"), {"runs": ids}).dicts())
    notes = [f"left out: {r['name']} ({r['run_id']}), {r['status']}" for r in rows if r["status"] != "ok"]
    executions = []
    for run in done:
        execution = _execution(run)
        for stage in stages.get(run["run_id"], []):
            _add(execution, stage["stage"], stage)
        for made in artifacts.get(run["run_id"], []):
            execution.artifacts |= {made["artifact_id"]}
            execution.uses = max(execution.uses or 0, made["uses"])
            if made["made_by"] != run["run_id"]:
                _add(execution, made["stage"] or f"teacher.{made['kind']}", made)
        executions.append(execution)
    for device in reader.sql(question("study_devices"), {"runs": ids}).dicts():
        for execution in executions:
            if execution.run_id == device["run_id"]:
                execution.facts["hardware"] = device["hardware"]
                execution.facts["driver"] = device["driver"]
    return Study(str(reader.store), executions, notes)


def _execution(run: Row) -> Execution:
    labels: dict[str, Any] = json.loads(run["labels"] or "{}")
    seed, stop = labels.get("seed"), labels.get("stop")
    execution = Execution(
        str(labels["pipeline"]), str(labels["student"]), None if seed is None else str(seed), run["run_id"],
        None if stop is None else str(stop), quality=run["quality"], quality_n=run["quality_n"],
    )  # fmt: skip
    execution.facts = {key: str(labels[key]) for key in MUST_BE_ALIKE if labels.get(key) is not None}
    if run["domains"]:
        execution.facts["domains"] = "; ".join(sorted(run["domains"]))
    return execution


def _add(execution: Execution, stage: str, row: Row) -> None:
    """Add one stage's energy to what its name has cost so far; unknown stays unknown."""
    first = stage not in execution.stages
    so_far, u_so_far = execution.stages.get(stage), execution.u_stages.get(stage)
    total, u_total = row["total_j"], row["u_random_j"]
    if not first:
        total = None if so_far is None or total is None else so_far + total
        u_total = None if u_so_far is None or u_total is None else (u_so_far**2 + u_total**2) ** 0.5
    execution.stages[stage], execution.u_stages[stage] = total, u_total


def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["run_id"], []).append(row)
    return found


def unlike(study: Study) -> list[str]:
    """In which facts executions of a study differ that must be alike to be compared: `driver: 550 / 570`."""
    found = []
    for key in ("hardware", "driver", "domains", *MUST_BE_ALIKE):
        values = sorted({e.facts[key] for e in study.executions if key in e.facts})
        if len(values) > 1:
            found.append(f"{key}: {' / '.join(values)}")
    return found


def must_be_alike(study: Study, *, allow_mixed: bool) -> None:
    """Refuse what the paper forbids, or note that it was allowed. Raises Refused."""
    found = unlike(study)
    if found and not allow_mixed:
        raise Refused(
            f"these runs are not alike: {'; '.join(found)}\n"
            "  cure: a store with one set-up, or --allow-mixed, which the answer then says"
        )
    study.notes += [f"MIXED, {line}" for line in found]
