"""How did power go during a run, and which stage was when? A trace that can be zoomed and prints whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from energyq import drawing as drawn
from energyq.drawing import Axis, Drawing, nice
from energyq.looks import SERIES

_WIDTH, _HEIGHT, _LEFT, _TOP, _ROW = 940, 260, 60, 34, 16


@dataclass(frozen=True)
class Trace:
    """One device's power in equal pieces: (number of the piece, lowest, highest, mean W)."""

    name: str
    reach: float  # pieces between two that are one line still: a slow source fills only some
    pieces: Sequence[tuple[int, float, float, float]]


@dataclass(frozen=True)
class Span:
    """One stage: name, nesting, and when, s since the trace's begin."""

    name: str
    depth: int
    t0_s: float
    t1_s: float


def draw(
    title: str, traces: Sequence[Trace], spans: Sequence[Span], seconds: float, pieces: int, name: str
) -> Drawing:
    """Bands from lowest to highest of each piece, the mean as a line, stages as bars below."""
    rows = max((s.depth for s in spans), default=-1) + 1
    base = _HEIGHT + rows * _ROW
    drawing = Drawing(_WIDTH, base + 40, title, _said(traces, spans), name)
    wide = _WIDTH - _LEFT - 14
    y = Axis(0, nice(0, max((p[2] for t in traces for p in t.pieces), default=1.0))[-1], _HEIGHT, _TOP)
    for tick in y.ticks():
        drawing.line(_LEFT, y.at(tick), _LEFT + wide, y.at(tick), "grid")
        drawing.words(_LEFT - 6, y.at(tick) + 4, f"{tick:g}", "small", "end")
    drawing.words(16, (_HEIGHT + _TOP) / 2, "power / W", "", "middle", -90)
    left = float(_LEFT)
    for i, trace in enumerate(traces):
        drawing.curve([(left, 14), (left + 24, 14)], f"l-{i % SERIES}")
        drawing.words(left + 30, 18, trace.name)
        left += 56 + 7.2 * len(trace.name)
    inside = [shape for i, t in enumerate(traces) for shape in _band(t, i % SERIES, wide / pieces, y)]
    bars = [_bar(s, wide / seconds) for s in spans]
    drawing.shapes.append(drawn.Trace(_LEFT, wide, base, seconds, [*inside, *bars]))
    names = [
        drawn.Words(_LEFT + s.t0_s / seconds * wide + 4, _HEIGHT + s.depth * _ROW + 13, s.name, "small on")
        for s in spans
        if (s.t1_s - s.t0_s) / seconds * wide > 7 * len(s.name) + 6
    ]
    drawing.shapes.append(drawn.Group("names", names))
    times = [
        drawn.Words(_LEFT + tick / seconds * wide, base + 16, f"{tick:g}", "small", "middle")
        for tick in nice(0, seconds, 6)
        if tick <= seconds
    ]
    drawing.shapes.append(drawn.Group("t", times, base + 16))
    drawing.words(_LEFT + wide / 2, base + 34, "time since the run's first stage / s", "", "middle")
    return drawing


def _band(trace: Trace, series: int, scale: float, y: Axis) -> Iterator[drawn.Shape]:
    """The range as an area and the mean as a line; pieces without a sample break both."""
    runs: list[list[tuple[int, float, float, float]]] = []
    for piece in trace.pieces:
        if runs and piece[0] - runs[-1][-1][0] <= trace.reach:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    for run in runs:
        x = [(p[0] + 0.5) * scale for p in run]
        up = [(a, y.at(p[2])) for a, p in zip(x, run, strict=True)]
        down = [(a, y.at(p[1])) for a, p in zip(x, run, strict=True)]
        yield drawn.Area([*up, *reversed(down)], series)
        yield drawn.Curve([(a, y.at(p[3])) for a, p in zip(x, run, strict=True)], f"l-{series}", inside=True)


def _bar(span: Span, scale: float) -> drawn.Rect:
    width = max((span.t1_s - span.t0_s) * scale, 0.3)
    kind = "student" if span.depth % 2 == 0 else "preprocess"
    return drawn.Rect(
        span.t0_s * scale, _HEIGHT + span.depth * _ROW + 1, width, _ROW - 2, f"bar p-{kind}",
        f"{span.name}: {span.t0_s:.3f} to {span.t1_s:.3f} s", inside=True,
    )  # fmt: skip


def _said(traces: Sequence[Trace], spans: Sequence[Span]) -> str:
    ranges = [
        f"{t.name} between {min(p[1] for p in t.pieces):.0f} and {max(p[2] for p in t.pieces):.0f} W"
        for t in traces
        if t.pieces
    ]
    stages = [f"{s.name} from {s.t0_s:.1f} to {s.t1_s:.1f} s" for s in spans if s.depth == 0]
    return "; ".join(ranges + stages[:12])
