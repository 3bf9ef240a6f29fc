"""What does quality cost? Energy against quality, student-only and one-off, with the frontier (figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

from energyq.drawing import Axis, Drawing, nice
from energyq.frontier import Point, View
from energyq.looks import SERIES
from energyq.numbers import energy_unit, figures
from energyq.study import Study

_WIDTH, _HEIGHT, _LEFT, _TOP = 760, 320, 66, 52


def draw(study: Study, points: list[Point], reuse: float | None = None) -> Drawing | None:
    """Two panels, or three with a reuse; None where no quality is known."""
    known = [p for p in points if p.quality is not None and p.full.energy_j is not None]
    if not known:
        return None
    panels = [("student only", "student_only"), ("one-off", "full")]
    if known[0].at_reuse is not None:
        panels.append((f"shared by {reuse:g} uses" if reuse else "artifact shared", "at_reuse"))
    unit, scale = energy_unit([p.full.energy_j for p in known])
    text = "; ".join(
        f"{p.name}: quality {figures(p.quality, 3)}, one-off {figures((p.full.energy_j or 0) / scale)} {unit}"
        for p in known
    )
    wide = (_WIDTH - 10) / len(panels)
    drawing = Drawing(_WIDTH, _HEIGHT + 30, f"Energy against quality, {study.name}", text, "frontier")
    pipelines = study.pipelines()
    left = float(_LEFT)
    for i, pipeline in enumerate(pipelines):
        drawing.mark(left, 14, i)
        drawing.words(left + 10, 18, pipeline)
        left += 40 + 7.2 * len(pipeline)
    drawing.curve([(left, 14), (left + 24, 14)], "l-0")
    drawing.words(left + 30, 18, "frontier")
    qualities = [
        p.quality + s * (p.u_quality or 0.0) for p in known if p.quality is not None for s in (-1, 1)
    ]
    marks = nice(min(qualities), max(qualities))
    energies = [
        v.energy_j / scale for p in known for _, k in panels if (v := _view(p, k)).energy_j is not None
    ]
    for panel, (title, key) in enumerate(panels):
        start = _LEFT + panel * wide
        x = Axis(0, nice(0, max(energies))[-1], start, start + wide - 78)
        y = Axis(marks[0], marks[-1], _HEIGHT - 20, _TOP)
        drawing.axes(x, y, f"energy / {unit}", (study.metric or "quality") if panel == 0 else "")
        drawing.words((x.start_px + x.end_px) / 2, _TOP - 10, title, "bold", "middle")
        _panel(drawing, x, y, known, key, pipelines, scale)
    return drawing


def _view(point: Point, key: str) -> View:
    found = getattr(point, key)
    assert isinstance(found, View)
    return found


def _panel(
    drawing: Drawing, x: Axis, y: Axis, known: list[Point], key: str, pipelines: list[str], scale: float
) -> None:
    front = sorted(
        (v.energy_j / scale, p.quality) for p in known
        if (v := _view(p, key)).on_front and v.energy_j is not None and p.quality is not None
    )  # fmt: skip
    steps: list[tuple[float, float]] = []
    for energy, quality in front:
        if steps:
            steps.append((x.at(energy), steps[-1][1]))
        steps.append((x.at(energy), y.at(quality)))
    if steps:
        drawing.curve([*steps, (x.end_px, steps[-1][1])], "l-0")
    marks: list[tuple[float, float, str]] = []
    for point in known:
        view = _view(point, key)
        if view.energy_j is None or point.quality is None:
            continue
        at_x, at_y = x.at(view.energy_j / scale), y.at(point.quality)
        if view.u_energy_j is not None:
            low, high = (x.within((view.energy_j + s * view.u_energy_j) / scale) for s in (-1, 1))
            drawing.line(low, at_y, high, at_y, "error")
        if point.u_quality is not None:
            low, high = (y.at(point.quality + s * point.u_quality) for s in (-1, 1))
            drawing.line(at_x, low, at_x, high, "error")
        series = pipelines.index(point.pipeline) % SERIES
        drawing.mark(at_x, at_y, series, f"{point.name}: {figures(point.quality, 3)}")
        marks.append((at_x, at_y, point.student))
    _names(drawing, marks, y)  # last, so that no line crosses one


def _names(drawing: Drawing, marks: list[tuple[float, float, str]], axis: Axis) -> None:
    """Beside each mark its name, where no mark and no other name is: right if there is room, else left."""
    taken = [_Box(x - 6, y - 6, x + 6, y + 6) for x, y, _ in marks]
    for x, y, name in marks:
        wide = 7 * len(name)
        for dy in (-8, 16, -21, 29, -34, 42):
            right = _Box(x + 7, y + dy - 9, x + 7 + wide, y + dy + 2)
            left = _Box(x - 7 - wide, y + dy - 9, x - 7, y + dy + 2)
            inside = axis.end_px <= y + dy - 9 and y + dy + 2 <= axis.start_px
            free = [b for b in (right, left) if inside and not any(b.meets(other) for other in taken)]
            if free:
                break
        box = free[0] if free else right
        taken.append(box)
        drawing.words(box.x0, box.y1 - 2, name, "small over")


@dataclass(frozen=True)
class _Box:
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: _Box) -> bool:
        """Whether the two lie over each other."""
        beside = self.x1 <= other.x0 or other.x1 <= self.x0
        return not (beside or self.y1 <= other.y0 or other.y1 <= self.y0)
