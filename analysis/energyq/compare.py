"""Do A and B differ in energy, and by how much at most and at least?

Two different questions, both answered:
- `executions_differ`: did these executions take different energy? The doubt of measurement alone decides. On
  one and the same board its systematic part is common to both and cancels; between boards it does not.
- `significant`: would they differ again? That needs the spread between repetitions, which a sensor does not
  know (`energyq.spread`): runs on both sides (Welch's test); runs on one side, taken for the other too;
  repeated stages inside one run each; else nothing but the doubt of measurement. The last two say nothing of
  what changes from run to run, so `repeatability` is added. Its default of 0.5 % (k = 1) is an
  assumption; power drifts with the die's temperature, on which leakage depends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from energyq.find import Refused
from energyq.likeness import LABELS, facts_of, refuse_or_note, unlike
from energyq.notes import FLAGS
from energyq.sides import Side, find_sides
from energyq.spread import measured_variance, spread_of, systematic_j
from energyq.student import CONFIDENCE, Part, half_width

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
UNBOUNDED: Final = 3.0
"""Doubt of a ratio, as its logarithm, from which no bounds are told: they would be a factor of 20 away."""


@dataclass(frozen=True)
class Figure:
    """One side in figures. Energies are of one run, or of one stage: their mean where there are several."""

    name: str
    stage: str | None
    run_ids: list[str]
    n_runs: int
    n_stages: int | None
    energy_j: float | None
    u_random_j: float | None  # k = 2, of the mean
    u_total_j: float | None
    seconds: float | None
    mean_w: float | None
    estimated_share: float | None
    tokens: float | None
    token_unit: str | None
    j_per_token: float | None


@dataclass
class Comparison:
    """What comes out. None: not known, and a warning says why."""

    a: Figure
    b: Figure
    same_board: bool
    confidence: float = CONFIDENCE
    difference_j: float | None = None  # B − A
    u_difference_j: float | None = None  # half the 95 % interval, with the spread of repetitions
    ratio: float | None = None  # B / A
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_per_token: float | None = None
    significant: bool | None = None
    basis: str | None = None
    repeatability: float | None = None  # where it was needed
    executions_differ: bool | None = None
    u_measured_j: float | None = None  # k = 2, doubt of the difference by measurement alone
    warnings: list[str] = field(default_factory=list)


def compare(
    reader: Reader, word_a: str, word_b: str, repeatability: float, *, allow_mixed: bool = False
) -> Comparison:
    """Compare two sides. Raises Refused if they are nothing, the same, or (unless `allow_mixed`) unlike."""
    a, b = find_sides(reader, word_a, word_b)
    both = [run_id for run_id in a.run_ids if run_id in b.run_ids]
    if both and a.path == b.path:
        what = "the same" if a.run_ids == b.run_ids else f"both made of run {both[0]}"
        raise Refused(
            f"{word_a} and {word_b} are {what}: nothing to compare\n"
            "  cure: two runs (`energyq runs` lists them), or two of their stages as RUN/STAGE"
        )
    uuids_a, uuids_b = ({d["uuid"] for d in side.devices} for side in (a, b))
    found = Comparison(_figure(a), _figure(b), same_board=uuids_a == uuids_b)
    if set(a.run_ids) != set(b.run_ids):
        found.warnings += _unlike(reader, a, b, allow_mixed=allow_mixed)
    found.warnings += _warnings(a, b)
    if a.rows and b.rows:
        _judge(found, a, b, repeatability)
    return found


def _figure(side: Side) -> Figure:
    rows = side.rows
    joules, seconds = _mean(rows, "total_j"), _mean(rows, "seconds")
    units = {r["token_unit"] for r in rows}
    tokens = _mean(rows, "tokens") if len(units) == 1 else None
    random, systematic = measured_variance(rows), systematic_j(rows)
    known = random is not None and systematic is not None
    estimated_j = sum((r["estimated_share"] or 0) * r["total_j"] for r in rows)
    return Figure(
        name=rows[0]["run"] or "?" if len(side.run_ids) == 1 and rows else side.word,
        stage=side.path, run_ids=side.run_ids, n_runs=len(side.per_run),
        n_stages=None if side.path is None else len(rows), energy_j=joules,
        u_random_j=None if random is None else 2 * math.sqrt(random),
        u_total_j=2 * math.hypot(math.sqrt(random or 0), systematic or 0) if known else None,
        seconds=seconds, mean_w=joules / seconds if joules is not None and seconds else None,
        estimated_share=estimated_j / len(rows) / joules if joules else None, tokens=tokens,
        token_unit=units.pop() if tokens is not None else None,
        j_per_token=joules / tokens if joules is not None and tokens else None,
    )  # fmt: skip


def _mean(rows: list[Row], column: str) -> float | None:
    values = [r[column] for r in rows]
    return fmean(values) if values and None not in values else None


def _judge(found: Comparison, a: Side, b: Side, repeatability: float) -> None:
    """Fill in difference, interval and the two verdicts."""
    mean_a, mean_b = fmean(r["total_j"] for r in a.rows), fmean(r["total_j"] for r in b.rows)
    found.difference_j = mean_b - mean_a
    if mean_a > 0:
        found.ratio = mean_b / mean_a
    if found.a.j_per_token and found.b.j_per_token and found.a.token_unit == found.b.token_unit:
        found.ratio_per_token = found.b.j_per_token / found.a.j_per_token
    random_a, random_b = measured_variance(a.rows), measured_variance(b.rows)
    if random_a is None or random_b is None:
        found.warnings.append("the store states no doubt of measurement for these energies")
    boards = 0.0 if found.same_board else _between_boards(a, b)
    if boards is None:
        found.warnings.append("different devices, and no doubt of their sensors is stated: no verdict")
        return
    if random_a is not None and random_b is not None:
        found.u_measured_j = 2 * math.sqrt(random_a + random_b + boards)
        found.executions_differ = abs(found.difference_j) > found.u_measured_j
    spread = spread_of(a, b, repeatability)
    if spread is None:
        found.warnings.append("neither doubt nor repetitions are known: no verdict")
        return
    found.basis = spread.basis
    found.repeatability = repeatability if spread.needs_repeatability else None
    found.u_difference_j = half_width([*spread.a, *spread.b, Part(boards)])
    # What includes the doubt of measurement is never narrower than that alone (k = 2 there, 1.96 here).
    found.u_difference_j = max(found.u_difference_j, found.u_measured_j or 0.0)
    found.significant = abs(found.difference_j) > found.u_difference_j
    if mean_a > 0 and mean_b > 0:
        # On the logarithm the interval of a ratio is that of a difference of relative errors.
        relative = [Part(p.variance / mean_a**2, p.freedom) for p in spread.a]
        relative += [Part(p.variance / mean_b**2, p.freedom) for p in spread.b]
        half = half_width([*relative, Part(boards / (mean_a * mean_b))])
        if half < UNBOUNDED:
            found.ratio_low = mean_b / mean_a * math.exp(-half)
            found.ratio_high = mean_b / mean_a * math.exp(half)


def _between_boards(a: Side, b: Side) -> float | None:
    """Variance by the sensors' own errors, J²; None where it is not stated."""
    of_a, of_b = systematic_j(a.rows), systematic_j(b.rows)
    return None if of_a is None or of_b is None else of_a**2 + of_b**2


