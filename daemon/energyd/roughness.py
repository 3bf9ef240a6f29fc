"""How restless was the power between the samples? Sums from which the doubt of a window is made.

A sum up to each sample, so that a window of any length costs two look-ups. Only every 64th is kept, the
rest is added up from the samples when asked.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

from energyd.sensing import Sensing

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

Sums = tuple[float, float, float]
"""Over the steps: first differences of power squared, second differences squared, power squared; each times
the square of the time that the step left unseen. J²."""

NONE: Final[Sums] = (0.0, 0.0, 0.0)
STRIDE: Final = 64


class Roughness:
    """The sums of one device's samples, by index into the arrays of its log."""

    def __init__(self) -> None:
        self._at: list[int] = []
        self._sums: list[Sums] = []

    def mark(self, index: int, sums: Sums) -> None:
        """Say what the sums are at a sample."""
        self._at.append(index)
        self._sums.append((sums[0], sums[1], sums[2]))

    def extend(self, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
        """Take in new samples; the sums at the newest."""
        last = len(t_ns) - 1
        if not self._at:
            self.mark(0, NONE)
        while last - self._at[-1] >= STRIDE:
            to = self._at[-1] + STRIDE
            self.mark(to, self.up_to(to, t_ns, power_mw, sensing, max_step_ns))
        return self.up_to(last, t_ns, power_mw, sensing, max_step_ns)

    def up_to(self, index: int, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
        """The sums at a sample."""
        k = max(bisect_right(self._at, index) - 1, 0)
        mark, sums = self._at[k], self._sums[k]
        low, high = sorted((mark, index))
        added = _sums(low, high, t_ns, power_mw, sensing, max_step_ns)
        sign = 1 if index >= mark else -1
        return sums[0] + sign * added[0], sums[1] + sign * added[1], sums[2] + sign * added[2]

    def cut(self, i: int, j: int, sums: Sums) -> None:
        """The samples between i and j are gone from the log's arrays; `sums` are those at j."""
        marks = list(zip(self._at, self._sums, strict=True))
        moved = [(at - (j - i - 1), s) for at, s in marks if at > j]
        marks = [*((at, s) for at, s in marks if at <= i), (i + 1, sums), *moved]
        self._at, self._sums = [at for at, _ in marks], [s for _, s in marks]

    def forget(self, n: int, newest: int, sums: Sums) -> None:
        """The first n samples are gone from the log's arrays; `newest` is where the last is now."""
        kept = [(at - n, s) for at, s in zip(self._at, self._sums, strict=True) if at >= n]
        self._at, self._sums = [at for at, _ in kept], [s for _, s in kept]
        if not kept:
            self.mark(newest, sums)


def _sums(low: int, high: int, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
    """Over the steps that end at samples low + 1 … high."""
    low = max(low, 0)
    if high <= low or sensing.kind == "whole":
        return NONE
    t = t_ns[low : high + 1]
    p = power_mw[max(low - 1, 0) : high + 1] / 1000
    d1 = np.diff(p)
    d2 = np.diff(d1) if low else np.diff(d1, prepend=d1[0])
    d1, dt_s = d1[-(high - low) :], np.diff(t) / 1e9
    # Between two windows of a ring power is taken for noise without memory, so that the mean over a short
    # unseen piece r swings more than that over a window W: r · W in place of r².
    seen_s = sensing.seen_ns / 1e9
    unseen_s2 = np.abs(dt_s - seen_s) * seen_s if sensing.kind == "ring" else dt_s * dt_s
    unseen_s2[dt_s > max_step_ns / 1e9] = 0.0  # a gap: its doubt is the counter's
    p_w = p[-(high - low) :]
    return (
        float((d1 * d1 * unseen_s2).sum()),
        float((d2 * d2 * unseen_s2).sum()),
        float((p_w * p_w * unseen_s2).sum()),
    )
