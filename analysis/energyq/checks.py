"""Was a study run so that others can compare with it? The checklist of docs/protocol.md, in code.

Each answers for the whole study; what it cannot see, as in a CSV that has no such column, has not passed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from energyq.likeness import MUST_BE_ALIKE, unlike
from energyq.starved import is_starved
from energyq.study import BASELINES, VARIANTS, Execution, Study, cells, part_of

SEEDS: Final = 3
"""Repetitions from which on a spread is worth telling: with 2, the 95 % interval is 12.7 deviations wide."""
COVERED: Final = 0.99
"""Share of a stage's time between samples below which its energy is not called measured whole."""
_NO_GPU: Final = re.compile(r"\bgpu (absent|not charged)\b")  # as run_totals.domains has it


@dataclass(frozen=True)
class Check:
    """One demand of the protocol: met or not, by whom not, and what to do."""

    id: str
    passed: bool
    text: str  # what was found, in words
    cure: str  # what to do; empty if passed


Found = tuple[str, Iterable[str]]  # what is demanded, and what fails it


def checks(study: Study, reuse: float | None) -> list[Check]:
    """All of them, in the protocol's order. `reuse`: uses assumed, where some are."""
    done = []
    for name, (check, cure) in CHECKS.items():
        demanded, fails = check(study, reuse)
        failing = list(dict.fromkeys(fails))
        text = f"{'NOT' if failing else 'ok'}: {name}, {demanded}{_but(failing)}"
        done.append(Check(name, not failing, text, cure if failing else ""))
    return done


def _but(names: list[str]) -> str:
    return (
        f", but not {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        if names
        else ""
    )


def _full_pipeline(study: Study, _: float | None) -> Found:
    def lacks(e: Execution) -> bool:
        bare = e.pipeline not in BASELINES and not any(part_of(s) == "teacher" for s in e.stages)
        return bare or e.total_j is None

    return "the energy of every stage is known, the teacher's too", (
        e.name for e in study.executions if lacks(e)
    )


def _stages(study: Study, _: float | None) -> Found:
    parts = ("prerun", "preprocess", "student", "evaluate")
    return "prerun, preprocess, student and evaluate are stages of every run", (
        f"{e.name} ({part})"
        for e in study.executions
        for part in parts
        if not any(part_of(s) == part for s in e.stages)
    )


