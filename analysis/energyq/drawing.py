"""What is a figure made of, before it becomes SVG (`energyq.svg`) or PNG (`energyq.png`)?

Shapes in pixels, y downwards, each with the class that gives it its look (`energyq.looks`). One drawing
serves both formats, so that they cannot show different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from energyq.looks import SERIES
from energyq.numbers import figures


@dataclass
class Axis:
    """Maps values to pixels; `log`: by decades."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, v = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start_px + (v - low) / ((high - low) or 1.0) * (self.end_px - self.start_px)

    def within(self, value: float) -> float:
        """The pixel of a value, or the axis's end where it lies beyond: few repetitions may spread far."""
        return self.at(min(max(value, self.low), self.high))

    def ticks(self) -> list[float]:
        """Round values within."""
        return [t for t in (decades if self.log else nice)(self.low, self.high) if self.low <= t <= self.high]


def nice(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that cover low to high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
    first = math.floor(low / step)
    return [round(i * step, 12) for i in range(first, math.ceil(high / step - 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 … within; powers of ten alone where there are more than two decades."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low <= 100 * (1 + 1e-9) else (1,)
    return [m * 10.0**k for k in powers for m in steps]


def label(value: float) -> str:
    """A tick's number."""
    return f"{value:g}" if abs(value) < 1e5 else figures(value, 3)


@dataclass(frozen=True)
class Line:
    """A straight line of a class."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


@dataclass(frozen=True)
class Rect:
    """A rectangle; `hint` shows when pointed at; `inside`: in a trace that can be zoomed."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    hint: str = ""
    hatched: bool = False
    inside: bool = False


@dataclass(frozen=True)
class Words:
    """Text at its baseline; `turn`: degrees."""

    x: float
    y: float
    text: str
    kind: str = ""
    anchor: str = "start"
    turn: int = 0


@dataclass(frozen=True)
class Curve:
    """A line through points; `inside`: in a trace that can be zoomed."""

    points: Sequence[tuple[float, float]]
    kind: str
    inside: bool = False


@dataclass(frozen=True)
class Area:
    """What points enclose, in the pale colour of a series."""

    points: Sequence[tuple[float, float]]
    series: int


@dataclass(frozen=True)
class Mark:
    """The mark of a series: circle, square, triangle, diamond."""

    x: float
    y: float
    series: int
    hint: str = ""


@dataclass(frozen=True)
class Trace:
    """Shapes beyond `x` that the page's script zooms in time; `seconds` are the whole width."""

    x: float
    width: float
    height: float
    seconds: float
    shapes: Sequence[Shape]


@dataclass(frozen=True)
class Group:
    """Shapes that the page's script finds by a class; `y`: where it writes its own."""

    kind: str
    shapes: Sequence[Shape]
    y: float | None = None


Shape = Line | Rect | Words | Curve | Area | Mark | Trace | Group


@dataclass
class Drawing:
    """Collects shapes; `title` and `text` are what a reader hears who does not see."""

    width: float
    height: float
    title: str
    text: str
    name: str  # unique on a page: ids are made of it
    shapes: list[Shape] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line of a class."""
        self.shapes.append(Line(x1, y1, x2, y2, kind))

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, hint: str = "", *,
        hatched: bool = False,
    ) -> None:  # fmt: skip
        """A rectangle; `hint` shows when pointed at."""
        self.shapes.append(Rect(x, y, max(width, 0.0), height, kind, hint, hatched))

    def words(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", turn: int = 0
    ) -> None:
        """Text at its baseline; `turn`: degrees."""
        self.shapes.append(Words(x, y, text, kind, anchor, turn))

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        self.shapes.append(Curve(points, kind))

    def mark(self, x: float, y: float, series: int, hint: str = "") -> None:
        """The mark of a series."""
        self.shapes.append(Mark(x, y, series % SERIES, hint))

    def axes(self, x: Axis, y: Axis, x_title: str, y_title: str) -> None:
        """Both axes with ticks, grid and titles."""
        for tick in y.ticks():
            self.line(x.start_px, y.at(tick), x.end_px, y.at(tick), "grid")
            self.words(x.start_px - 6, y.at(tick) + 4, label(tick), "small", "end")
        self.line(x.start_px, y.start_px, x.start_px, y.end_px, "axis")
        if y_title:
            self.words(x.start_px - 44, (y.start_px + y.end_px) / 2, y_title, "", "middle", -90)
        self.x_axis(x, y.start_px, x_title)

    def x_axis(self, x: Axis, y_px: float, title: str) -> None:
        """The lower axis alone, with ticks and title."""
        for tick in x.ticks():
            self.line(x.at(tick), y_px, x.at(tick), y_px + 4, "axis")
            self.words(x.at(tick), y_px + 17, label(tick), "small", "middle")
        self.line(x.start_px, y_px, x.end_px, y_px, "axis")
        self.words((x.start_px + x.end_px) / 2, y_px + 34, title, "", "middle")
