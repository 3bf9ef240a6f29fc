"""Which pipeline takes least at this reuse and quality, what should be attacked first, what would flip it?

Every sentence carries the figures that it rests on. What rests on one repetition, on no stated doubt or on a
difference inside noise says so: advice is no surer than its numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from energyq.breakdown import breakdown
from energyq.checks import RECOMMENDED, checks
from energyq.find import Refused
from energyq.frontier import Point, frontier, turns
from energyq.means import mean_figure
from energyq.numbers import energy_unit, figures
from energyq.starved import is_starved
from energyq.study import PARTS, Study, variant_name


@dataclass
class Sentence:
    """One piece of advice: what it is about, its words, and the numbers in it by name and unit."""

    about: str  # mixed, reuse, choice, attack, flip, check
    text: str
    numbers: dict[str, float | str | None] = field(default_factory=dict)
    passed: bool | None = None  # of a check


def advise(
    study: Study,
    *,
    reuse: float | None,
    quality: float | None,
    student: str | None = None,
    repeatability: float | None = None,
) -> list[Sentence]:
    """Choice, attack, flips and checks. Raises Refused where nothing is left to choose from.

    `reuse`: uses of the teacher's artifact; None: as many as were counted. `quality`: the least that will do,
    in the metric's unit; None: only energy counts, size by size. Where trainings stopped in several ways,
    each is advised on by itself.
    """
    n = reuse if reuse is not None else counted_uses(study)
    if n is None:
        raise Refused(
            f"study {study.name} has no recorded use of an artifact to count\n  cure: --reuse N says how many"
        )
    said: list[Sentence] = []
    if reuse is None:
        said.append(Sentence("reuse", f"{n:g} uses, as counted in this store", {"reuse": n}))
    variants = study.variants()
    for variant in variants:
        about = _of_variant(variant, n, quality, student, repeatability)
        if len(variants) > 1:
            name = variant_name(variant.stop) or "no label stop"
            about = [replace(s, text=f"{name}: {s.text}") for s in about]
        said += about
    if not said:
        raise Refused(f"no run is of the student {student!r}\n  cure: one of {', '.join(study.students())}")
    said = [Sentence("mixed", note) for note in study.mixed] + said
    done = [c for c in checks(study, reuse) if c.id in RECOMMENDED]
    return [*said, *(Sentence("check", c.text, {"id": c.id}, c.passed) for c in done)]


def counted_uses(study: Study) -> float | None:
    """Completed runs that used the artifact used most; None where nobody counted."""
    counted = [e.uses for e in study.executions if e.uses]
    return float(max(counted)) if counted else None


def _of_variant(
    study: Study, reuse: float, quality: float | None, student: str | None, repeatability: float | None
) -> list[Sentence]:
    points = [
        p for p in frontier(study, reuse=reuse, repeatability=repeatability)
        if student is None or p.student == student
    ]  # fmt: skip
    said: list[Sentence] = []
    if points and quality is not None:
        said += _one_choice(study, [p for p in points if p.quality is not None], points, reuse, quality)
    elif points:
        for size in study.students():
            said += _of_size(study, [p for p in points if p.student == size], reuse)
    return said


def _one_choice(
    study: Study, known: list[Point], points: list[Point], reuse: float, quality: float
) -> list[Sentence]:
    """Over all sizes: the least energy that reaches the quality."""
    if not known:
        return [Sentence("choice", "no quality is known for any run, so none can be asked for", passed=False)]
    enough = [p for p in known if p.quality is not None and p.quality >= quality]
    if not enough:
        best = max(known, key=lambda p: p.quality or 0.0)
        text = f"none reaches quality {quality:g}; the best, {best.name}, has {figures(best.quality, 3)}"
        return [Sentence("choice", text, {"quality": quality, "best_quality": best.quality}, passed=False)]
    said = _choice(study, enough, reuse, f" and quality {quality:g} or better")
    chosen = min(enough, key=_energy)
    # What costs less but is not good enough: from which quality down would it be chosen?
    cheaper = [p for p in known if p not in enough and _energy(p) < _energy(chosen)]
    if cheaper:
        best = max(cheaper, key=lambda p: p.quality or 0.0)
        said.append(Sentence(
            "flip", f"at quality {figures(best.quality, 3)} or less, {best.name} would do with "
            f"{figures(100 * (1 - _energy(best) / _energy(chosen)), 2)} % less energy",
            {"quality": best.quality, "energy_j": _energy(best)},
        ))  # fmt: skip
    return said + _flips(study, chosen.student, reuse)


def _of_size(study: Study, points: list[Point], reuse: float) -> list[Sentence]:
    if not points:
        return []
    return _choice(study, points, reuse, f" for {points[0].student}") + _flips(
        study, points[0].student, reuse
    )


def _choice(study: Study, points: list[Point], reuse: float, where: str) -> list[Sentence]:
    """The cheapest of these points at this reuse, how far the next is, and its largest part."""
    ranked = sorted((p for p in points if math.isfinite(_energy(p))), key=_energy)
    if not ranked:
        return [Sentence("choice", f"no energy is known{where}", passed=False)]
    best = ranked[0]
    unit, scale = energy_unit([_energy(best)])
    text = f"at {reuse:g} use{'s' * (reuse != 1)}{where}, {best.name} takes least: "
    text += f"{figures(_energy(best) / scale)} {unit}"
    numbers: dict[str, float | str | None] = {
        "reuse": reuse, "pipeline": best.pipeline, "student": best.student, "energy_j": _energy(best)
    }  # fmt: skip
    if len(ranked) > 1:
        second = ranked[1]
        apart = _energy(second) - _energy(best)
        u = _both(best, second)
        text += f"; {second.name} takes {figures(apart / scale, 3)} {unit} more"
        text += ", no doubt stated" if u is None else f" ± {figures(u / scale, 2)}"
        text += ": inside noise, a toss-up" if u is not None and apart <= u else ""
        numbers |= {"second": second.name, "apart_j": apart, "u_apart_j": u}
    return [Sentence("choice", text, numbers), _attack(study, best, reuse), *_waiting(study, best)]


def _attack(study: Study, point: Point, reuse: float) -> Sentence:
    """The part that takes most of what is chosen, the teacher's divided by its uses."""
    runs = study.cell(point.pipeline, point.student)
    parts = {name: mean_figure(runs, (name,), None).mean_j for name in PARTS}
    shares = {k: (j / reuse if k == "teacher" else j) for k, j in parts.items() if j is not None}
    total = sum(shares.values())
    largest = max(shares, key=lambda k: shares[k])
    share = 100 * shares[largest] / total if total else 0.0
    name = f"the teacher's share ({reuse:g} uses)" if largest == "teacher" else f"{largest}"
    return Sentence(
        "attack", f"{point.name}: attack {name} first, {figures(share, 3)} % of its energy",
        {"part": largest, "share_percent": share},
    )  # fmt: skip


