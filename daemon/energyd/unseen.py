"""What flowed while no sample looked? Its variance, from the sums of energyd.roughness."""

from __future__ import annotations

from typing import Protocol

from energyd.roughness import Sums
from energyd.sensing import Sensing


def unseen_variance_j2(sensing: Sensing, before: Sums, after: Sums) -> float:
    """Of what flowed between two samples' sums unseen, J²."""
    first, second, power = abs(after[0] - before[0]), abs(after[1] - before[1]), abs(after[2] - before[2])
    if sensing.kind == "ring":
        return 0.5 * first + sensing.hidden_share**2 * power
    # Power that forgets between samples costs half a squared difference a step, power that jumps and stays
    # a twelfth. First and second differences tell the two apart (white: 2 and 6 σ²; a jump: 1 and 2 Δ²).
    return 1.2 * max(first / 8, 5 / 12 * second - 9 / 12 * first)


class _Place(Protocol):
    """An edge, or a counter's read: an instant whose power is known."""

    @property
    def p_w(self) -> float: ...
    @property
    def range_w(self) -> float: ...


def edges_variance_j2(sensing: Sensing, begin: _Place, end: _Place) -> float:
    """Of where an integral begins and ends, J²: both places, and a lag that they share."""
    # All stamps late by the same: what flows in at the end is not what flowed out at the begin.
    steps_w2 = (end.p_w - begin.p_w) ** 2 + begin.range_w**2 + end.range_w**2
    lag = (sensing.lag_doubt_ns / 1e9) ** 2 / 3 * steps_w2
    return place_variance_j2(sensing, begin) + place_variance_j2(sensing, end) + lag


def place_variance_j2(sensing: Sensing, at: _Place) -> float:
    """Of one instant's place in the integral, J²: a flank within a sample, and swings that none shows."""
    # Where power changes, a sample cannot tell when within its own time it did.
    flank_j = 0.15 * sensing.edge_ns / 1e9 * at.range_w
    return flank_j**2 + (sensing.hidden_ns / 1e9 * at.p_w) ** 2