def _unlike(reader: Reader, a: Side, b: Side, *, allow_mixed: bool) -> list[str]:
    """In what runs differ that must be alike, if that is allowed, and what a side does not tell."""
    facts_by_run = facts_of(reader, sorted({*a.per_run, *b.per_run}))
    sides = [{r: facts_by_run[r] for r in side.per_run if r in facts_by_run} for side in (a, b)]
    facts = [f for side in sides for f in side.values()]
    notes = refuse_or_note(unlike(facts), allow_mixed=allow_mixed)
    for key in LABELS:
        told = {name: all(key in f for f in side.values()) for name, side in zip("AB", sides, strict=True)}
        silent = [name for name, tells in told.items() if not tells]
        if silent and any(key in f for f in facts):
            notes.append(f"{key} is not told by {' and '.join(silent)}: nobody knows whether it is the same")
    return notes


def _warnings(a: Side, b: Side) -> list[str]:
    """What makes the two sides less alike than their names say."""
    found: list[str] = []
    for name, side in (("A", a), ("B", b)):
        found += [f"{name} leaves out {why}" for why in side.skipped[:4]]
        if len(side.skipped) > 4:
            found.append(f"{name} leaves out {len(side.skipped) - 4} more")
        flags = sorted({flag for row in side.rows for flag in row["flags"] or () if flag in FLAGS})
        found += [f"{name} is {flag}: {FLAGS[flag]}" for flag in flags]
    domains = [sorted({r["domains"] for r in side.rows if r["domains"]}) for side in (a, b)]
    if domains[0] != domains[1] and all(domains):
        found.append(f"not the same things are added up: {'; '.join(domains[0])} / {'; '.join(domains[1])}")
    units = [", ".join(sorted({r["token_unit"] for r in s.rows if r["token_unit"]})) for s in (a, b)]
    if units[0] != units[1]:
        found.append(
            f"tokens are counted differently: {units[0] or 'not at all'} / {units[1] or 'not at all'}"
        )
    return found