def _waiting(study: Study, point: Point) -> list[Sentence]:
    """A training that waited: its energy is the loader's as much as the pipeline's."""
    wholes = [p for p in breakdown(study) if p.stage is None]
    (whole,) = [p for p in wholes if (p.pipeline, p.student) == (point.pipeline, point.student)]
    if not is_starved(whole.starved_share):
        return []
    share = 100 * (whole.starved_share or 0.0)
    return [Sentence(
        "attack", f"{point.name}: its training is STARVED, {figures(share, 3)} % of its time near the idle "
        "floor: feed the device before comparing pipelines", {"starved_percent": share},
    )]  # fmt: skip


def _flips(study: Study, student: str, reuse: float) -> list[Sentence]:
    """At which reuse another pipeline of this size would be the cheapest."""
    firsts: list[tuple[float, str]] = []
    for n, order in turns(study, student):
        if not firsts or firsts[-1][1] != order[0]:
            firsts.append((n, order[0]))
    at = max((i for i, (n, _) in enumerate(firsts) if n <= reuse), default=0)
    said = []
    if at > 0:
        n, name = firsts[at][0], firsts[at - 1][1]
        text = f"{student}: below {figures(n, 3)} uses, {name} would take least"
        said.append(Sentence("flip", text, {"reuse": n, "pipeline": name}))
    if at + 1 < len(firsts):
        n, name = firsts[at + 1]
        text = f"{student}: from {figures(n, 3)} uses on, {name} would take least"
        said.append(Sentence("flip", text, {"reuse": n, "pipeline": name}))
    return said or [Sentence("flip", f"{student}: no number of uses would change who takes least")]


def _energy(point: Point) -> float:
    """At the reuse asked for, J; infinite where it is not known."""
    view = point.at_reuse
    return math.inf if view is None or view.energy_j is None else view.energy_j


def _both(a: Point, b: Point) -> float | None:
    doubts = [p.at_reuse.u_energy_j if p.at_reuse else None for p in (a, b)]
    return None if None in doubts else math.hypot(*[d for d in doubts if d is not None])
