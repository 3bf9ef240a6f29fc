"""From how many uses of a teacher's artifact on is distilling cheaper than the baseline?

N* = E_teacher / (E_student^baseline − E_student^distill), the paper's equation, for each size; and pooled
over sizes that share an artifact, where the mean saving of its users takes the place of one saving.

Its interval is Fieller's for a ratio of two doubtful figures: it is one-sided (`n_high` unknown) when the
saving may be as small as nothing, and then the state is `inside noise`. A sensor's systematic error scales
all energies of one board alike and cancels in the ratio, so only random doubt and the spread between
repetitions count. With one repetition the latter is not known, and the answer is `lone`: its interval is the
measurement's alone, and no claim about the next execution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from energyq.find import Refused
from energyq.means import Figure, mean_figure
from energyq.student import Part, half_width
from energyq.study import Study, variant_name

AT_N: Final = "at n"
NEVER: Final = "never"
NOISE: Final = "inside noise"
UNKNOWN: Final = "unknown"
POOLED: Final = "pooled"


@dataclass
class BreakEven:
    """The answer for one pipeline and one size, or for all sizes that share the artifact (`pooled`)."""

    pipeline: str
    student: str
    baseline: str
    state: str  # at n, never, inside noise, unknown
    n_star: float | None = None
    n_low: float | None = None  # 95 % interval
    n_high: float | None = None  # None beside a known n_low: no bound
    teacher_j: float | None = None
    baseline_student_j: float | None = None
    student_j: float | None = None
    saving_j: float | None = None
    u_saving_j: float | None = None
    baseline_total_j: float | None = None
    total_j: float | None = None  # with the whole teacher: one-off
    ratio: float | None = None  # total_j / baseline_total_j
    repetitions: int = 0  # of the distilled side
    lone: bool = False  # a side has one repetition, and how another would differ is not assumed
    stop: str | None = None  # what ended the trainings: budget, to_target
    variant: str | None = None  # its name, where the study has several
    uses: int | None = None  # counted
    reuse: float | None = None  # assumed or counted: at which the next is
    total_at_reuse_j: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As it is cited."""
        return f"{self.pipeline} {self.student}" + (f" ({self.variant})" if self.variant else "")


def break_even(
    study: Study, *, repeatability: float | None = None, reuse: float | None = None
) -> list[BreakEven]:
    """Every distilling pipeline and size of a study, then what is pooled. Raises Refused without a baseline.

    `repeatability`: share (k = 1) by which an energy differs between repetitions, where there is only one.
    Where trainings stopped in several ways, each is answered by itself, beside the others.
    """
    variants = study.variants()
    found: list[BreakEven] = []
    refused: list[Refused] = []
    for variant in variants:
        try:
            answers = _of_variant(variant, repeatability, reuse)
        except Refused as error:
            refused.append(error)
            continue
        for answer in answers:
            answer.stop = variant.executions[0].stop
            answer.variant = variant_name(answer.stop) or "(no label stop)" if len(variants) > 1 else None
        found += answers
    if not found:
        raise refused[0]
    study.notes += [note for error in refused if (note := str(error).partition("\n")[0]) not in study.notes]
    place = {p: i for i, p in enumerate(study.pipelines())}
    size = {s: i for i, s in enumerate([*study.students(), POOLED])}
    return sorted(found, key=lambda a: (place[a.pipeline], size[a.student]))


def _of_variant(study: Study, repeatability: float | None, reuse: float | None) -> list[BreakEven]:
    baseline = study.baseline
    found: list[BreakEven] = []
    for pipeline in study.pipelines():
        if pipeline == baseline:
            continue
        of_pipeline = [
            _one(study, pipeline, student, repeatability, reuse)
            for student in study.students()
            if study.cell(pipeline, student)
        ]
        found += of_pipeline
        if pooled := _pooled(study, of_pipeline, repeatability, reuse):
            found.append(pooled)
    if not found:
        which = f" with stop={study.stop or '(none)'}" if study.stop is not None else ""
        raise Refused(f"study {study.name}{which} has only the pipeline {baseline}\n  cure: runs that distil")
    return found


