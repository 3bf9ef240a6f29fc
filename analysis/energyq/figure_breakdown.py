"""Where did the energy go? Stacked bars by stage, pipelines side by side within each size (figure 2)."""

from __future__ import annotations

from energyq.breakdown import Piece
from energyq.drawing import Axis, Drawing, nice
from energyq.numbers import energy_unit, figures, in_unit
from energyq.study import PARTS, Study, cells

_BAR, _GAP, _GROUP, _LEFT, _RIGHT, _TOP = 20, 6, 16, 150, 90, 34


def draw(study: Study, pieces: list[Piece]) -> Drawing:
    """One bar a pipeline and size; what is not known has no bar, and says so."""
    rows = sorted(
        ((p, s) for p, s, _ in cells(study)),
        key=lambda row: (study.students().index(row[1]), study.pipelines().index(row[0])),
    )
    unit, scale = energy_unit([p.energy_j for p in pieces])
    wholes = {(p.pipeline, p.student): p for p in pieces if p.stage is None}
    largest = max((w.energy_j / scale for w in wholes.values() if w.energy_j), default=1.0)
    height = _TOP + len(rows) * (_BAR + _GAP) + len(study.students()) * _GROUP + 46
    text = "; ".join(f"{p} {s}: {in_unit(scale, wholes[p, s].energy_j)} {unit}" for p, s in rows)
    drawing = Drawing(760, height, f"Energy by stage, {study.name}", text, "breakdown")
    x = Axis(0, nice(0, largest)[-1], _LEFT, 760 - _RIGHT)
    drawing.x_axis(x, height - 46, f"energy / {unit}")
    _legend(drawing, {p.part for p in pieces if p.part})
    top, student_before = float(_TOP), None
    for pipeline, student in rows:
        if student != student_before:
            top += _GROUP
            drawing.words(8, top + _BAR - 5, student, "bold")
            student_before = student
        drawing.words(_LEFT - 8, top + _BAR - 5, pipeline, "", "end")
        _bar(
            drawing,
            x,
            top,
            [p for p in pieces if (p.pipeline, p.student) == (pipeline, student)],
            scale,
            unit,
        )
        top += _BAR + _GAP
    return drawing


def _bar(drawing: Drawing, x: Axis, top: float, pieces: list[Piece], scale: float, unit: str) -> None:
    left = 0.0
    for piece in pieces:
        if piece.stage is None:
            if piece.energy_j is None:
                drawing.words(x.at(left) + 6, top + _BAR - 5, "not known", "small")
                continue
            u = piece.u_energy_j or 0.0
            low, high = (x.within((piece.energy_j + sign * u) / scale) for sign in (-1, 1))
            drawing.line(low, top + _BAR / 2, high, top + _BAR / 2, "error")
            drawing.words(high + 6, top + _BAR - 5, f"{figures(piece.energy_j / scale)} {unit}", "small")
        elif piece.energy_j is not None:
            right = left + piece.energy_j / scale
            hint = f"{piece.stage}: {figures(piece.energy_j / scale)} {unit}"
            place = (x.at(left), top, x.at(right) - x.at(left), _BAR)
            drawing.rect(*place, f"bar p-{piece.part}", hint, hatched=piece.part == "teacher")
            left = right


def _legend(drawing: Drawing, parts: set[str | None]) -> None:
    left = float(_LEFT)
    for part in PARTS:
        if part in parts:
            drawing.rect(left, 10, 12, 12, f"bar p-{part}", hatched=part == "teacher")
            drawing.words(left + 17, 20, part)
            left += 34 + 7.2 * len(part)
