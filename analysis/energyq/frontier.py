"""Which pipeline and size gives the most quality for its energy, and what is beaten by what?

A point is beaten when another takes no more energy and is no worse, and is better in one of the two. Three
energies are asked for the same runs: of the student alone (what prior work reports), of the whole pipeline
one-off, and with the teacher's artifact shared by n uses. Where the energy or the quality by which a point is
beaten lies within the doubt of the two, that is said (`surely` is false).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, variance

from energyq.find import Refused
from energyq.means import Figure, mean_figure
from energyq.student import Part, half_width
from energyq.study import Execution, Study, cells, variant_name


@dataclass
class View:
    """One of the three energies of a point, J, and whether the point is on that frontier."""

    energy_j: float | None
    u_energy_j: float | None = None  # half the 95 % interval
    on_front: bool | None = None  # None: energy or quality is not known
    beaten_by: str | None = None  # "pipeline student" of the one that beats it with the most quality
    surely: bool | None = None  # beaten beyond doubt; None: no doubt is stated


@dataclass
class Point:
    """One pipeline for one size: means over its repetitions."""

    pipeline: str
    student: str
    repetitions: int
    quality: float | None
    u_quality: float | None  # half the 95 % interval
    student_only: View
    full: View
    at_reuse: View | None = None
    stop: str | None = None  # what ended the trainings: budget, to_target
    variant: str | None = None  # its name, where the study has several
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As it is cited."""
        return f"{self.pipeline} {self.student}" + (f" ({self.variant})" if self.variant else "")


def frontier(study: Study, *, reuse: float | None = None, repeatability: float | None = None) -> list[Point]:
    """Every pipeline and size of a study as a point; `reuse`: uses assumed for the third energy.

    `repeatability`: as in `energyq.breakeven.break_even`. Trainings that stopped in different ways have a
    frontier each. Raises Refused if the study has no runs.
    """
    variants = study.variants()
    found: list[Point] = []
    for variant in variants:
        points = [_point(p, s, runs, reuse, repeatability) for p, s, runs in cells(variant)]
        for point in points:
            point.stop = variant.executions[0].stop
            point.variant = variant_name(point.stop) or "(no label stop)" if len(variants) > 1 else None
        for view in ("student_only", "full", "at_reuse"):
            _judge(points, view)
        found += points
    if not found:
        raise Refused(f"study {study.name} has no runs\n  cure: runs labelled with pipeline and student")
    return found


def ranking(study: Study, student: str, n: float) -> list[tuple[str, float]]:
    """Pipelines of one size by energy at n uses of the teacher's artifact, the cheapest first; J."""
    found = []
    for pipeline in study.pipelines():
        energy = _energy(study.cell(pipeline, student), n)
        if energy is not None:
            found.append((pipeline, energy))
    return sorted(found, key=lambda pair: pair[1])


def turns(study: Study, student: str) -> list[tuple[float, list[str]]]:
    """(uses, pipelines cheapest first) at one use, and beyond every number of uses where that order changes.

    Two curves E_rest + E_teacher / n meet once at most, at n = ΔE_teacher / −ΔE_rest.
    """
    curves = []
    for pipeline in study.pipelines():
        runs = study.cell(pipeline, student)
        once, ever = _energy(runs, 1), _energy(runs, math.inf)
        if once is not None and ever is not None:
            curves.append((once - ever, ever))
    meets = {(t - u) / (f - e) for t, e in curves for u, f in curves if f != e and (t - u) / (f - e) > 1}
    found: list[tuple[float, list[str]]] = []
    for n in [1.0, *sorted(meets)]:
        order = [pipeline for pipeline, _ in ranking(study, student, n * (1 + 1e-9))]
        if order and (not found or order != found[-1][1]):
            found.append((n, order))
    return found


def _point(
    pipeline: str, student: str, runs: list[Execution], reuse: float | None, repeatability: float | None
) -> Point:
    quality, u_quality = _quality(runs)
    only = mean_figure(runs, ("student",), repeatability)
    full = mean_figure(runs, None, repeatability)
    point = Point(
        pipeline, student, len(runs), quality, u_quality,
        View(only.mean_j, only.u_j), View(full.mean_j, full.u_j),
    )  # fmt: skip
    if reuse is not None:
        point.at_reuse = View(_energy(runs, reuse), _u_at(runs, reuse, full, repeatability))
    if len(runs) == 1:
        point.notes.append("one repetition: the spread between repetitions is not known")
    if quality is None:
        point.notes.append("no quality is known")
    return point


def _energy(runs: list[Execution], n: float) -> float | None:
    """Mean energy at n uses, J: E_teacher / n and the rest."""
    total, teacher = mean_figure(runs, None, None).mean_j, mean_figure(runs, ("teacher",), None).mean_j
    return None if total is None or teacher is None else total - teacher + teacher / n


def _u_at(runs: list[Execution], n: float, full: Figure, repeatability: float | None) -> float | None:
    """Its doubt: the teacher's shrinks with n, the rest's does not."""
    if not full.parts:
        return None
    rest = mean_figure(runs, ("prerun", "preprocess", "student", "evaluate", "other"), repeatability)
    teacher = mean_figure(runs, ("teacher",), repeatability)
    parts = [*rest.parts, *(Part(p.variance / n**2, p.freedom) for p in teacher.parts)]
    return half_width(parts) if parts else None


def _quality(runs: list[Execution]) -> tuple[float | None, float | None]:
    """(mean, half the 95 % interval) by the spread of repetitions, else by the number of examples."""
    known = [e.quality for e in runs if e.quality is not None]
    if not known:
        return None, None
    mean = fmean(known)
    if len(known) > 1:
        return mean, half_width([Part(variance(known) / len(known), len(known) - 1)])
    n = next(e.quality_n for e in runs if e.quality is not None)
    # A share of n examples is off by the binomial's deviation; another metric states nothing.
    return mean, 2 * math.sqrt(mean * (1 - mean) / n) if n and 0 <= mean <= 1 else None


def _judge(points: list[Point], which: str) -> None:
    """Fill in who is on the frontier of one energy, and who beats the others."""
    known: list[tuple[Point, View, float, float]] = []
    for point in points:
        view: View | None = getattr(point, which)
        if view is not None and view.energy_j is not None and point.quality is not None:
            known.append((point, view, view.energy_j, point.quality))
    for point, view, energy, quality in known:
        beaten = [
            other
            for other in known
            if other[2] <= energy and other[3] >= quality and (other[2], other[3]) != (energy, quality)
        ]
        view.on_front = not beaten
        if beaten:
            best = max(beaten, key=lambda other: (other[3], -other[2]))
            view.beaten_by = best[0].name
            view.surely = _surely(point, view, energy, best)


def _surely(point: Point, view: View, energy: float, by: tuple[Point, View, float, float]) -> bool | None:
    """Whether the better of the two differences is beyond doubt; the other may be a draw."""
    winner, winning, less, more = by
    u_energy = _both(view.u_energy_j, winning.u_energy_j)
    u_quality = _both(point.u_quality, winner.u_quality)
    if u_energy is None and u_quality is None:
        return None
    cheaper = u_energy is not None and energy - less > u_energy
    better = u_quality is not None and point.quality is not None and more - point.quality > u_quality
    return cheaper or better


def _both(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else math.hypot(a, b)
