"""Which colours and dashes does each part of a figure have, on a page and on paper?

What tells series apart is never colour alone: dashes, marks, hatching and words do, so greyscale loses
nothing.
"""

from __future__ import annotations

from typing import Final

SERIES: Final = 4
"""Ways to draw a line; a fifth series repeats the first."""

FILL: Final = {
    "p-prerun": "#dcdcdc", "p-preprocess": "#8f9aa3", "p-teacher": "#d1603d", "p-student": "#22577a",
    "p-evaluate": "#f0c24b", "p-other": "#efefef", "m-0": "#111111", "m-1": "#1f6fb2", "m-2": "#c0501f",
    "m-3": "#2e7d4f",
}  # fmt: skip
"""Bars by part of the equation, marks by series."""

STROKE: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "l-0": ("#111111", ()), "l-1": ("#1f6fb2", (7, 4)), "l-2": ("#c0501f", (2, 4)),
    "l-3": ("#2e7d4f", (9, 3, 2, 3)),
}  # fmt: skip
"""Lines by series: colour, dashes in px."""

ON_DARK: Final = {
    "l-0": "#eee", "m-0": "#eee", "l-1": "#5aa9e6", "m-1": "#5aa9e6", "l-2": "#e8804f", "m-2": "#e8804f",
    "l-3": "#6cc08b", "m-3": "#6cc08b", "p-student": "#5b9fcd", "p-prerun": "#666", "p-other": "#444"
}  # fmt: skip
"""What would not be seen on dark paper."""

GRID_OPACITY: Final = 0.14
ERROR_OPACITY: Final = 0.7
BAND_OPACITY: Final = 0.22
HATCH_OPACITY: Final = 0.45
TEXT_PX: Final = 12
SMALL_PX: Final = 11
