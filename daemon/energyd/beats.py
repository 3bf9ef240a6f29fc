"""Do integral and counter part on a device? Over the last seconds, not only within one stage.

A sensor that lies, lies in each stage, however short. And a load that repeats near a polled sensor's own
period shows it one phase for long: its samples look calm, and nothing in them can tell. The counter can,
over more than one stage: what it says of the last 20 s holds for each stage inside.
"""

from __future__ import annotations

import math
from collections.abc import Reversible, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from energyd.sensing import Sensing
from energyd.stages import Anchor
from energyd.unseen import edges_variance_j2, unseen_variance_j2

SPAN_NS: Final = 20_000_000_000
_FEWEST: Final = 4  # intervals between reads from which a swing can be told from the counter's own step
_BEYOND: Final = 2.5  # times the expected square: noise alone exceeds that in 1 of 100 cases at ten intervals

GAIN_SHARE: Final = 0.015
"""By how much two sensors of one board may differ in gain before that is worth a flag. Seen on an H100: 0.0
to 0.7 % over windows of 10 s and more (docs/results/accuracy-h100.md)."""


@dataclass(frozen=True)
class Beat:
    """By how much the integral is off, as shares of power: all the time, and now this way and now that."""

    bias: float = 0.0
    swing: float = 0.0

    def __bool__(self) -> bool:
        return self.bias > 0 or self.swing > 0

    def variance_j2(self, energy_j: float, length_s: float) -> float:
        """Of an integral over `length_s`. A beat lasts seconds: over longer windows it averages out."""
        over_s = min(length_s, math.sqrt(5 * length_s))
        swing_j = self.swing * energy_j * over_s / length_s if length_s else 0.0
        return (0.75 * self.bias * energy_j) ** 2 + swing_j**2


def near(reads: Reversible[Anchor], t0_ns: int, t1_ns: int) -> list[Anchor]:
    """The reads around a window, oldest first, as far as no reset and no hole lies between them."""
    found: list[Anchor] = []
    for read in reversed(reads):  # a step loop asks often: the newest come first, and few are near
        if read.t_ns < t0_ns - SPAN_NS or (found and read.segment != found[0].segment):
            break
        if read.t_ns <= t1_ns + SPAN_NS:
            found.append(read)
    found.reverse()
    return found


def beat(near: Sequence[Anchor], sensing: Sensing, step_ns: int) -> Beat:
    """What the reads around a window say; no beat where they are too few to tell."""
    if len(near) < 2:
        return Beat()
    first, last = near[0], near[-1]
    counter_j = (last.energy_mj - first.energy_mj) / 1e3
    seconds = (last.t_ns - first.t_ns) / 1e9
    if counter_j <= 0 or seconds <= 0:
        return Beat()
    step_j2 = (step_ns / 1e9) ** 2 / 6 * (counter_j / seconds) ** 2
    off = [_off_j(a, b) for a, b in pairwise(near)]
    expected = [step_j2 + unseen_variance_j2(sensing, a.rough, b.rough) for a, b in pairwise(near)]
    whole_j = abs(_off_j(first, last))
    known_j2 = step_j2 + unseen_variance_j2(sensing, first.rough, last.rough)
    sure_j = 2 * math.sqrt(known_j2 + edges_variance_j2(sensing, first, last))
    bias = max(0.0, whole_j - sure_j - GAIN_SHARE * counter_j) and whole_j / counter_j
    if sensing.kind != "point" or len(off) < _FEWEST:
        return Beat(bias)
    square, noise = sum(x * x for x in off) / len(off), sum(expected) / len(expected)
    swing_j = math.sqrt(square - noise) if square > _BEYOND * noise else 0.0
    return Beat(bias, swing_j * len(off) / counter_j)


def _off_j(a: Anchor, b: Anchor) -> float:
    return (b.cum_uj - a.cum_uj) / 1e6 - (b.energy_mj - a.energy_mj) / 1e3
