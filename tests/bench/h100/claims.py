"""Which of the poster's conclusions hold at what was measured here, which flip, what is only extrapolated?

A verdict is made of intervals, never written by hand: `holds` or `flips` where both ways to divide the tokens
(bench.h100.budgets) say so beyond doubt, otherwise what each of them says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.h100 import poster
from bench.h100.budgets import STOPS, Kinds, Sides, rows, sides
from bench.h100.figures import Value
from bench.h100.markdown import table

NAMES: Final = {"kd": "KD", "synthetic": "Synthetic SFT"}
RIVAL: Final = 0.33


def claims(kinds: Kinds, *, learnt: bool) -> str:
    """The section. `learnt`: a frontier with quality was measured beside it."""
    found = [*_dearer(kinds), *_rivals(kinds), *_small_scale(kinds), *_reuse(kinds), *_fixed(kinds)]
    if not found:
        return ""
    quality = "not here: random weights have no quality; for small students see below" if learnt else (
        "not measured: random weights have no quality"
    )
    found.append(
        ["SFT strictly dominates on the energy-quality frontier at 7B and 13B", "", "yes", "–", "–", quality]
    )
    columns = ["the poster says", "size", "poster", "here, as logged", "here, equal positions", "verdict"]
    return "\n".join(
        [
            "## Which conclusions hold",
            "",
            "Of the teacher's and the student's stage alone, prerun, preprocessing and evaluation apart.",
            "`As logged`: SFT and synthetic students at the poster's budgets, KD one pass. `Equal",
            "positions`: all see as many as SFT. One pass of logits, 9.94 M generated tokens in both.",
            "Intervals as in the table of N*. Whether unequal tokens make equal students is not known here.",
            "",
            *table(columns, found),
            "",
            *_extrapolated(kinds),
        ]
    )


def verdict(first: bool | None, second: bool | None) -> str:
    """Of a claim by both divisions; None: the interval holds both answers, or nothing is known."""
    words = {True: "holds", False: "flips", None: "inside noise"}
    if first == second:
        return words[first]
    return f"{words[first]} as logged, {words[second]} at equal positions"


def above(value: Value, limit: float) -> bool | None:
    """Beyond doubt? None: not known."""
    if value.mean is None:
        return None
    half = value.half or 0.0
    return True if value.mean - half > limit else False if value.mean + half < limit else None


def _both(kinds: Kinds) -> Iterator[tuple[str, str, int, list[Sides]]]:
    """(pipeline, size, its place, what it takes by each division), where all of it was measured."""
    for pipeline in NAMES:
        for i, size in enumerate(poster.SIZES):
            found = [here for stop in STOPS if (here := sides(kinds, pipeline, size, stop))]
            if len(found) == len(STOPS):
                yield pipeline, size, i, found


def _dearer(kinds: Kinds) -> Iterator[list[str]]:
    for pipeline, size, i, here in _both(kinds):
        theirs = poster.TEACHER[pipeline][1] + poster.STUDENTS[pipeline].kwh[i]
        yield [
            f"Used once, {NAMES[pipeline]} takes more energy than SFT (times)", size,
            f"{theirs / poster.STUDENTS['sft'].kwh[i]:.2f}", *(str(h.times) for h in here),
            verdict(*(above(h.times, 1) for h in here)),
        ]  # fmt: skip


def _rivals(kinds: Kinds) -> Iterator[list[str]]:
    """`Can rival`: at RIVAL of the student's energy and more it is no small part of the bill."""
    for pipeline, size, i, here in _both(kinds):
        theirs = poster.TEACHER[pipeline][1] / poster.STUDENTS[pipeline].kwh[i]
        shares = [h.teacher.over(h.student) for h in here]
        yield [
            f"{poster.TEACHER[pipeline][0]} rivals its student's training (times; {RIVAL:g} or more)", size,
            f"{theirs:.2f}", *map(str, shares), verdict(*(above(v, RIVAL) for v in shares)),
        ]  # fmt: skip


def _small_scale(kinds: Kinds) -> Iterator[list[str]]:
    for pipeline, name in NAMES.items():
        cells = [here for p, _, _, here in _both(kinds) if p == pipeline]
        if len(cells) < len(poster.SIZES):
            continue
        kwh = poster.TEACHER[pipeline][1]
        shares = [
            [h.teacher.over(h.student.plus(h.teacher)).mean or 0.0 for h in of_stop]
            for of_stop in zip(*cells, strict=True)
        ]
        theirs = [kwh / (kwh + s) for s in poster.STUDENTS[pipeline].kwh]
        told = [", ".join(f"{100 * v:.0f} %" for v in each) for each in (theirs, *shares)]
        yield [
            f"The teacher weighs most at small scale ({name}: its share)", ", ".join(poster.SIZES), *told,
            verdict(*(each == sorted(each, reverse=True) for each in shares)),
        ]  # fmt: skip


def _reuse(kinds: Kinds) -> Iterator[list[str]]:
    for pipeline, size, i, here in _both(kinds):
        saved = poster.STUDENTS["sft"].kwh[i] - poster.STUDENTS[pipeline].kwh[i]
        yield [
            f"Reuse makes {NAMES[pipeline]} pay (from N* on)", size,
            f"{poster.TEACHER[pipeline][1] / saved:.1f}",
            *(poster.break_even(h.teacher, h.saving) for h in here),
            verdict(*(h.saving.mean != 0 and above(h.saving, 0) for h in here)),
        ]  # fmt: skip


def _fixed(kinds: Kinds) -> Iterator[list[str]]:
    best = poster.best_generation(kinds)
    what, theirs, unit, tokens, _ = poster.TEACHER["synthetic"]
    ours = poster.kwh(best, unit, tokens)
    if best is None or ours.mean is None:
        return
    word = "flips: it is a property of how it is run" if theirs > ours.mean + (ours.half or 0) else "holds"
    yield [f"{what} is a near-fixed cost (kWh)", best.name, f"{theirs:.1f}", str(ours), str(ours), word]


def _extrapolated(kinds: Kinds) -> Iterator[str]:
    """How far each figure reaches beyond what was measured."""
    reach: list[tuple[float, str]] = []
    for row in rows(kinds):
        name = f"{row.size} {poster.STUDENTS[row.pipeline].mode}" if row.stage == "student.train" else ""
        if (kind := kinds.get(name)) and row.kwh.mean:
            took = [w["energy"]["total_j"] for w in kind.windows if w["energy"]["total_j"] is not None]
            reach.append((row.kwh.mean * poster.KWH / sum(took), f"{name}, {row.pipeline}"))
    if reach:
        most, which = max(reach)
        yield (
            "Only extrapolated: every kWh, the poster's budgets being hours. What was measured is joules a\n"
            f"token in windows of about 20 s; the furthest reach is {most:,.0f} times the measured energy\n"
            f"({which})."
        )
