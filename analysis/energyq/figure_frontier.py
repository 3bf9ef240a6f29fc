"""What does quality cost? Energy against quality, student-only and one-off, with the frontier (figure 1)."""

from __future__ import annotations

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
    names: list[tuple[float, float, str]] = []  # written last, so that no line crosses one
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
        # A name goes where no other name is yet: right above, else right below, else further down.
        places = (at_y - 8, at_y + 16, at_y + 29, at_y - 21, at_y + 42, at_y - 34)
        free = [t for t in places if all(abs(t - b) > 11 or abs(at_x - a) > 34 for a, b, _ in names)]
        text_y = free[0] if free else places[-1]
        names.append((at_x, text_y, point.student))
    for at_x, text_y, name in names:
        drawing.words(at_x + 7, text_y, name, "small over")
