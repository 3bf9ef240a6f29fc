"""How far may a difference be from zero by chance, if its parts are known so well?

Welch's test: a variance estimated from n values has n − 1 degrees of freedom; parts add, their degrees by
Satterthwaite's rule; Student's t of that many degrees gives the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95
_LIKE_NORMAL: Final = 1e5


@dataclass(frozen=True)
class Part:
    """One independent part of a variance; `freedom` is infinite where it is stated rather than estimated."""

    variance: float
    freedom: float = math.inf


def half_width(parts: Iterable[Part]) -> float:
    """Half the 95 % interval of a sum whose independent parts these are, in their unit."""
    listed = list(parts)
    variance = sum(p.variance for p in listed)
    if variance == 0:
        return 0.0
    doubtful = sum(p.variance**2 / p.freedom for p in listed)
    freedom = variance**2 / doubtful if doubtful else math.inf
    return t_quantile(freedom) * math.sqrt(variance)


def t_quantile(freedom: float) -> float:
    """The t that a Student variable exceeds, either way, in 5 % of cases."""
    if freedom > _LIKE_NORMAL:
        return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        beyond = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + middle * middle))
        low, high = (middle, high) if beyond > 1 - CONFIDENCE else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value / a
