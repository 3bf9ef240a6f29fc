"""Do A and B differ in energy, and by how much at most and at least?

Two different questions, both answered:
- `executions_differ`: did these executions take different energy? The doubt of measurement alone decides. On
  one and the same board its systematic part is common to both and cancels; between boards it does not.
- `significant`: would they differ again? That needs the spread between repetitions, which a sensor does not
  know. It comes from, in this order: runs on both sides (Welch's test); runs on one side, taken for the other
  too; repeated stages inside the two runs; else nothing but the doubt of measurement. The last two say nothing
  of what changes from run to run, so they are widened by `repeatability`. Its default 0.5 % (k = 1) is the
  spread between repeats of one training step's time seen on an otherwise idle H100; power drifts by as much
  with the die's temperature, on which leakage depends.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any, Final

from energyq.find import Refused
from energyq.notes import FLAGS, spoken
from energyq.sides import Side, find_side
from energyq.student import CONFIDENCE, Part, half_width

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
REPEATS: Final = 5
"""Fewer repetitions inside a run say too little about their spread."""
REPEATABILITY: Final = 0.005


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
    u_measured_j: float | None = None  # k = 2 doubt of the difference by measurement alone
    warnings: list[str] = field(default_factory=list)


def compare(reader: Reader, word_a: str, word_b: str, repeatability: float) -> Comparison:
    """Compare two sides. Raises Refused if they are nothing or the same."""
    a, b = find_side(reader, word_a), find_side(reader, word_b)
    both = [run_id for run_id in a.run_ids if run_id in b.run_ids]
    if both and a.path == b.path:
        what = "the same" if a.run_ids == b.run_ids else f"both made of run {both[0]}"
        raise Refused(
            f"{word_a} and {word_b} are {what}: nothing to compare\n"
            "  cure: two runs (`energyq runs` lists them), or two of their stages as RUN/STAGE"
        )
    uuids_a, uuids_b = ({d["uuid"] for d in side.devices} for side in (a, b))
    found = Comparison(_figure(a), _figure(b), same_board=uuids_a == uuids_b)
    found.warnings += _warnings(a, b)
    if found.a.energy_j is not None and found.b.energy_j is not None:
        _judge(found, a, b, repeatability)
    return found


def as_json(found: Comparison) -> Row:
    """Everything, with units in the keys."""
    return asdict(found)


def _figure(side: Side) -> Figure:
    rows, runs = side.rows, side.per_run
    names = sorted({r["run"] or "?" for r in rows})
    joules = _mean([r["total_j"] for r in rows])
    seconds = _mean([r["seconds"] for r in rows])
    units = {r["token_unit"] for r in rows}
    tokens = _mean([r["tokens"] for r in rows]) if len(units) == 1 and None not in units else None
    random = _measured(rows)
    total = None if random is None else _or_none(_systematic(rows), lambda s: 2 * math.hypot(math.sqrt(random), s))
    energy_w = None if joules is None or not seconds else joules / seconds
    estimated = _mean([(r["estimated_share"] or 0) * r["total_j"] for r in rows])
    return Figure(
        name=names[0] if len(names) == 1 and len(side.run_ids) == 1 else side.word.removesuffix(f"/{side.path}"),
        stage=side.path, run_ids=side.run_ids, n_runs=len(runs),
        n_stages=None if side.path is None else len(rows), energy_j=joules,
        u_random_j=None if random is None else 2 * math.sqrt(random), u_total_j=total, seconds=seconds,
        mean_w=energy_w, estimated_share=estimated / joules if joules and estimated is not None else None,
        tokens=tokens, token_unit=units.pop() if tokens is not None else None,
        j_per_token=joules / tokens if joules is not None and tokens else None,
    )  # fmt: skip


def _mean(values: list[Any]) -> float | None:
    return fmean(values) if values and None not in values else None


def _or_none(value: float | None, then: Any) -> float | None:
    return None if value is None else float(then(value))


def _measured(rows: list[Row]) -> float | None:
    """Variance of the mean of these energies by the random doubt of each, J²; None where one is not stated."""
    doubts = [r["u_random_j"] for r in rows]
    if not doubts or None in doubts:
        return None
    return sum((u / 2) ** 2 for u in doubts) / len(doubts) ** 2


def _systematic(rows: list[Row]) -> float | None:
    """Standard doubt (k = 1) of the mean by what all its energies share, J: it does not average out."""
    if not rows or any(r["u_random_j"] is None or r["u_total_j"] is None for r in rows):
        return None
    return fmean(math.sqrt(max(r["u_total_j"] ** 2 - r["u_random_j"] ** 2, 0)) / 2 for r in rows)


def _judge(found: Comparison, a: Side, b: Side, repeatability: float) -> None:
    """Fill in difference, interval and the two verdicts."""
    mean_a, mean_b = found.a.energy_j, found.b.energy_j
    assert mean_a is not None
    assert mean_b is not None
    difference = found.difference_j = mean_b - mean_a
    boards = _between_boards(found, a, b)
    measured = [_measured(side.rows) for side in (a, b)]
    if None not in (*measured, boards):
        found.u_measured_j = 2 * math.sqrt(sum(m for m in (*measured, boards) if m is not None))
        found.executions_differ = abs(difference) > found.u_measured_j
    spread = _spread(found, a, b, measured, repeatability)
    if mean_a > 0:
        found.ratio = mean_b / mean_a
        if found.a.token_unit and found.a.token_unit == found.b.token_unit and found.a.j_per_token:
            found.ratio_per_token = (found.b.j_per_token or 0) / found.a.j_per_token
    if spread is None or boards is None:
        found.basis = None
        return
    parts_a, parts_b = spread
    found.u_difference_j = half_width([*parts_a, *parts_b, Part(boards)])
    found.significant = abs(difference) > found.u_difference_j
    if mean_a > 0 and mean_b > 0:
        # On the logarithm the interval of a ratio is that of a difference of relative errors.
        relative = [Part(p.variance / mean_a**2, p.freedom) for p in parts_a]
        relative += [Part(p.variance / mean_b**2, p.freedom) for p in parts_b]
        half = half_width([*relative, Part(boards / (mean_a * mean_b))])
        found.ratio_low = mean_b / mean_a * math.exp(-half)
        found.ratio_high = mean_b / mean_a * math.exp(half)


def _between_boards(found: Comparison, a: Side, b: Side) -> float | None:
    """Variance by the sensors' common errors, J²: 0 on the same board; None where it is not stated."""
    if found.same_board:
        return 0.0
    parts = [_systematic(side.rows) for side in (a, b)]
    if parts[0] is None or parts[1] is None:
        found.warnings.append("different devices, and the store states no doubt of their sensors: no verdict")
        return None
    return parts[0] ** 2 + parts[1] ** 2


