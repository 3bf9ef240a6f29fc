"""How far may the mean energy of each side be off, by measurement and by what differs between repetitions?

All variances are in J² at k = 1, of the mean of a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance
from typing import Any, Final

from energyq.sides import Side
from energyq.student import Part

Row = dict[str, Any]
Parts = list[Part]
REPEATS: Final = 5
"""Fewer repetitions inside a run say too little about their spread."""


@dataclass(frozen=True)
class Spread:
    """Parts of the variance of A's and B's mean, and where they come from."""

    a: Parts
    b: Parts
    basis: str
    needs_repeatability: bool = False


def measured_variance(rows: list[Row]) -> float | None:
    """Variance of the mean of these energies by the random doubt of each; None where one is not stated."""
    doubts = [r["u_random_j"] for r in rows]
    if not doubts or None in doubts:
        return None
    return float(sum((u / 2) ** 2 for u in doubts)) / len(doubts) ** 2


def systematic_j(rows: list[Row]) -> float | None:
    """Standard doubt (k = 1) of the mean by what all its energies share, J: it does not average out."""
    if not rows or any(r["u_random_j"] is None or r["u_total_j"] is None for r in rows):
        return None
    return fmean(math.sqrt(max(r["u_total_j"] ** 2 - r["u_random_j"] ** 2, 0)) / 2 for r in rows)


def spread_of(a: Side, b: Side, repeatability: float) -> Spread | None:
    """The best that is known of the spread; None if neither repetitions nor doubt are.

    Doubt of measurement, where it is stated, is a floor under each: few values may lie close by luck.
    """
    runs = [[fmean(r["total_j"] for r in rows) for rows in side.per_run.values()] for side in (a, b)]
    measured = [measured_variance(side.rows) for side in (a, b)]
    floor_a, floor_b = (m or 0.0 for m in measured)
    n_a, n_b = map(len, runs)
    if n_a >= 2 and n_b >= 2:
        part_a = Part(max(variance(runs[0]) / n_a, floor_a), n_a - 1)
        part_b = Part(max(variance(runs[1]) / n_b, floor_b), n_b - 1)
        return Spread([part_a], [part_b], f"Welch's test on the spread between {n_a} and {n_b} runs")
    if n_a >= 2 or n_b >= 2:
        many, name = (runs[0], "A") if n_a >= 2 else (runs[1], "B")
        # One estimate serves both sides, so its degrees of freedom must not be counted twice.
        both = Part(max(variance(many) * (1 / n_a + 1 / n_b), floor_a + floor_b), len(many) - 1)
        return Spread(
            [both], [], f"the spread between the {len(many)} runs of {name}, taken for the other side too"
        )
    usual_a, usual_b = (Part((repeatability * values[0]) ** 2) for values in runs)
    usual = f"and {100 * repeatability:g} % between runs as usual (--repeatability)"
    inside_a, inside_b = _inside(a, b), _inside(b, a)
    if inside_a and inside_b:
        basis = f"the spread between repeats of {', '.join(sorted(inside_a))} inside one run each, {usual}"
        lifted_a = _lifted(list(inside_a.values()), floor_a)
        lifted_b = _lifted(list(inside_b.values()), floor_b)
        return Spread([*lifted_a, usual_a], [*lifted_b, usual_b], basis, needs_repeatability=True)
    if None in measured:
        return None
    basis = f"the doubt of measurement of one run each, {usual}"
    return Spread([Part(floor_a), usual_a], [Part(floor_b), usual_b], basis, needs_repeatability=True)


def _lifted(parts: Parts, floor: float) -> Parts:
    """The same parts, scaled up to `floor` where their sum is below it."""
    total = sum(p.variance for p in parts)
    if total >= floor:
        return parts
    if total == 0:
        return [Part(floor)]
    return [Part(p.variance * floor / total, p.freedom) for p in parts]


def _inside(side: Side, other: Side) -> dict[str, Part]:
    """Paths of stages repeated in a single run, each with its part in the variance of the side's energy.

    A stage compared by its path repeats itself; else the shallowest groups of 5 or more that follow one
    another, known on both sides.
    """
    if side.path is not None:
        if len(side.rows) < REPEATS or len(other.rows) < REPEATS:
            return {}
        values = [r["total_j"] for r in side.rows]
        return {side.path: Part(variance(values) / len(values), len(values) - 1)}
    mine, theirs = _groups(side.inner), _groups(other.inner)
    chosen: dict[str, Part] = {}
    for path in sorted(mine.keys() & theirs.keys(), key=lambda p: (mine[p][0]["depth"], p)):
        if not any(path.startswith(taken + "/") for taken in chosen):
            values = [r["total_j"] for r in mine[path]]
            chosen[path] = Part(variance(values) * len(values), len(values) - 1)
    return chosen


def _groups(stages: list[Row]) -> dict[str, list[Row]]:
    """Stages of one path that follow one another, 5 or more, all known. Ranks run at once: no repeats."""
    by_path: dict[str, list[Row]] = {}
    for row in stages:
        by_path.setdefault(row["path"], []).append(row)
    return {
        path: rows
        for path, rows in by_path.items()
        if len(rows) >= REPEATS
        and all(r["total_j"] is not None for r in rows)
        and all(later["t0_ns"] >= one["t1_ns"] for one, later in pairwise(rows))
    }
