"""Where did the energy of each pipeline go, stage by stage? The paper's second figure, in numbers.

The parts of a pipeline sum to its whole; a part that is not known makes the whole unknown, never smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from energyq.formats import opened, print_table
from energyq.means import mean_figure
from energyq.numbers import NONE, energy_unit, figures, in_unit, percent, share_percent
from energyq.rows import write_rows
from energyq.starved import is_starved
from energyq.study import PARTS, Execution, Study, cells, part_of, variant_name


@dataclass(frozen=True)
class Piece:
    """One stage of one pipeline and size, mean over repetitions; `stage` None: the whole. None: not known."""

    pipeline: str
    student: str
    stop: str | None  # what ended the trainings: budget, to_target
    stage: str | None
    part: str | None  # of the equation
    energy_j: float | None
    u_energy_j: float | None  # half the 95 % interval of the whole
    share: float | None  # of the whole
    repetitions: int
    gpu_j: float | None = None
    cpu_j: float | None = None
    estimated_share: float | None = None  # of the energy, what is no measurement
    tokens: float | None = None  # of a stage its own, of the whole those trained on
    token_unit: str | None = None
    j_per_token: float | None = None
    starved_share: float | None = None  # of the training's time near the idle floor


def breakdown(study: Study) -> list[Piece]:
    """Pieces in the order of the equation, each pipeline and size closed by its whole."""
    return [
        piece
        for variant in study.variants()
        for pipeline, student, runs in cells(variant)
        for piece in _of_cell(pipeline, student, runs)
    ]


def _of_cell(pipeline: str, student: str, runs: list[Execution]) -> list[Piece]:
    names = sorted({s for e in runs for s in e.stages}, key=lambda s: PARTS.index(part_of(s)))
    means: dict[str, float | None] = {}
    for name in names:
        means[name] = _mean([e.stages.get(name, 0.0) for e in runs])  # one without the stage took nothing
    whole = mean_figure(runs, None, None)
    parts = [j for j in means.values() if j is not None]
    if whole.mean_j is not None and len(parts) == len(means):
        assert math.isclose(sum(parts), whole.mean_j, rel_tol=1e-9, abs_tol=1e-9), (pipeline, student, means)
    stop, n = runs[0].stop, len(runs)
    found = [
        Piece(pipeline, student, stop, name, part_of(name), j, None,
              j / whole.mean_j if j is not None and whole.mean_j else None, n, **_more(runs, [name], j))
        for name, j in means.items()
    ]  # fmt: skip
    trained = [name for name in names if part_of(name) == "student"]
    more = _more(runs, names, whole.mean_j)
    more |= {k: v for k, v in _more(runs, trained, whole.mean_j).items() if k in _OF_TRAINING}
    found.append(Piece(pipeline, student, stop, None, None, whole.mean_j, whole.u_j, None, n, **more))
    return found


_OF_TRAINING: Final = ("tokens", "token_unit", "j_per_token", "starved_share")
"""What the whole has of its training: the paper divides E_total by the tokens trained on."""


def _more(runs: list[Execution], names: list[str], energy_j: float | None) -> dict[str, Any]:
    """What is known of these stages together beside their energy, mean over repetitions."""
    lists = [[e.details[name] for name in names if name in e.details] for e in runs]
    if not all(lists):
        return {}
    gpu, cpu, estimated = (
        _mean([_some(getattr(d, column) for d in details) for details in lists])
        for column in ("gpu_j", "cpu_j", "estimated_j")
    )
    units = {d.token_unit for details in lists for d in details if d.token_unit}
    tokens = _mean([_some(d.tokens for d in details) for details in lists]) if len(units) == 1 else None
    starved = [d.starved_share for details in lists for d in details if d.starved_share is not None]
    return {
        "gpu_j": gpu, "cpu_j": cpu, "tokens": tokens, "token_unit": units.pop() if tokens else None,
        "estimated_share": estimated / energy_j if estimated is not None and energy_j else None,
        "j_per_token": energy_j / tokens if energy_j is not None and tokens else None,
        "starved_share": fmean(starved) if starved else None,
    }  # fmt: skip


def _some(values: Iterable[float | None]) -> float | None:
    """The sum of what is known: a stage without a GPU has no GPU energy. None if nothing is."""
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one is."""
    known = [v for v in values if v is not None]
    return fmean(known) if known and len(known) == len(values) else None


