"""What flowed while no sample looked? Its variance, from the sums of energyd.roughness."""

from __future__ import annotations

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
