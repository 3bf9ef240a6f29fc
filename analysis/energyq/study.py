"""Which executions does a study compare, and what did each part of each cost?

A study is runs of a store (`energyq.study_store`) or a CSV table, here. Its equation is the paper's:
E_total = E_prerun + E_preprocess + E_teacher + E_student + E_evaluate, plus whatever else a run did.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from energyq.find import NotFound, Refused

J_PER_KWH: Final = 3.6e6
PARTS: Final = ("prerun", "preprocess", "teacher", "student", "evaluate", "other")
BASELINES: Final = ("sft", "baseline")
"""Names of the pipeline without a teacher, the first that a study has."""
_COLUMNS: Final = ("pipeline", "student", "stage", "kwh")
_OPTIONAL: Final = ("u_kwh", "quality", "seed", "artifact", "stop")


@dataclass
class Execution:
    """One pipeline for one student, once. Energies in J; None: not known."""

    pipeline: str
    student: str
    seed: str | None = None
    run_id: str | None = None
    stop: str | None = None  # budget, to_target …: what ended the training
    stages: dict[str, float | None] = field(default_factory=dict)  # by name, teacher's included
    u_stages: dict[str, float | None] = field(default_factory=dict)  # random doubt, k = 2
    quality: float | None = None
    quality_n: int | None = None  # examples behind it
    artifacts: frozenset[str] = frozenset()  # of the teacher, made or used
    uses: int | None = None  # completed runs that used the artifact, where that was counted
    facts: dict[str, str] = field(default_factory=dict)  # hardware, driver …: must be alike to compare

    def part(self, name: str) -> float | None:
        """Energy of one part of the equation, J; 0 where the pipeline has no such stage."""
        return added(j for stage, j in self.stages.items() if part_of(stage) == name)

    @property
    def total_j(self) -> float | None:
        """With the whole teacher."""
        return added(self.stages.values())


@dataclass
class Study:
    """Executions and where they are from."""

    name: str
    executions: list[Execution]
    notes: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        """The pipeline without a teacher. Raises Refused if there is none."""
        have = {e.pipeline for e in self.executions}
        for name in BASELINES:
            if name in have:
                return name
        raise Refused(
            f"study {self.name} has no baseline among its pipelines {', '.join(sorted(have))}\n"
            f"  cure: label the runs without a teacher pipeline={BASELINES[0]}"
        )

    def students(self) -> list[str]:
        """Sizes, smallest first where they are numbers such as 1B."""
        return sorted({e.student for e in self.executions}, key=size_order)

    def pipelines(self) -> list[str]:
        """The baseline first, where there is one."""
        return sorted({e.pipeline for e in self.executions}, key=lambda p: (p not in BASELINES, p))

    def cell(self, pipeline: str, student: str) -> list[Execution]:
        """All repetitions of one pipeline for one student."""
        return [e for e in self.executions if (e.pipeline, e.student) == (pipeline, student)]


def part_of(stage: str) -> str:
    """The part of the equation that a stage belongs to, by the first word of its name."""
    first = re.split(r"[/.]", stage, maxsplit=1)[0].lower()
    return {"eval": "evaluate", "evaluation": "evaluate", "train": "student"}.get(
        first, first if first in PARTS else "other"
    )


def size_order(student: str) -> tuple[float, str]:
    """Sorts 1B before 13B and S, M, L as sizes of clothes; other names by the alphabet."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}
    number, unit = student[:-1], student[-1:].upper()
    if unit in scale and number.replace(".", "", 1).isdigit():
        return float(number) * scale[unit], student
    return float({"XS": 0, "S": 1, "M": 2, "L": 3, "XL": 4}.get(student.upper(), 5)), student


def read_csv(word: str) -> Study:
    """The study of a CSV file, or one that is shipped (`poster`). Raises NotFound, Refused."""
    shipped = files("energyq").joinpath("studies", f"{word}.csv")
    if word.isidentifier() and shipped.is_file():
        return _parse(word, shipped.read_text(encoding="utf-8").splitlines())
    path = Path(word)
    if path.suffix.lower() != ".csv":
        raise NotFound(
            f"no study is called {word!r}\n  cure: one of {', '.join(shipped_names())}, or FILE.csv"
        )
    try:
        return _parse(path.stem, path.read_text(encoding="utf-8-sig").splitlines(), str(path))
    except FileNotFoundError as error:
        raise NotFound(f"no file {word}\n  cure: a CSV with columns {', '.join(_COLUMNS)}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{word} is no text in UTF-8\n  cure: save it as CSV, UTF-8") from error


def shipped_names() -> list[str]:
    """Studies that come with energyq."""
    return sorted(f.name.removesuffix(".csv") for f in files("energyq").joinpath("studies").iterdir()
                  if f.name.endswith(".csv"))  # fmt: skip


def _parse(name: str, lines: list[str], where: str | None = None) -> Study:
    where = where or name
    rows = csv.DictReader(lines, skipinitialspace=True)
    have = [c.strip() for c in rows.fieldnames or ()]
    lacking = [c for c in _COLUMNS if c not in have]
    unknown = [c for c in have if c not in _COLUMNS + _OPTIONAL]
    if lacking or unknown:
        what = f"lacks the column {lacking[0]}" if lacking else f"has an unknown column {unknown[0]}"
        raise Refused(
            f"{where} {what}\n  cure: columns {', '.join(_COLUMNS)} and, if wanted, {', '.join(_OPTIONAL)}"
        )
    found: dict[tuple[str, ...], Execution] = {}
    for row in rows:
        at = f"{where}, line {rows.line_num}"
        if None in row or None in row.values():
            few = "more" if None in row else "fewer"
            raise Refused(f"{at}: has {few} cells than columns\n  cure: one value a column")
        pipeline, student, stage = (row[c].strip() for c in ("pipeline", "student", "stage"))
        if not (pipeline and student and stage):
            raise Refused(f"{at}: pipeline, student or stage is empty\n  cure: fill it in")
        seed, stop = ((row.get(c) or "").strip() or None for c in ("seed", "stop"))
        key = (pipeline, student, seed or "", stop or "")
        run = found.setdefault(key, Execution(pipeline, student, seed, stop=stop))
        if stage in run.stages:
            raise Refused(
                f"{at}: {stage} of {pipeline} {student} is there twice\n"
                "  cure: repetitions get a column `seed`"
            )
        run.stages[stage] = _number(row, "kwh", at, J_PER_KWH)
        run.u_stages[stage] = _number(row, "u_kwh", at, J_PER_KWH)
        quality = _number(row, "quality", at, signed=True)
        run.quality = quality if quality is not None else run.quality
        if artifact := (row.get("artifact") or "").strip():
            run.artifacts |= {artifact}
    if not found:
        raise Refused(f"{where} has no rows\n  cure: one row a stage")
    return Study(name, list(found.values()))


def _number(
    row: dict[str, str], column: str, at: str, scale: float = 1.0, *, signed: bool = False
) -> float | None:
    """A cell as number; None where it is empty: not known."""
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and not signed):
        raise Refused(
            f"{at}: {column} is {text!r}, no number that fits\n  cure: a number, or empty for unknown"
        )
    return value * scale


def added(values: Iterable[float | None]) -> float | None:
    """The sum; None if a part is not known."""
    listed = list(values)
    return None if None in listed else sum(v for v in listed if v is not None)


def cells(study: Study) -> Iterator[tuple[str, str, list[Execution]]]:
    """(pipeline, student, its repetitions), sizes within pipelines."""
    for pipeline in study.pipelines():
        for student in study.students():
            runs = study.cell(pipeline, student)
            if runs:
                yield pipeline, student, runs
