"""How does a drawing become a PNG for a paper? The same shapes, drawn by matplotlib (extra `figures`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from energyq import looks
from energyq.drawing import Area, Curve, Drawing, Group, Line, Mark, Rect, Shape, Trace, Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI: Final = 200
_PX_PER_INCH: Final = 96  # of CSS: a figure is as large on paper as on the page
_POINTS: Final = 72 / _PX_PER_INCH
_FONT: Final = 0.93  # DejaVu Sans, which comes with matplotlib, runs wider than most pages' fonts
_INK: Final = "#111111"
_PAPER: Final = "#ffffff"


class FiguresMissing(Exception):
    """The extra that draws PNG is not installed."""


def need_matplotlib() -> None:
    """Raises FiguresMissing where there is none."""
    if find_spec("matplotlib") is None:
        raise FiguresMissing(
            "PNG is drawn by matplotlib, which is not installed\n"
            "  cure: pip install 'energyd[figures]', or --figure-format svg"
        )


def write_png(drawing: Drawing, path: Path) -> None:
    """Draw it on white paper, 200 dots an inch. Raises OSError."""
    figure_of(drawing).savefig(
        path, dpi=DPI, metadata={"Title": drawing.title, "Description": drawing.text}
    )  # fmt: skip


def figure_of(drawing: Drawing) -> Figure:
    """The drawing on matplotlib's own canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(drawing.width / _PX_PER_INCH, drawing.height / _PX_PER_INCH), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    _draw(axes, drawing.shapes, 0.0)
    return figure


def _draw(axes: Axes, shapes: Sequence[Shape], left: float) -> None:
    """Shapes from the back to the front; `left`: where the trace that holds them begins, px."""
    for shape in shapes:
        match shape:
            case Line(x1, y1, x2, y2, kind):
                opacity = {"grid": looks.GRID_OPACITY, "error": looks.ERROR_OPACITY}.get(kind, 1.0)
                axes.plot([x1, x2], [y1, y2], color=_INK, alpha=opacity, linewidth=_POINTS,
                          solid_capstyle="butt", zorder=2)  # fmt: skip
            case Rect():
                _rect(axes, shape, left)
            case Words():
                _words(axes, shape)
            case Curve(points, kind, inside):
                colour, dashes = looks.STROKE[kind]
                width = 1.2 if inside else 2.0
                style = (0, tuple(d / width for d in dashes)) if dashes else "-"
                axes.plot([left + x for x, _ in points], [y for _, y in points], color=colour, zorder=2,
                          linewidth=width * _POINTS, linestyle=style, dash_capstyle="butt")  # fmt: skip
            case Area(points, series):
                axes.fill([left + x for x, _ in points], [y for _, y in points], linewidth=0, zorder=2,
                          color=looks.FILL[f"m-{series}"], alpha=looks.BAND_OPACITY)  # fmt: skip
            case Mark(x, y, series):
                axes.plot([x], [y], marker="os^D"[series], markersize=(10, 9, 11, 9)[series] * _POINTS,
                          color=looks.FILL[f"m-{series}"], markeredgecolor=_PAPER,
                          markeredgewidth=_POINTS, linestyle="none", zorder=3)  # fmt: skip
            case Trace(x, shapes=within):
                _draw(axes, within, x)
            case Group(shapes=within):
                _draw(axes, within, left)


def _rect(axes: Axes, rect: Rect, left: float) -> None:
    from matplotlib.patches import Rectangle

    colour = looks.FILL[rect.kind.rpartition(" ")[2]]
    corner = (left + rect.x, rect.y)
    axes.add_patch(Rectangle(corner, rect.width, rect.height, facecolor=colour, edgecolor=_PAPER,
                             linewidth=_POINTS, zorder=2))  # fmt: skip
    if rect.hatched:
        white = (1.0, 1.0, 1.0, looks.HATCH_OPACITY)
        axes.add_patch(Rectangle(corner, rect.width, rect.height, fill=False, edgecolor=white,
                                 linewidth=0, hatch="////", zorder=2))  # fmt: skip


def _words(axes: Axes, words: Words) -> None:
    from matplotlib.patheffects import withStroke

    kinds = words.kind.split()
    halo = [withStroke(linewidth=3 * _POINTS, foreground=_PAPER)] if "over" in kinds else None
    axes.text(
        words.x, words.y, words.text.replace("$", r"\$"),  # no formula
        fontsize=(looks.SMALL_PX if "small" in kinds else looks.TEXT_PX) * _POINTS * _FONT,
        fontweight="bold" if "bold" in kinds else "normal", family="DejaVu Sans",
        color=_PAPER if "on" in kinds else _INK, path_effects=halo, zorder=4, va="baseline",
        ha={"start": "left", "middle": "center", "end": "right"}[words.anchor],
        rotation=-words.turn, rotation_mode="anchor",
    )  # fmt: skip
