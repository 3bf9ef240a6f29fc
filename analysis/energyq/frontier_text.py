"""How does a frontier read: a table, who is beaten by whom, and how the ranking changes with reuse?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from energyq.formats import opened, print_table
from energyq.frontier import Point, View, turns
from energyq.numbers import NONE, energy_unit, figures, in_unit
from energyq.rows import write_rows
from energyq.study import Study, variant_name

NO_QUALITY = "no quality is known for any run of this study, so there is no frontier, only energies"


def show(
    study: Study, points: list[Point], reuse: float | None, format_: str | None, output: Path | None
) -> None:
    """Write it as text for people, or as rows with every digit."""
    rows = [asdict(p) | {"notes": [*study.mixed, *p.notes]} for p in points]
    if write_rows(rows, format_, output):
        return
    unit, scale = energy_unit([p.full.energy_j for p in points])
    views = [("student only", "student_only"), ("one-off", "full")]
    if reuse is not None:
        views.append((f"at {reuse:g} uses", "at_reuse"))
    several = any(p.variant for p in points)
    columns = ["pipeline", "student", *(["training"] if several else []), "quality", "±"]
    columns += [name for title, _ in views for name in (f"{title} {unit}", "on front")]
    told = [
        [p.pipeline, p.student, *([p.variant or ""] if several else [])]
        + [figures(p.quality, 3), figures(p.u_quality, 2)]
        + [cell for _, key in views for cell in _cells(getattr(p, key), scale)]
        for p in points
    ]
    with opened(output) as out:
        out.write(f"study {study.name}\n")
        print_table(columns, [i > 1 + several for i in range(len(columns))], told, out, ["±"])
        out.write("\n")
        out.writelines(
            line + "\n" for line in [*_beaten(points, views), *rankings(study), *_below(study, points)]
        )


def _cells(view: View, scale: float) -> list[str]:
    front = NONE if view.on_front is None else "yes" if view.on_front else f"no: {view.beaten_by}"
    return [in_unit(scale, view.energy_j), front]


def _beaten(points: list[Point], views: list[tuple[str, str]]) -> Iterator[str]:
    for title, key in views:
        for point in points:
            view: View = getattr(point, key)
            if view.on_front is False:
                doubt = {True: "", False: ", inside noise", None: ", no doubt stated"}[view.surely]
                yield f"{title}: {point.name} is beaten by {view.beaten_by}{doubt}"


def rankings(study: Study) -> Iterator[str]:
    """The order by energy for each size, wherever it changes with the number of uses."""
    variants = study.variants()
    for student in study.students():
        for variant in variants:
            which = f" ({variant_name(variant.stop) or 'no label stop'})" if len(variants) > 1 else ""
            for n, order in turns(variant, student):
                since = "one-off" if n == 1 else f"from {figures(n, 3)} uses on"
                yield f"{student}{which}, {since}, cheapest first: {', '.join(order)}"


def _below(study: Study, points: list[Point]) -> Iterator[str]:
    if all(p.quality is None for p in points):
        yield NO_QUALITY
    elif any(p.quality is None for p in points):
        yield f"no quality is known of {', '.join(p.name for p in points if p.quality is None)}: left out"
    if any(p.repetitions == 1 for p in points):
        yield "one repetition each says nothing of the spread between repetitions: no frontier is sure by it"
    yield from study.notes