def _one(
    study: Study, pipeline: str, student: str, repeatability: float | None, reuse: float | None
) -> BreakEven:
    base, distilled = study.cell(study.baseline, student), study.cell(pipeline, student)
    teacher = mean_figure(distilled, ("teacher",), repeatability)
    e_base = mean_figure(base, ("student",), repeatability)
    e_student = mean_figure(distilled, ("student",), repeatability)
    counted = {e.uses for e in distilled if e.uses is not None}
    answer = BreakEven(
        pipeline, student, study.baseline, UNKNOWN, teacher_j=teacher.mean_j,
        baseline_student_j=e_base.mean_j, student_j=e_student.mean_j,
        baseline_total_j=_mean([e.total_j for e in base]),
        total_j=_mean([e.total_j for e in distilled]), repetitions=len(distilled),
        uses=max(counted) if counted else None,
    )  # fmt: skip
    if not base:
        answer.notes.append(f"no run of {study.baseline} for {student}")
        return answer
    if not any(stage for e in distilled for stage in e.stages if stage.startswith("teacher")):
        answer.notes.append("no teacher stage and no artifact is known: its energy is not 0, it is missing")
        answer.teacher_j = None
        return _at_reuse(answer, reuse)
    answer.lone = repeatability is None and min(len(distilled), len(base)) == 1
    if len(distilled) == 1 or len(base) == 1:
        answer.notes.append("one repetition: how much another would differ is " + (
            "not known" if repeatability is None else f"taken as {100 * repeatability:g} %"))  # fmt: skip
    _judge(answer, teacher, [e_base], [e_student])
    return _at_reuse(answer, reuse)


def _pooled(
    study: Study, answers: list[BreakEven], repeatability: float | None, reuse: float | None
) -> BreakEven | None:
    """All sizes of a pipeline whose executions share an artifact; None where they do not."""
    if len(answers) < 2 or any(a.saving_j is None for a in answers):
        return None
    pipeline = answers[0].pipeline
    runs = [e for a in answers for e in study.cell(pipeline, a.student)]
    shared = frozenset.intersection(*(e.artifacts for e in runs))
    if not shared:
        return None
    base = [mean_figure(study.cell(study.baseline, a.student), ("student",), repeatability) for a in answers]
    distilled = [mean_figure(study.cell(pipeline, a.student), ("student",), repeatability) for a in answers]
    teacher = mean_figure(runs, ("teacher",), repeatability)
    answer = BreakEven(
        pipeline, POOLED, study.baseline, UNKNOWN, teacher_j=teacher.mean_j,
        baseline_student_j=_mean([f.mean_j for f in base]), student_j=_mean([f.mean_j for f in distilled]),
        repetitions=len(runs), lone=any(a.lone for a in answers), uses=answers[0].uses,
        notes=[f"sizes {', '.join(a.student for a in answers)} equally share {', '.join(sorted(shared))}"],
    )  # fmt: skip
    _judge(answer, teacher, base, distilled)
    return answer


def _judge(answer: BreakEven, teacher: Figure, base: list[Figure], distilled: list[Figure]) -> None:
    """Saving, state, N* and its interval. `base` and `distilled`: one figure a size, pooled by their mean."""
    if answer.total_j and answer.baseline_total_j:
        answer.ratio = answer.total_j / answer.baseline_total_j
    if answer.baseline_student_j is None or answer.student_j is None or teacher.mean_j is None:
        answer.notes.append("an energy is not known")
        return
    saving = answer.saving_j = answer.baseline_student_j - answer.student_j
    if all(f.parts for f in [*base, *distilled]):
        share = 1 / len(base) ** 2
        answer.u_saving_j = half_width(
            [Part(p.variance * share, p.freedom) for f in [*base, *distilled] for p in f.parts]
        )
    u = answer.u_saving_j
    if u is not None and abs(saving) <= u and u > 0:
        answer.state = NOISE
    elif saving <= 0:
        answer.state = NEVER
    else:
        answer.state = AT_N
    if saving > 0:
        answer.n_star = teacher.mean_j / saving
        if u is not None:
            answer.n_low, answer.n_high = fieller(teacher.mean_j, teacher.u_j or 0.0, saving, u)
    if u is None:
        answer.notes.append("no doubt is stated: no interval (--repeatability SHARE assumes one)")


def fieller(
    top: float, u_top: float, bottom: float, u_bottom: float, common: float = 0.0
) -> tuple[float, float | None]:
    """Bounds of top / bottom where both are uncertain by ± u; (low, None): no upper bound.

    Fieller's theorem: the r for which |top − r·bottom| ≤ √(u_top² − 2·r·common + r²·u_bottom²). top ≥ 0 and
    bottom > 0. `common`: their covariance at the coverage of the u, 0 where they are independent.
    """
    a = bottom**2 - u_bottom**2
    b = top * bottom - common
    c = top**2 - u_top**2
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        return max((b - root) / a, 0.0), (b + root) / a
    # The bottom may be 0: only the near bound is one. c / (b + root) is (b − root) / a without 0/0.
    return max(c / (b + root), 0.0) if b + root > 0 else 0.0, None


def energy_at(answer: BreakEven, n: float) -> float | None:
    """E_teacher / n and all the rest of one execution, J: the curve of the paper's third figure."""
    if answer.total_j is None or answer.teacher_j is None:
        return None
    return answer.total_j - answer.teacher_j + answer.teacher_j / n


def _at_reuse(answer: BreakEven, reuse: float | None) -> BreakEven:
    answer.reuse = reuse if reuse is not None else answer.uses
    if answer.reuse:
        answer.total_at_reuse_j = energy_at(answer, answer.reuse)
    return answer


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known and len(known) == len(values) else None
