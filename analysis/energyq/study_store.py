"""What does a store know of a study: runs labelled `pipeline` and `student`, and the artifacts they share?

A run that used an artifact bears the energy of the stage that made it, wherever that ran, and of the attempts
at it that failed: so the producer and those who reuse show the same teacher energy, and dividing it by the
number of uses is left to the question. Attempts of one run (`energyq.attempts`) are one execution.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from energyq.attempts import Chain, chains_of, label
from energyq.find import Refused, question
from energyq.likeness import MUST_BE_ALIKE, facts_of, refuse_or_note, unlike
from energyq.starved import add_starved
from energyq.study import BASELINES, Details, Execution, Study, added

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
METRIC: Final = "exact_match"
CARD: Final = ("name", "kind", "uri", "sha256", "size_bytes", "stage_id")
"""What an artifact's card must say, columns of `artifacts`; what it cost follows from its stage."""
_LABELS: Final = ("preset", "teacher", "dataset", "tokenizer", "train_config", "config")
_OF_TEACHER: Final = ("logits", "synthetic", "logit_cache", "responses")
"""Kinds that a teacher makes, whatever its stage was called."""


def read_store(reader: Reader, *, metric: str | None = None) -> Study:
    """Every completed run with the labels `pipeline` and `student`. Raises Refused if there is none."""
    rows = reader.sql(question("study_runs"), {"metric": metric}).dicts()
    chains = chains_of(rows)
    done = [c for c in chains if c.is_done]
    if not done:
        raise Refused(
            f"{reader.store} holds no completed run with the labels pipeline and student\n"
            '  cure: energy.run("kd-1b", pipeline="kd", student="1B"), or --study poster'
        )
    ids = [run_id for c in done for run_id in c.run_ids]
    known = _Known(reader, ids, {run_id: c for c in chains for run_id in c.run_ids})
    study = Study(
        str(reader.store), [_execution(c, known) for c in done], metric=metric or METRIC, from_store=True
    )
    left = [r for c in chains if not c.is_done for r in c.runs]
    study.notes = [f"left out: {r['name']} ({r['run_id']}), {r['status']}" for r in left]
    study.notes += [
        f"{e.name}: {e.attempts} attempts, all of them paid for" for e in study.executions if e.attempts > 1
    ]
    study.notes += sorted(known.notes)
    study.devices = reader.sql(question("environment"), {"runs": ids}).dicts()
    study.about = _about([r for c in done for r in c.runs])
    return study


class _Known:
    """What was asked of the store, once for all executions."""

    def __init__(self, reader: Reader, run_ids: list[str], chains: Mapping[str, Chain]) -> None:
        self.chains = chains
        self.notes: set[str] = set()
        self.artifacts: dict[str, list[_Made]] = {}
        for row in reader.sql(question("study_artifacts"), {"runs": run_ids}).dicts():
            self.artifacts.setdefault(row["run_id"], []).append(_Made(row))
        elsewhere = {s for of_run in self.artifacts.values() for made in of_run for s in made.stage_ids}
        self.making = {m.row["stage_id"] for of_run in self.artifacts.values() for m in of_run}
        makers = {
            c for of_run in self.artifacts.values() for m in of_run if (c := chains.get(m.made_by or ""))
        }
        asked = {*run_ids, *(run_id for c in makers for run_id in c.run_ids)}
        rows = reader.sql(
            question("study_stages"), {"runs": sorted(asked), "stages": sorted(elsewhere)}
        ).dicts()
        add_starved(reader, rows)
        self.bills: dict[str, list[Row]] = {}  # by stage: its own line, and those of its ranks' devices
        for row in rows:
            self.bills.setdefault(row["owner_id"], []).append(row)
        self.tops: dict[str, list[Row]] = {}
        for row in rows:
            if row["depth"] == 0:  # a nested one that made an artifact is in its parent's energy
                self.tops.setdefault(row["run_id"], []).append(row)
        self.facts = facts_of(reader, run_ids)


