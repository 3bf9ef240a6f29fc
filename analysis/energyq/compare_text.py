"""How does a comparison read?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from energyq.compare import Comparison, Figure
from energyq.formats import jsonable, opened, print_table
from energyq.numbers import NONE, figures, share_percent


def show(found: Comparison, format_: str | None, output: Path | None) -> None:
    """Write it as text, or as one JSON object."""
    with opened(output) as out:
        if format_ == "json":
            out.write(json.dumps(jsonable(asdict(found)), ensure_ascii=False, indent=1) + "\n")
        else:
            _table(found, out)
            out.writelines(line + "\n" for line in _lines(found))


def _table(found: Comparison, out: IO[str]) -> None:
    unit = found.a.token_unit if found.a.token_unit == found.b.token_unit else None
    columns = [
        "",
        "run",
        "stage",
        "of",
        "energy J",
        "± J",
        "± total",
        "est. %",
        "seconds",
        "mean W",
        f"J/{unit}",
    ]
    rows = [_row(name, figure) for name, figure in (("A", found.a), ("B", found.b))]
    keep = [i for i, name in enumerate(columns) if any(row[i] for row in rows) and (unit or name != "J/None")]
    print_table(
        [columns[i] for i in keep],
        [columns[i] not in ("", "run", "stage", "of") for i in keep],
        [[row[i] or NONE for i in keep] for row in rows],
        out,
        ["± total", "mean W", "of", "seconds"],
    )


def _row(name: str, side: Figure) -> list[str]:
    runs = f"{side.n_runs} run{'s' * (side.n_runs != 1)}"
    of = runs if side.n_stages is None else f"{side.n_stages} in {runs}"
    return [
        name, side.name, side.stage or "", of, figures(side.energy_j), _some(side.u_random_j),
        _some(side.u_total_j), share_percent(side.estimated_share) if side.estimated_share else "",
        figures(side.seconds), figures(side.mean_w), figures(side.j_per_token),
    ]  # fmt: skip


def _some(doubt: float | None) -> str:
    return "" if doubt is None else figures(doubt, 2)


def _lines(found: Comparison) -> Iterator[str]:
    many = [s for s in (found.a, found.b) if s.n_runs > 1 or (s.n_stages or 0) > 1]
    if many:
        yield f"energy: the mean of one {'stage' if found.a.stage else 'run'}"
    if found.difference_j is None:
        yield "B − A: unknown, since a side has no energy"
    else:
        half = "" if found.u_difference_j is None else f" ± {figures(found.u_difference_j, 2)} J (95 %)"
        yield f"B − A: {_signed(found.difference_j)} J{half}"
    if found.ratio is not None:
        between = ""
        if found.ratio_low is not None and found.ratio_high is not None:
            between = f", between {found.ratio_low:.4f} and {found.ratio_high:.4f} (95 %)"
        yield f"B / A: {found.ratio:.4f}{between}"
    if found.ratio_per_token is not None:
        yield f"B / A per {found.a.token_unit}: {found.ratio_per_token:.4f}"
    yield f"significant at 95 %: {_verdict(found.significant)}"
    if found.basis:
        yield f"  by {found.basis}"
    yield from _executions(found)
    board = "same devices: their sensors' own error is common to both and cancels"
    if not found.same_board:
        board = "different devices: their sensors' own errors are in the doubt"
    yield board
    for warning in found.warnings:
        yield f"warning: {warning}"


def _executions(found: Comparison) -> Iterator[str]:
    if found.executions_differ is None or found.u_measured_j is None:
        return
    doubt = f"± {figures(found.u_measured_j, 2)} J, doubt of measurement alone"
    if found.executions_differ:
        yield f"these executions did take different energy ({doubt})"
        if found.significant is False or found.repeatability is not None:
            yield "  which says little about the programs: only repeated runs tell how they spread"
    else:
        yield f"these executions cannot be told apart ({doubt})"


def _verdict(significant: bool | None) -> str:
    return "not known" if significant is None else "yes" if significant else "no"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + figures(abs(value))
