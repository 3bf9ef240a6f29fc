"""Where did the energy of each pipeline go, stage by stage? The paper's second figure, in numbers.

The parts of a pipeline sum to its whole; a part that is not known makes the whole unknown, never smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from energyq.breakeven import mean_figure
from energyq.formats import opened, print_table
from energyq.numbers import energy_unit, in_unit, percent
from energyq.rows import write_rows
from energyq.study import PARTS, Study, cells, part_of


@dataclass(frozen=True)
class Piece:
    """One stage of one pipeline and size, mean over repetitions; `stage` None: the whole."""

    pipeline: str
    student: str
    stage: str | None
    part: str | None  # of the equation
    energy_j: float | None
    u_energy_j: float | None  # half the 95 % interval of the whole
    share: float | None  # of the whole
    repetitions: int


def breakdown(study: Study) -> list[Piece]:
    """Pieces in the order of the equation, each pipeline and size closed by its whole."""
    found = []
    for pipeline, student, runs in cells(study):
        names = sorted({s for e in runs for s in e.stages}, key=lambda s: PARTS.index(part_of(s)))
        means: dict[str, float | None] = {}
        for name in names:
            values = [e.stages.get(name, 0.0) for e in runs]  # one without the stage took nothing
            known = [v for v in values if v is not None]
            means[name] = fmean(known) if len(known) == len(values) else None
        whole = mean_figure(runs, None, None)
        parts = [j for j in means.values() if j is not None]
        if whole.mean_j is not None and len(parts) == len(means):
            assert math.isclose(sum(parts), whole.mean_j, rel_tol=1e-9), (pipeline, student, means)
        found += [
            Piece(pipeline, student, name, part_of(name), j, None,
                  j / whole.mean_j if j is not None and whole.mean_j else None, len(runs))
            for name, j in means.items()
        ]  # fmt: skip
        found.append(Piece(pipeline, student, None, None, whole.mean_j, whole.u_j, None, len(runs)))
    return found


def show(study: Study, pieces: list[Piece], format_: str | None, output: Path | None) -> None:
    """One row a pipeline and size, its stages side by side; or one row a piece, with every digit."""
    if write_rows([vars(p) for p in pieces], format_, output):
        return
    unit, columns, rows = side_by_side(study, pieces)
    with opened(output) as out:
        out.write(f"study {study.name}, energy in {unit}\n")
        print_table(columns, [i > 1 for i in range(len(columns))], rows, out, ["±", "teacher / %"])
        out.writelines(line + "\n" for line in study.notes)


def side_by_side(study: Study, pieces: list[Piece]) -> tuple[str, list[str], list[list[str]]]:
    """(unit, columns, rows): one row a pipeline and size, its stages beside each other."""
    unit, scale = energy_unit([p.energy_j for p in pieces])
    stages = list(dict.fromkeys(p.stage for p in pieces if p.stage is not None))
    stages.sort(key=lambda s: PARTS.index(part_of(s)))
    rows = []
    for pipeline, student, _ in cells(study):
        mine: dict[str | None, Piece] = {
            p.stage: p for p in pieces if (p.pipeline, p.student) == (pipeline, student)
        }
        shares = [p.share for p in mine.values() if p.part == "teacher"]
        share = sum(s for s in shares if s is not None) if shares and None not in shares else None
        rows.append([
            pipeline, student, *(in_unit(scale, mine[s].energy_j) if s in mine else "" for s in stages),
            in_unit(scale, mine[None].energy_j), in_unit(scale, mine[None].u_energy_j),
            percent(share) if shares else "",
        ])  # fmt: skip
    return unit, ["pipeline", "student", *stages, f"total / {unit}", "±", "teacher / %"], rows


def is_whole(pieces: list[Piece]) -> bool:
    """Whether every energy is known."""
    return all(p.energy_j is not None for p in pieces)