def show(study: Study, pieces: list[Piece], format_: str | None, output: Path | None) -> None:
    """One row a pipeline and size, its stages side by side; or one row a piece, with every digit."""
    if write_rows([vars(p) for p in pieces], format_, output):
        return
    unit, columns, rows = side_by_side(study, pieces)
    with opened(output) as out:
        out.write(f"study {study.name}, energy in {unit}\n")
        numbers = [i > 1 and c not in ("training", "unit") for i, c in enumerate(columns)]
        print_table(columns, numbers, rows, out, ["unit", "est. %", "GPU", "CPU", "±", "teacher / %"])
        out.writelines(line + "\n" for line in [*starved_lines(pieces), *study.notes])


def starved_lines(pieces: list[Piece]) -> Iterator[str]:
    """Which trainings waited more than they worked."""
    several = len({p.stop for p in pieces}) > 1
    for p in pieces:
        if p.stage is None and is_starved(p.starved_share):
            share = percent(p.starved_share)
            which = f" ({variant_name(p.stop)})" if several and p.stop else ""
            yield f"STARVED: {p.pipeline} {p.student}{which}, {share} % of its training near the idle floor"


def side_by_side(study: Study, pieces: list[Piece]) -> tuple[str, list[str], list[list[str]]]:
    """(unit, columns, rows): one row a pipeline and size, its stages beside each other."""
    unit, scale = energy_unit([p.energy_j for p in pieces])
    stages = list(dict.fromkeys(p.stage for p in pieces if p.stage is not None))
    stages.sort(key=lambda s: PARTS.index(part_of(s)))
    wholes = [p for p in pieces if p.stage is None]
    wholes.sort(key=lambda p: (study.pipelines().index(p.pipeline), study.students().index(p.student)))
    extra: dict[str, Callable[[Piece], str]] = {}  # columns that no CSV fills
    if any(p.gpu_j is not None for p in wholes):
        extra["GPU"] = lambda p: in_unit(scale, p.gpu_j)
    if any(p.cpu_j is not None for p in wholes):
        extra["CPU"] = lambda p: in_unit(scale, p.cpu_j)
    if any(p.estimated_share for p in wholes):
        extra["est. %"] = lambda p: share_percent(p.estimated_share)
    if any(p.j_per_token is not None for p in wholes):
        extra |= {"J/token": lambda p: figures(p.j_per_token), "unit": lambda p: p.token_unit or NONE}
    if any(p.starved_share is not None for p in wholes):
        extra["starved / %"] = lambda p: percent(p.starved_share)
    several = len({p.stop for p in wholes}) > 1
    rows = []
    for whole in wholes:
        cell = (whole.pipeline, whole.student, whole.stop)
        mine = {p.stage: p for p in pieces if (p.pipeline, p.student, p.stop) == cell}
        shares = [p.share for p in mine.values() if p.part == "teacher"]
        share = sum(s for s in shares if s is not None) if shares and None not in shares else None
        rows.append([
            whole.pipeline, whole.student, *([variant_name(whole.stop) or NONE] if several else []),
            *(in_unit(scale, mine[s].energy_j) if s in mine else "" for s in stages),
            in_unit(scale, whole.energy_j), in_unit(scale, whole.u_energy_j),
            percent(share) if shares else "", *(told(whole) for told in extra.values()),
        ])  # fmt: skip
    columns = ["pipeline", "student", *(["training"] if several else []), *stages]
    return unit, [*columns, f"total / {unit}", "±", "teacher / %", *extra], rows


def is_whole(pieces: list[Piece]) -> bool:
    """Whether every energy is known."""
    return all(p.energy_j is not None for p in pieces)
