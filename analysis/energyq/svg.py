"""How does a drawing become SVG that reads in light, dark and print, without a library?

Text and lines take the page's colour (`currentColor`); series take classes, whose colours are in STYLE.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from energyq.drawing import Area, Curve, Drawing, Group, Line, Mark, Rect, Shape, Trace, Words
from energyq.looks import (
    BAND_OPACITY,
    ERROR_OPACITY,
    FILL,
    GRID_OPACITY,
    HATCH_OPACITY,
    ON_DARK,
    SMALL_PX,
    STROKE,
    TEXT_PX,
)


def _css(fill: Iterable[tuple[str, str]], stroke: Iterable[tuple[str, str, tuple[int, ...]]]) -> str:
    rules = [f".{name}{{fill:{colour}}}" for name, colour in fill]
    for name, colour, dashes in stroke:
        dashed = f";stroke-dasharray:{' '.join(map(str, dashes))}" if dashes else ""
        rules.append(f".{name}{{stroke:{colour}{dashed}}}")
    return "".join(rules)


STYLE: Final = f"""
.fig text{{font:{TEXT_PX}px system-ui,sans-serif;fill:currentColor}}
.fig .small{{font-size:{SMALL_PX}px}}
.fig .bold{{font-weight:600}}
.fig .over{{paint-order:stroke;stroke:var(--paper,#fff);stroke-width:3}}
.fig .on{{fill:#fff}}.fig .names{{pointer-events:none}}.fig .zoom{{cursor:grab;touch-action:pan-y}}
.fig .axis{{stroke:currentColor;stroke-width:1;fill:none}}
.fig .grid{{stroke:currentColor;stroke-opacity:{GRID_OPACITY};stroke-width:1}}
.fig .bar{{stroke:var(--paper,#fff);stroke-width:1}}
.fig .line{{fill:none;stroke-width:2}}
.fig .mark{{stroke:var(--paper,#fff);stroke-width:1}}
.fig .error{{stroke:currentColor;stroke-width:1;stroke-opacity:{ERROR_OPACITY}}}
{_css(FILL.items(), ((name, *look) for name, look in STROKE.items()))}
"""
DARK: Final = _css(
    ((name, colour) for name, colour in ON_DARK.items() if name in FILL),
    ((name, colour, ()) for name, colour in ON_DARK.items() if name in STROKE),
)


def svg(drawing: Drawing, *, alone: bool = False) -> str:
    """The element; `alone`: as a file of its own, with its colours."""
    style = f"<style>{STYLE}svg{{color:#111;background:#fff}}</style>" if alone else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    name = drawing.name
    hatch = (
        f'<defs><pattern id="hatch-{name}" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="2" height="6" fill="#fff" '
        f'fill-opacity="{HATCH_OPACITY}"/></pattern></defs>'
    )
    shapes = "".join(_shape(shape, name) for shape in drawing.shapes)
    return (
        f'<svg{space} class="fig" role="img" viewBox="0 0 {drawing.width:g} {drawing.height:g}" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(drawing.title)}</title>'
        f'<desc id="{name}-d">{escape(drawing.text)}</desc>{style}{hatch}{shapes}</svg>'
    )


def _shape(shape: Shape, name: str) -> str:
    text = ""
    match shape:
        case Line(x1, y1, x2, y2, kind):
            text = f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        case Rect():
            text = _rect(shape, name)
        case Words(x, y, said, kind, anchor, turn):
            turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
            where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}'
            text = f'<text class="{kind}" {where}>{escape(said)}</text>'
        case Curve(points, kind, inside):
            thin = ' vector-effect="non-scaling-stroke" style="stroke-width:1.2"' if inside else ""
            text = f'<path class="line {kind}"{thin} d="M{_joined(points, inside=inside)}"/>'
        case Area(points, series):
            path = _joined(points, inside=True)
            text = f'<path class="m-{series}" fill-opacity="{BAND_OPACITY}" d="M{path}Z"/>'
        case Mark(x, y, series, hint):
            text = _mark(x, y, series, hint)
        case Trace(x, width, height, seconds, shapes):
            within = "".join(_shape(s, name) for s in shapes)
            text = (
                f'<svg x="{x:g}" y="0" width="{width:g}" height="{height:g}" '
                f'viewBox="0 0 {width:g} {height:g}" '
                f'data-w="{width:g}" data-h="{height:g}" data-s="{seconds:.6g}" preserveAspectRatio="none" '
                f'class="zoom"><rect width="{width:g}" height="{height:g}" fill="transparent"/>{within}</svg>'
            )
        case Group(kind, shapes, y):
            place = "" if y is None else f' data-y="{y:g}"'
            text = f'<g class="{kind}"{place}>{"".join(_shape(s, name) for s in shapes)}</g>'
    return text


def _joined(points: Iterable[tuple[float, float]], *, inside: bool) -> str:
    digits = 2 if inside else 1  # zooming shows more of x
    return "L".join(f"{x:.{digits}f} {y:.1f}" for x, y in points)


def _rect(rect: Rect, name: str) -> str:
    tip = f"<title>{escape(rect.hint)}</title>" if rect.hint else ""
    width = f"{rect.width:.2f}" if rect.inside else f"{rect.width:.1f}"
    effect = ' vector-effect="non-scaling-stroke"' if rect.inside else ""
    place = f'x="{rect.x:.1f}" y="{rect.y:.1f}" width="{width}" height="{rect.height:.1f}"'
    found = f'<rect class="{rect.kind}" {place}{effect}>{tip}</rect>'
    if rect.hatched:
        found += f'<rect {place} fill="url(#hatch-{name})" pointer-events="none"/>'
    return found


def _mark(x: float, y: float, series: int, hint: str) -> str:
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"',
        f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"',
        f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"',
        f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"',
    )[series]
    close = shape[1:].split(" ", 1)[0]
    return f'{shape} class="mark m-{series}"><title>{escape(hint)}</title></{close}>'
