"""What would whole studies take at the measured rates: which energies are told, and set against the poster's?

Two ways to divide the tokens, each a variant of one study (column `stop` of the table that energyq reads):

  as logged    SFT and synthetic students at the poster's budgets, KD one pass over the data, as in its log
  budget       KD and synthetic students see as many positions as SFT does

In both the teacher caches one pass, or writes as many tokens as the poster's did at our best batch;
evaluation is one pass over the test split, prerun what a piece's own took.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Final

from bench.h100 import poster
from bench.h100.figures import Kind, Value

Kinds = dict[str, Kind]
LOGGED, EQUAL = "as logged", "budget"
STOPS: Final = (LOGGED, EQUAL)
ARTIFACTS: Final = {"kd": "logits", "synthetic": "responses"}


@dataclass(frozen=True)
class Row:
    """One stage of one execution."""

    pipeline: str
    size: str
    stop: str
    stage: str
    kwh: Value


def rows(kinds: Kinds) -> Iterator[Row]:
    """Every stage of every execution of which the student's training was measured."""
    best = poster.best_generation(kinds)
    n_answers = poster.TEACHER["synthetic"][3]
    teachers = {
        "kd": ("teacher.logits", kinds.get("32b logits"), "positions", poster.PASS_POSITIONS),
        "synthetic": ("teacher.generate", best, "generated", n_answers),
    }
    for stop in STOPS:
        for size in poster.SIZES:
            for pipeline, stage in poster.STUDENTS.items():
                trained = kinds.get(f"{size} {stage.mode}")
                if trained is None or not trained.windows:
                    continue
                at = (pipeline, size, stop)
                if before := _prerun(kinds):
                    yield Row(*at, "prerun", before)
                if pipeline in teachers:
                    name, kind, unit, tokens = teachers[pipeline]
                    yield _row(at, name, kind, unit, tokens)
                yield _row(at, "student.train", trained, *tokens_of(pipeline, size, stop))
                if tested := kinds.get(f"{size} evaluate"):
                    yield _row(at, "evaluate", tested, "positions", poster.TEST_POSITIONS)


def tokens_of(pipeline: str, size: str, stop: str) -> tuple[str, float]:
    """(unit, how many) a student learns from."""
    place = poster.SIZES.index(size)
    sft = poster.STUDENTS["sft"].tokens[place] or 0.0
    if stop == EQUAL or pipeline == "sft":
        return "positions", sft
    if pipeline == "kd":
        return "label", poster.PASS_LABELS
    return "positions", poster.STUDENTS["synthetic"].tokens[place] or 0.0


def _row(at: tuple[str, str, str], stage: str, kind: Kind | None, unit: str, tokens: float) -> Row:
    return Row(*at, stage, poster.kwh(kind, unit, tokens))


def _prerun(kinds: Kinds) -> Value | None:
    """What idling, idling with a context and burning took in the students' first piece."""
    first = [
        kind.windows[0]
        for name in ("idle", "context", "burn")
        if (kind := kinds.get(f"students prerun {name}")) and kind.windows
    ]
    if not first or any(w["energy"]["total_j"] is None for w in first):
        return None
    took = [Kind("prerun", {}, [{**w, "once": 1}]).j_per("once") for w in first]
    return reduce(Value.plus, took).times(1 / poster.KWH)


def table(kinds: Kinds) -> str:
    """The CSV that `energyq breakeven|report --study` reads; doubt is what it has not in common with SFT."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(["pipeline", "student", "stop", "stage", "kwh", "u_kwh", "artifact"])
    found = list(rows(kinds))
    sft = {(r.size, r.stop): r.kwh for r in found if (r.pipeline, r.stage) == ("sft", "student.train")}
    for row in found:
        own = row.kwh.beside(sft.get((row.size, row.stop), Value(None))).half
        artifact = ARTIFACTS[row.pipeline] if row.stage.startswith("teacher") else ""
        cells = [_cell(row.kwh.mean), _cell(own), artifact]
        write([row.pipeline, row.size.upper(), row.stop, row.stage, *cells])
    return out.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


@dataclass(frozen=True)
class Sides:
    """What one pipeline takes beside SFT, kWh."""

    sft: Value
    student: Value
    teacher: Value
    saving: Value  # of the student's training
    times: Value  # teacher and student, as a multiple of SFT's training


def sides(kinds: Kinds, pipeline: str, size: str, stop: str) -> Sides | None:
    """Both students and the teacher; None where one of them was not measured."""
    found = {
        (r.pipeline, r.stage.partition(".")[0]): r.kwh
        for r in rows(kinds)
        if (r.size, r.stop) == (size, stop) and r.pipeline in ("sft", pipeline)
    }
    sft, student = found.get(("sft", "student")), found.get((pipeline, "student"))
    teacher = found.get((pipeline, "teacher"))
    if sft is None or student is None or teacher is None or None in (sft.mean, student.mean, teacher.mean):
        return None
    saving, share = sft.less(student), student.over(sft)
    if poster.STUDENTS[pipeline].mode == poster.STUDENTS["sft"].mode:
        # The same work on fewer positions: one figure times their numbers, not two independent ones.
        (_, all_of), (_, some) = (tokens_of(p, size, stop) for p in ("sft", pipeline))
        saving, share = sft.times(1 - some / all_of), Value(some / all_of, 0.0)
    return Sides(sft, student, teacher, saving, share.plus(teacher.over(sft)))
