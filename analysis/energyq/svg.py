"""How is a figure drawn as SVG that reads in light, dark and print, without a library?

Text and lines take the page's colour (`currentColor`); series take classes, whose colours are in STYLE. What
tells series apart is never colour alone: dashes, marks, hatching and words do, so greyscale loses nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Final

from energyq.numbers import figures

STYLE: Final = """
.fig text{font:12px system-ui,sans-serif;fill:currentColor}
.fig .small{font-size:11px}
.fig .bold{font-weight:600}
.fig .on{fill:#fff}.fig .names{pointer-events:none}.fig .zoom{cursor:grab;touch-action:pan-y}
.fig .axis{stroke:currentColor;stroke-width:1;fill:none}
.fig .grid{stroke:currentColor;stroke-opacity:.14;stroke-width:1}
.fig .bar{stroke:var(--paper,#fff);stroke-width:1}
.fig .line{fill:none;stroke-width:2}
.fig .mark{stroke:var(--paper,#fff);stroke-width:1}
.fig .error{stroke:currentColor;stroke-width:1;stroke-opacity:.7}
.p-prerun{fill:#dcdcdc}.p-preprocess{fill:#8f9aa3}.p-teacher{fill:#d1603d}
.p-student{fill:#22577a}.p-evaluate{fill:#f0c24b}.p-other{fill:#efefef}
.l-0{stroke:#111}.l-1{stroke:#1f6fb2;stroke-dasharray:7 4}
.l-2{stroke:#c0501f;stroke-dasharray:2 4}.l-3{stroke:#2e7d4f;stroke-dasharray:9 3 2 3}
.m-0{fill:#111}.m-1{fill:#1f6fb2}.m-2{fill:#c0501f}.m-3{fill:#2e7d4f}
"""
DARK: Final = (
    ".l-0{stroke:#eee}.m-0{fill:#eee}.p-student{fill:#5b9fcd}.p-prerun{fill:#666}.p-other{fill:#444}"
)
SERIES: Final = 4
"""Ways to draw a line; a fifth series repeats the first."""


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
    """1, 2, 5, 10, 20 … within."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**k for k in powers for m in (1, 2, 5)]


def label(value: float) -> str:
    """A tick's number."""
    return f"{value:g}" if abs(value) < 1e5 else figures(value, 3)


@dataclass
class Drawing:
    """Collects shapes; `title` and `text` are what a reader hears who does not see."""

    width: float
    height: float
    title: str
    text: str
    name: str  # unique on a page: ids are made of it
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line of a class."""
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def rect(self, x: float, y: float, width: float, height: float, kind: str, hint: str = "") -> None:
        """A rectangle; `hint` shows when pointed at."""
        tip = f"<title>{escape(hint)}</title>" if hint else ""
        self.parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}">'
            f"{tip}</rect>"
        )

    def words(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", turn: int = 0
    ) -> None:
        """Text at its baseline; `turn`: degrees."""
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>'
            f"{escape(text)}</text>"
        )

    def curve(self, points: list[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        self.parts.append(
            f'<path class="line {kind}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>'
        )

    def mark(self, x: float, y: float, series: int, hint: str = "") -> None:
        """The mark of a series: circle, square, triangle, diamond."""
        shape = (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"',
            f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"',
            f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"',
            f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"',
        )[series % SERIES]
        close = shape[1:].split(" ", 1)[0]
        self.parts.append(f'{shape} class="mark m-{series % SERIES}"><title>{escape(hint)}</title></{close}>')

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

    def svg(self, *, alone: bool = False) -> str:
        """The element; `alone`: as a file of its own, with its colours."""
        style = f"<style>{STYLE}svg{{color:#111;background:#fff}}</style>" if alone else ""
        space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
        hatch = (
            f'<defs><pattern id="hatch-{self.name}" width="6" height="6" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><rect width="2" height="6" fill="#fff" fill-opacity=".45"/>'
            "</pattern></defs>"
        )
        named = f'aria-labelledby="{self.name}-t {self.name}-d"'
        return (
            f'<svg{space} class="fig" role="img" viewBox="0 0 {self.width:g} {self.height:g}" {named}>'
            f'<title id="{self.name}-t">{escape(self.title)}</title>'
            f'<desc id="{self.name}-d">{escape(self.text)}</desc>{style}{hatch}{"".join(self.parts)}</svg>'
        )