def _spread(
    found: Comparison, a: Side, b: Side, measured: list[float | None], repeatability: float
) -> tuple[list[Part], list[Part]] | None:
    """Parts of the variance of A's and of B's mean. Doubt of measurement is a floor under each spread."""
    runs = [[fmean(r["total_j"] for r in rows) for rows in side.per_run.values()] for side in (a, b)]
    floors = [m or 0.0 for m in measured]
    if None in measured:
        found.warnings.append("no doubt of measurement is stated for these energies")
    n_a, n_b = map(len, runs)
    if n_a >= 2 and n_b >= 2:
        found.basis = f"Welch's test on the spread between {n_a} and {n_b} runs"
        return tuple([Part(max(variance(v) / len(v), f), len(v) - 1)] for v, f in zip(runs, floors, strict=True))  # type: ignore[return-value]
    if n_a >= 2 or n_b >= 2:
        many, name = (runs[0], "A") if n_a >= 2 else (runs[1], "B")
        found.basis = f"spread between the {len(many)} runs of {name}, taken for the other side too"
        # One estimate serves both sides, so its degrees of freedom must not be counted twice.
        both = variance(many) * (1 / n_a + 1 / n_b)
        return [Part(max(both, sum(floors)), len(many) - 1)], []
    found.repeatability = repeatability
    usual = f"and {100 * repeatability:g} % between runs as usual (--repeatability)"
    means = [values[0] for values in runs]
    usual_parts = [Part((repeatability * mean) ** 2) for mean in means]
    inside = [_inside(side, other) for side, other in ((a, b), (b, a))]
    if inside[0] and inside[1]:
        what = ", ".join(sorted({path for path, _ in inside[0]}))
        found.basis = f"spread between repeats of {what} inside one run each, {usual}"
        return tuple(
            [*_lifted([part for _, part in parts], floor), extra]
            for parts, floor, extra in zip(inside, floors, usual_parts, strict=True)
        )  # type: ignore[return-value]
    if None in measured:
        found.warnings.append("neither doubt nor repetitions are known: no verdict")
        return None
    found.basis = f"doubt of measurement of one run each, {usual}"
    return [Part(floors[0]), usual_parts[0]], [Part(floors[1]), usual_parts[1]]