@dataclass(frozen=True)
class _Made:
    """An artifact as one run made or used it."""

    row: Row

    @property
    def made_by(self) -> str | None:
        """The run, where this store knows it."""
        found: str | None = self.row["made_by"]
        return found

    @property
    def is_teachers(self) -> bool:
        """Whether making it was the teacher's work: not a dataset, nor a student."""
        return str(self.row["stage"] or "").lower().startswith("teacher") or self.row["kind"] in _OF_TEACHER

    @property
    def stage_ids(self) -> list[str]:
        """Of the stage that made it, and of those that failed before."""
        return [s for s in (self.row["stage_id"], *(self.row["failed_stages"] or ())) if s]

    @property
    def reported_j(self) -> float | None:
        """What its maker says that it cost, J: of an artifact without a stage here."""
        return self.reported["total_j"]

    @property
    def reported(self) -> dict[str, float | None]:
        """`reported_j`, its doubt and its domains, as a row of stages has them."""
        attrs = json.loads(self.row["attrs"] or "{}")
        said = {key: attrs.get(key) for key in ("total_j", "u_random_j", "gpu_j", "cpu_j")}
        return {key: float(v) if isinstance(v, int | float) else None for key, v in said.items()}

    @property
    def is_made_elsewhere(self) -> bool:
        """Whether the run only told of it, so that what making it cost is not in that run."""
        return bool(json.loads(self.row["attrs"] or "{}").get("origin") == "reported")


def _execution(chain: Chain, known: _Known) -> Execution:
    last = chain.runs[-1]
    execution = Execution(
        str(label(last, "pipeline")), str(label(last, "student")), _text(label(last, "seed")), last["run_id"],
        _text(label(last, "stop")), quality=last["quality"], quality_n=last["quality_n"],
        version=_text(label(last, "config")) or last["git_commit"], attempts=len(chain.runs),
    )  # fmt: skip
    for key in MUST_BE_ALIKE:
        if values := sorted({f[key] for r in chain.run_ids if key in (f := known.facts.get(r, {}))}):
            execution.facts[key] = " / ".join(values)
    for run_id in chain.run_ids:
        for stage in known.tops.get(run_id, []):
            _add(execution, stage["stage"], stage)
    of_chain = {m.row["artifact_id"]: m for r in chain.run_ids for m in known.artifacts.get(r, [])}
    for artifact_id, made in of_chain.items():
        if made.made_by is None:
            _unknown_artifact(execution, artifact_id, known)
        elif made.is_teachers:
            execution.artifacts |= {artifact_id}
            execution.uses = max(execution.uses or 0, made.row["uses"])
            _bear(execution, made, chain, known)
            _look_at_card(execution, artifact_id, made, known)
    return execution


def _bear(execution: Execution, made: _Made, chain: Chain, known: _Known) -> None:
    """Add what making an artifact cost, unless it was made in this execution and is in there already."""
    name = made.row["stage"] or f"teacher.{made.row['kind']}"
    ids = dict.fromkeys(made.stage_ids)
    maker = None if made.is_made_elsewhere else known.chains.get(made.made_by or "")
    for run_id in maker.run_ids if maker else ():  # attempts of the maker at it, of which nothing came
        ids |= dict.fromkeys(
            s["owner_id"]
            for s in known.tops.get(run_id, [])
            if s["stage"] == name and s["owner_id"] not in known.making
            if s["status"] != "ok" or run_id != made.made_by
        )
    elsewhere = made.is_made_elsewhere or made.made_by not in chain.run_ids
    if not made.stage_ids and (made.reported_j is not None or elsewhere):
        known.notes.add(
            f"REPORTED, not measured here: what {made.row['name']} cost to make"
            if made.reported_j is not None
            else f"not known: what {made.row['name']} cost to make; it was made where nobody measured"
        )
        _add(execution, name, made.reported)
        if made.reported_j is not None:
            execution.reported |= {name}
    for stage_id in ids:
        for stage in known.bills.get(stage_id, [{"run_id": None, "total_j": None}]):
            if stage["run_id"] not in chain.run_ids:
                _add(execution, name, stage)


