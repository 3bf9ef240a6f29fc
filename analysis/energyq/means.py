"""What does one pipeline for one size take on average over its repetitions, and how far may that be off?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, variance

from energyq.student import Part, half_width
from energyq.study import PARTS, Execution, added, part_of


@dataclass(frozen=True)
class Figure:
    """A mean over repetitions, J, and what it may be off by."""

    mean_j: float | None
    parts: tuple[Part, ...] = ()  # of the mean's variance, J²; empty: no doubt is stated
    n: int = 0

    @property
    def u_j(self) -> float | None:
        """Half the 95 % interval, J; None where no doubt is stated."""
        return half_width(self.parts) if self.parts else None


def mean_figure(runs: list[Execution], parts: tuple[str, ...] | None, repeatability: float | None) -> Figure:
    """Mean energy of some parts of the equation (None: of all), with its doubt.

    The spread of repetitions tells it, and never less than what the measurement states. `repeatability`
    stands in for the spread where there is one repetition. A teacher's artifact that all of them share is one
    measurement, which no number of repetitions makes any surer: its doubt comes on top.
    """
    wanted = PARTS if parts is None else parts
    if len(runs) > 1 and "teacher" in wanted and len(wanted) > 1 and _share_one(runs):
        rest = mean_figure(runs, tuple(p for p in wanted if p != "teacher"), repeatability)
        teacher = mean_figure(runs, ("teacher",), repeatability)
        return Figure(added([rest.mean_j, teacher.mean_j]), (*rest.parts, *teacher.parts), rest.n)
    values = [added([e.part(name) for name in wanted]) for e in runs]
    known = [v for v in values if v is not None]
    if not known or len(known) < len(values):
        return Figure(None, n=len(values))
    mean = fmean(known)
    stated = added([_u2(e, wanted) for e in runs])
    measured = None if stated is None else stated / 4 / len(runs) ** 2
    if wanted == ("teacher",) and _share_one(runs):
        known = known[:1]  # one artifact, made once: the other runs say the same figure again
        measured = None if stated is None else stated / 4 / len(runs)
    if len(known) > 1:
        spread = Part(variance(known) / len(known), len(known) - 1)
        enough = measured is None or half_width([spread]) >= half_width([Part(measured)])
        return Figure(mean, (spread if enough else Part(measured or 0.0),), len(values))
    found = [] if measured is None else [Part(measured)]
    if repeatability is not None:
        found.append(Part((repeatability * mean) ** 2))
    return Figure(mean, tuple(found), len(values))


def _share_one(runs: list[Execution]) -> bool:
    """Whether all of them bear the same artifacts of the teacher."""
    return bool(runs and runs[0].artifacts) and len({e.artifacts for e in runs}) == 1


def _u2(execution: Execution, wanted: tuple[str, ...]) -> float | None:
    """Square of the random doubt (k = 2) of some parts together, J²; None where a stage states none."""
    doubts = [u for stage, u in execution.u_stages.items() if part_of(stage) in wanted]
    return added([None if u is None else u * u for u in doubts]) if doubts else None
