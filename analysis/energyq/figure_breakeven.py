"""From how many uses on does distilling pay? Energy a student against uses, one panel a size (figure 3)."""

from __future__ import annotations

import math

from energyq.breakeven import POOLED, BreakEven, energy_at
from energyq.breakeven_text import sentence
from energyq.drawing import Axis, Drawing, nice
from energyq.looks import SERIES
from energyq.numbers import energy_unit, figures
from energyq.study import Study

_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM = 240, 300, 62, 52, 46


def draw(study: Study, answers: list[BreakEven]) -> Drawing:
    """E_teacher / n and the rest, against the baseline; a line falls from where the two meet to N*."""
    single = [a for a in answers if a.student != POOLED and a.total_j is not None]
    students = [s for s in study.students() if any(a.student == s for a in single)]
    unit, scale = energy_unit([a.total_j for a in single])
    stars = [a.n_star for a in single if a.n_star]
    most = 10 ** math.ceil(math.log10(max([*stars, 9.0]) * 1.5))
    drawing = Drawing(
        max(len(students), 1) * _PANEL + 30, _HEIGHT + 24, f"Energy a student against reuse, {study.name}",
        "; ".join(sentence(a) for a in answers), "breakeven",
    )  # fmt: skip
    pipelines = study.pipelines()
    _legend(drawing, pipelines)
    for panel, student in enumerate(students):
        mine = [a for a in single if a.student == student]
        left = _LEFT + panel * _PANEL
        x = Axis(1, most, left, left + _PANEL - 62, log=True)
        highest = max([a.total_j or 0 for a in mine] + [a.baseline_total_j or 0 for a in mine]) / scale
        y = Axis(0, nice(0, highest)[-1], _HEIGHT - _BOTTOM + 24, _TOP)
        drawing.axes(x, y, "uses of the teacher's artifact", f"energy / {unit}" if panel == 0 else "")
        drawing.words((x.start_px + x.end_px) / 2, _TOP - 10, student, "bold", "middle")
        base = mine[0].baseline_total_j
        if base is not None:
            drawing.curve([(x.start_px, y.at(base / scale)), (x.end_px, y.at(base / scale))], "l-0")
        for answer in mine:
            _one(drawing, x, y, answer, pipelines.index(answer.pipeline) % SERIES, scale)
    return drawing


def _one(drawing: Drawing, x: Axis, y: Axis, answer: BreakEven, series: int, scale: float) -> None:
    steps = [x.low * (x.high / x.low) ** (i / 60) for i in range(61)]
    points = [(x.at(n), y.at(e / scale)) for n in steps if (e := energy_at(answer, n)) is not None]
    drawing.curve(points, f"l-{series}")
    if answer.n_star is not None and x.low <= answer.n_star <= x.high and answer.baseline_total_j is not None:
        at = y.at((energy_at(answer, answer.n_star) or 0.0) / scale)
        drawing.line(x.at(answer.n_star), at, x.at(answer.n_star), y.start_px, "grid")
        drawing.mark(x.at(answer.n_star), at, series, f"{answer.pipeline}: N* = {figures(answer.n_star, 3)}")


def _legend(drawing: Drawing, pipelines: list[str]) -> None:
    left = float(_LEFT)
    for i, pipeline in enumerate(pipelines):
        drawing.curve([(left, 14), (left + 30, 14)], f"l-{i % SERIES}")
        if i:
            drawing.mark(left + 15, 14, i)
        name = pipeline if i else f"{pipeline} (baseline)"
        drawing.words(left + 36, 18, name)
        left += 60 + 7.2 * len(name)
