"""How did power go during a run, and which stage was when? A trace that can be zoomed and prints whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from energyq.svg import SERIES, Axis, Drawing, nice

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


def draw(title: str, traces: Sequence[Trace], spans: Sequence[Span], seconds: float, pieces: int) -> Drawing:
    """Bands from lowest to highest of each piece, the mean as a line, stages as bars below."""
    rows = max((s.depth for s in spans), default=-1) + 1
    base = _HEIGHT + rows * _ROW
    drawing = Drawing(_WIDTH, base + 40, title, _said(traces, spans), "power")
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
    inside = "".join(_band(t, i, wide / pieces, y) for i, t in enumerate(traces))
    inside += "".join(_bar(s, wide / seconds) for s in spans)
    drawing.parts.append(
        f'<svg x="{_LEFT}" y="0" width="{wide}" height="{base}" viewBox="0 0 {wide} {base}" data-w="{wide}" '
        f'data-h="{base}" data-s="{seconds:.6g}" preserveAspectRatio="none" class="zoom">'
        f'<rect width="{wide}" height="{base}" fill="transparent"/>{inside}</svg><g class="names">'
    )
    for span in spans:
        room = (span.t1_s - span.t0_s) / seconds * wide
        if room > 7 * len(span.name) + 6:
            drawing.words(
                _LEFT + span.t0_s / seconds * wide + 4,
                _HEIGHT + span.depth * _ROW + 13,
                span.name,
                "small on",
            )
    drawing.parts.append(f'</g><g class="t" data-y="{base + 16}">')
    for tick in nice(0, seconds, 6):
        if tick <= seconds:
            drawing.words(_LEFT + tick / seconds * wide, base + 16, f"{tick:g}", "small", "middle")
    drawing.parts.append("</g>")
    drawing.words(_LEFT + wide / 2, base + 34, "time since the run's first stage / s", "", "middle")
    return drawing


def _band(trace: Trace, series: int, scale: float, y: Axis) -> str:
    """The range as an area and the mean as a line; pieces without a sample break both."""
    runs: list[list[tuple[int, float, float, float]]] = []
    for piece in trace.pieces:
        if runs and piece[0] - runs[-1][-1][0] <= trace.reach:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    found = []
    for run in runs:
        x = [(p[0] + 0.5) * scale for p in run]
        up = "L".join(f"{a:.2f} {y.at(p[2]):.1f}" for a, p in zip(x, run, strict=True))
        down = "L".join(f"{a:.2f} {y.at(p[1]):.1f}" for a, p in zip(reversed(x), reversed(run), strict=True))
        mean = "L".join(f"{a:.2f} {y.at(p[3]):.1f}" for a, p in zip(x, run, strict=True))
        found.append(f'<path class="m-{series % SERIES}" fill-opacity=".22" d="M{up}L{down}Z"/>')
        found.append(
            f'<path class="line l-{series % SERIES}" vector-effect="non-scaling-stroke" '
            f'style="stroke-width:1.2" d="M{mean}"/>'
        )
    return "".join(found)


def _bar(span: Span, scale: float) -> str:
    width = max((span.t1_s - span.t0_s) * scale, 0.3)
    hint = f"{span.name}: {span.t0_s:.3f} to {span.t1_s:.3f} s"
    kind = "student" if span.depth % 2 == 0 else "preprocess"
    return (
        f'<rect class="bar p-{kind}" x="{span.t0_s * scale:.2f}" '
        f'y="{_HEIGHT + span.depth * _ROW + 1}" width="{width:.2f}" height="{_ROW - 2}" '
        f'vector-effect="non-scaling-stroke"><title>{escape(hint)}</title></rect>'
    )


def _said(traces: Sequence[Trace], spans: Sequence[Span]) -> str:
    ranges = [
        f"{t.name} between {min(p[1] for p in t.pieces):.0f} and {max(p[2] for p in t.pieces):.0f} W"
        for t in traces
        if t.pieces
    ]
    stages = [f"{s.name} from {s.t0_s:.1f} to {s.t1_s:.1f} s" for s in spans if s.depth == 0]
    return "; ".join(ranges + stages[:12])