def _lifted(parts: list[Part], floor: float) -> list[Part]:
    """The same parts, scaled up to `floor` where their sum is below it."""
    total = sum(p.variance for p in parts)
    if total >= floor:
        return parts
    if total == 0:
        return [Part(floor)]
    return [Part(p.variance * floor / total, p.freedom) for p in parts]


def _inside(side: Side, other: Side) -> list[tuple[str, Part]]:
    """Repeated stages of a single run, each with its part in the variance of the side's energy.

    A stage compared by its path repeats itself; else the shallowest groups of 5 or more that follow one
    another, known on both sides.
    """
    if side.path is not None:
        if len(side.rows) < REPEATS or len(other.rows) < REPEATS:
            return []
        values = [r["total_j"] for r in side.rows]
        return [(side.path, Part(variance(values) / len(values), len(values) - 1))]
    mine, theirs = _groups(side.inner), _groups(other.inner)
    chosen: list[tuple[str, Part]] = []
    for path in sorted(mine.keys() & theirs.keys(), key=lambda p: (mine[p][0]["depth"], p)):
        if not any(path.startswith(taken + "/") for taken, _ in chosen):
            values = [r["total_j"] for r in mine[path]]
            chosen.append((path, Part(variance(values) * len(values), len(values) - 1)))
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
        and all(later["t0_ns"] >= one["t1_ns"] for one, later in zip(rows, rows[1:], strict=False))
    }


def _warnings(a: Side, b: Side) -> list[str]:
    """What makes the two sides less alike than their names say."""
    found: list[str] = []
    for name, side in (("A", a), ("B", b)):
        found += [f"{name} leaves out {spoken(why)}" for why in side.skipped[:4]]
        if len(side.skipped) > 4:
            found.append(f"{name} leaves out {len(side.skipped) - 4} more")
        flags = sorted({flag for row in side.rows for flag in row["flags"] or () if flag in FLAGS})
        found += [f"{name} is {flag}: {FLAGS[flag]}" for flag in flags]
    for key, what in (("name", "hardware"), ("driver", "driver")):
        kinds = [sorted({str(d[key]) for d in side.devices if d[key] is not None}) for side in (a, b)]
        if kinds[0] != kinds[1]:
            found.append(f"{what} differs: {', '.join(kinds[0]) or '?'} / {', '.join(kinds[1]) or '?'}")
    domains = [sorted({r["domains"] for r in side.rows if r["domains"]}) for side in (a, b)]
    if domains[0] != domains[1] and all(domains):
        found.append(f"not the same things are added up: {'; '.join(domains[0])} / {'; '.join(domains[1])}")
    units = [sorted({str(r["token_unit"]) for r in side.rows if r["token_unit"]}) for side in (a, b)]
    if units[0] != units[1]:
        found.append(f"tokens are counted differently: {units[0] or 'not at all'} / {units[1] or 'not at all'}")
    return found