def _unknown_artifact(execution: Execution, artifact_id: str, known: _Known) -> None:
    """One that was used and that no run of this store made: its teacher's energy is missing, not 0."""
    if execution.pipeline not in BASELINES and not any(s.startswith("teacher") for s in execution.stages):
        execution.stages["teacher"], execution.u_stages["teacher"] = None, None
        known.notes.add(f"artifact {artifact_id} was made elsewhere: what it cost is not in this store")


def _look_at_card(execution: Execution, artifact_id: str, made: _Made, known: _Known) -> None:
    """Note what the card of an artifact lacks."""
    must_say = [c for c in CARD if c != "stage_id" or not made.is_made_elsewhere]
    lacking = [column for column in must_say if made.row[column] is None]
    bills = [known.bills.get(s, [{"total_j": None}]) for s in made.stage_ids]
    costs = [row["total_j"] for bill in bills for row in bill] or [made.reported_j]
    execution.cards[artifact_id] = lacking + ["energy"] * (None in costs)


def _add(execution: Execution, stage: str, row: Row) -> None:
    """Add one stage's energy to what its name has cost so far; unknown stays unknown."""
    total, u_total = row["total_j"], row.get("u_random_j")
    details = Details(
        row.get("gpu_j"), row.get("cpu_j"), row.get("estimated_j"), row.get("tokens"), row.get("token_unit"),
        row.get("coverage"), row.get("starved_share"),
    )  # fmt: skip
    if stage in execution.stages:
        total = added([execution.stages[stage], total])
        so_far = execution.u_stages[stage]
        u_total = None if so_far is None or u_total is None else (so_far**2 + u_total**2) ** 0.5
        details = _both(execution.details[stage], details)
    execution.stages[stage], execution.u_stages[stage] = total, u_total
    execution.details[stage] = details


def _both(a: Details, b: Details) -> Details:
    """Two stages of one name as one. A domain that one of them lacks is that of the other."""
    return Details(
        _some([a.gpu_j, b.gpu_j]), _some([a.cpu_j, b.cpu_j]), _some([a.estimated_j, b.estimated_j]),
        _tokens(a, b), a.token_unit or b.token_unit,
        min((c for c in (a.coverage, b.coverage) if c is not None), default=None),
        max((s for s in (a.starved_share, b.starved_share) if s is not None), default=None),
    )  # fmt: skip


def _some(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _tokens(a: Details, b: Details) -> int | None:
    known = [d.tokens for d in (a, b) if d.tokens is not None]
    mixed = a.token_unit and b.token_unit and a.token_unit != b.token_unit
    return None if mixed or not known else sum(known)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _about(runs: Iterable[Row]) -> list[str]:
    """Commits and labels that tell what was run, with all their values."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        if run["git_commit"]:
            found.setdefault("commit", {})[run["git_commit"]] = None
        env = json.loads(run["env"] or "{}")
        said = {k: label(run, k) for k in _LABELS} | {k: env.get(k) for k in ("python", "torch", "cuda")}
        for key, value in said.items():
            if value is not None:
                found.setdefault(key, {})[str(value)] = None
    return [
        f"{key}: {', '.join(list(values)[:6])}{' …' if len(values) > 6 else ''}"
        for key, values in found.items()
    ]


def must_be_alike(study: Study, *, allow_mixed: bool) -> None:
    """Refuse what the paper forbids, or note that it was allowed. Raises Refused.

    A training config holds what stops it, so that one is looked at in each variant by itself.
    """
    found = unlike([e.facts for e in study.executions], [k for k in MUST_BE_ALIKE if k != "train_config"])
    for variant in study.variants():
        found += unlike([e.facts for e in variant.executions], ["train_config"])
    study.notes += refuse_or_note(list(dict.fromkeys(found)), allow_mixed=allow_mixed)