def _alike(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for variant in study.variants():
            yield from unlike([e.facts for e in variant.executions])
        for key in MUST_BE_ALIKE:
            silent = [e for e in study.executions if key not in e.facts]
            if silent:
                yield f"{key} (not said for {len(silent)} of {len(study.executions)})"

    return "hardware, driver, domains, tokenizer and training config are told and the same", fails()


def _budget(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for e in study.executions:
            if e.stop not in VARIANTS:
                yield f"{e.name} (no stop=budget or to_target)"
        for variant in study.variants():
            if not {e.pipeline for e in variant.executions} & set(BASELINES):
                yield f"{variant.stop or 'runs without a label stop'} (no baseline)"

    return "what ends a training is told, and a baseline was stopped the same way", fails()


def _seeds(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for variant in study.variants():
            for pipeline, student, runs in cells(variant):
                if len({e.seed for e in runs}) < SEEDS:
                    yield f"{pipeline} {student}"

    return f"{SEEDS} seeds or more of each pipeline and size", fails()


def _quality(study: Study, _: float | None) -> Found:
    return "quality is known for every run, and of how many examples", (
        f"{e.name} ({'examples' if e.quality is not None else 'quality'})"
        for e in study.executions
        if e.quality is None or e.quality_n is None
    )


def _tokens(study: Study, _: float | None) -> Found:
    def counts(e: Execution) -> bool:
        return any(d.tokens for s, d in e.details.items() if part_of(s) == "student")

    return "trained tokens are counted, by a named unit", (e.name for e in study.executions if not counts(e))


def _reuse(study: Study, reuse: float | None) -> Found:
    counted = [e.uses for e in study.executions if e.uses is not None]
    told = f"counted: {max(counted)}" if counted else "not counted"
    if reuse is not None:
        return f"{told}; assumed here: {reuse:g}", ()
    if not counted:
        return "uses of the teacher's artifact are counted or assumed", ("here",)
    return told, ()


def _artifacts(study: Study, _: float | None) -> Found:
    distilled = [e for e in study.executions if e.pipeline not in BASELINES]
    bare = [e.name for e in distilled if not e.artifacts]
    cards = {a: lacking for e in distilled for a, lacking in e.cards.items()}
    silent = [f"card of {a} ({', '.join(lacking)})" for a, lacking in cards.items() if lacking]
    if not study.from_store:
        return "every run that distils names the teacher's artifact", bare
    return "every run that distils names the teacher's artifact, whose card is complete", [*bare, *silent]


def _measured(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for e in study.executions:
            domains = e.facts.get("domains")
            if domains is None:
                yield f"{e.name} (no domains told)"
            elif "simulated" in domains or "replayed" in domains:
                yield f"{e.name} ({domains})"
            if e.reported:
                yield f"{e.name} ({', '.join(sorted(e.reported))} reported)"

    return "energy is of this machine, not replayed, simulated or reported by another", fails()


def _covered(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for e in study.executions:
            work = {s: d for s, d in e.details.items() if part_of(s) in ("student", "teacher")}
            if not work or any(d.coverage is None or d.coverage < COVERED for d in work.values()):
                yield e.name

    return f"samples cover {100 * COVERED:g} % or more of teacher and training", fails()


def _doubt(study: Study, _: float | None) -> Found:
    return "every energy has its doubt", (
        e.name for e in study.executions if not e.u_stages or None in e.u_stages.values()
    )


def _starved(study: Study, _: float | None) -> Found:
    def fails() -> Iterator[str]:
        for e in study.executions:
            shares = [d.starved_share for s, d in e.details.items() if part_of(s) == "student"]
            if shares and _NO_GPU.search(e.facts.get("domains", "")):
                continue  # trained on the CPU alone: there is no GPU that could have waited
            if not shares or None in shares:
                yield f"{e.name} (not known)"
            elif any(map(is_starved, shares)):
                yield f"{e.name} (STARVED)"

    return "no training spends more than a quarter of its time near the idle floor", fails()


def _version(study: Study, _: float | None) -> Found:
    return "a commit or the hash of the whole configuration is kept", (
        e.name for e in study.executions if not e.version
    )


CHECKS: Final[dict[str, tuple[Callable[[Study, float | None], Found], str]]] = {
    "full-pipeline": (_full_pipeline, "mark every stage, the teacher's too; see `energyq explain`"),
    "stages": (_stages, "with run.stage('prerun'), 'preprocess', 'student.train', 'evaluate'"),
    "alike": (_alike, "one machine and driver; labels tokenizer=… and train_config=…"),
    "budget": (_budget, "label stop=budget or stop=to_target, on the baseline's runs too"),
    "seeds": (_seeds, "repeat with other seeds; label seed=…"),
    "quality": (_quality, "run.metric('exact_match', 0.81, n=700), or --metric NAME"),
    "tokens": (_tokens, "stage.count(label=…) in student.train"),
    "reuse": (_reuse, "run.use_artifact(…) in every run that uses one, or --reuse N"),
    "artifacts": (_artifacts, "run.artifact(name, kind=…, uri=…, sha256=…, size_bytes=…) in its stage"),
    "measured": (_measured, "energyd start with a source of this machine; make here what was reported"),
    "covered": (_covered, "`energyq 'FROM gaps'` says when and why samples are missing"),
    "doubt": (_doubt, "`energyd doctor` says which sensor states none; a CSV has u_kwh"),
    "starved": (_starved, "feed the device: more loader workers, a packed cache; an idle stage prerun.idle"),
    "version": (_version, "run from a git checkout, or label config=HASH"),
}  # fmt: skip
"""By the id that docs/protocol.md uses: the check, and what to do where it fails."""

RECOMMENDED: Final = ("full-pipeline", "reuse", "artifacts", "seeds")
"""What the paper recommends, and repetitions, without which nothing is sure."""


def shown(study: Study, done: Iterable[Check]) -> Iterator[str]:
    """Lines for people: each check, below a failed one what to do."""
    listed = list(done)
    for check in listed:
        yield check.text
        if check.cure:
            yield f"  cure: {check.cure}"
    failed = sum(not c.passed for c in listed)
    yield f"{len(listed) - failed} of {len(listed)} checks of the protocol passed for study {study.name}"
