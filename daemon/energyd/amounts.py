"""Which numbers may an option be? Finite ones, within its bounds.

`float` takes "nan" and "inf", and no comparison with bounds refuses a nan.
"""

from __future__ import annotations

import math
from typing import Any

import click


class Amount(click.FloatRange):
    """A finite number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter for what is none."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number", param, ctx)
        return found


def above_zero() -> Amount:
    """A duration, or a step in time."""
    return Amount(min=0, min_open=True)
