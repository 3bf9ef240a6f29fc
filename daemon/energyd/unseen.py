"""What flowed while no sample looked? Its variance, from the sums of energyd.roughness."""

from __future__ import annotations

from typing import Protocol

from energyd.roughness import Sums
from energyd.sensing import Sensing


def unseen_variance_j2(sensing: Sensing, before: Sums, after: Sums) -> float:
    """Of what flowed between two samples' sums unseen, J²."""
    first, second, power = (abs(b - a) for a, b in zip(before, after, strict=True))
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
    """Of where an integral begins and ends, J²: edges, lag, and swings that no sample shows."""
    edges_w2 = begin.range_w**2 + end.range_w**2
    # Where power changes, a sample cannot tell when within its own time it did.
    edge = (0.15 * sensing.edge_ns / 1e9) ** 2 * edges_w2
    # All stamps late by the same: what flows in at the end is not what flowed out at the begin.
    lag = (sensing.lag_doubt_ns / 1e9) ** 2 / 3 * ((end.p_w - begin.p_w) ** 2 + edges_w2)
    hidden = (sensing.hidden_ns / 1e9) ** 2 * (begin.p_w**2 + end.p_w**2)
    return edge + lag + hidden
