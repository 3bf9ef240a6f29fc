"""Which executions does a study compare, and what did each part of each cost?

A study is runs of a store (`energyq.study_store`) or a CSV (`energyq.study_csv`). The paper's equation:
E_total = E_prerun + E_preprocess + E_teacher + E_student + E_evaluate, plus whatever else a run did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from energyq.find import Refused

J_PER_KWH: Final = 3.6e6
PARTS: Final = ("prerun", "preprocess", "teacher", "student", "evaluate", "other")
BASELINES: Final = ("sft", "baseline")
"""Names of the pipeline without a teacher, the first that a study has."""


MIXED: Final = "MIXED, "
"""How a note begins that says in what runs differ which were compared all the same."""

VARIANTS: Final = {"budget": "equal budget", "to_target": "to target"}
"""What a label `stop` is called: trainings that end after equal tokens or steps, or at an equal quality."""


@dataclass
class Details:
    """What a store knows of a stage beside its energy. J; None: not known."""

    gpu_j: float | None = None
    cpu_j: float | None = None
    estimated_j: float | None = None  # of the energy, what is no measurement
    tokens: int | None = None
    token_unit: str | None = None
    coverage: float | None = None  # the smallest of those added up
    starved_share: float | None = None  # of its time near the idle floor, the largest of those added up


@dataclass
class Execution:
    """One pipeline for one student, once, with all its attempts. Energies in J; None: not known."""

    pipeline: str
    student: str
    seed: str | None = None
    run_id: str | None = None  # of the attempt that came to its end
    stop: str | None = None  # budget, to_target …: what ended the training
    stages: dict[str, float | None] = field(default_factory=dict)  # by name, teacher's included
    u_stages: dict[str, float | None] = field(default_factory=dict)  # random doubt, k = 2
    details: dict[str, Details] = field(default_factory=dict)  # by name; a CSV has none
    quality: float | None = None
    quality_n: int | None = None  # examples behind it
    artifacts: frozenset[str] = frozenset()  # of the teacher, made or used
    cards: dict[str, list[str]] = field(default_factory=dict)  # what each artifact's card lacks
    uses: int | None = None  # completed runs that used the artifact, where that was counted
    facts: dict[str, str] = field(default_factory=dict)  # hardware, driver …: must be alike to compare
    version: str | None = None  # commit, or hash of the whole configuration
    attempts: int = 1
    reported: frozenset[str] = frozenset()  # stages whose energy another machine told, in the whole or a part

    @property
    def name(self) -> str:
        """As it is cited."""
        seed = f" seed {self.seed}" if self.seed is not None else ""
        stop = f" {self.stop}" if self.stop is not None else ""
        return f"{self.pipeline} {self.student}{stop}{seed}"

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
    metric: str | None = None  # what `quality` is
    from_store: bool = False
    devices: list[dict[str, Any]] = field(default_factory=list)  # that measured it
    about: list[str] = field(default_factory=list)  # versions, hashes: lines for people
    stop: str | None = None  # of a study that is one variant of another

    @property
    def mixed(self) -> list[str]:
        """In what its runs differ that should be alike, where that was allowed: every answer says it."""
        return [note for note in self.notes if note.startswith(MIXED)]

    def variants(self) -> list[Study]:
        """This study once for each way in which trainings stopped; itself where there is one way.

        Trainings to an equal budget and to an equal quality answer different questions: nothing is averaged
        over both, and none is compared with the other.
        """
        stops = sorted({e.stop or "" for e in self.executions}, key=lambda s: (s not in VARIANTS, s))
        if len(stops) < 2:
            return [self]
        return [
            replace(self, executions=[e for e in self.executions if (e.stop or "") == stop], stop=stop)
            for stop in stops
        ]

    @property
    def baseline(self) -> str:
        """The pipeline without a teacher. Raises Refused if there is none."""
        have = {e.pipeline for e in self.executions}
        for name in BASELINES:
            if name in have:
                return name
        which = f" with stop={self.stop or '(none)'}" if self.stop is not None else ""
        raise Refused(
            f"study {self.name}{which} has no baseline among its pipelines {', '.join(sorted(have))}\n"
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


def variant_name(stop: str | None) -> str:
    """What a variant is called; empty for no label."""
    return VARIANTS.get(stop or "", stop or "")


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
