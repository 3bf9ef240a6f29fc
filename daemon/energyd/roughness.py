"""How restless was the power between the samples? Sums from which the doubt of a window is made.

A sum up to each sample, so that a window of any length costs two look-ups. Only every 8th is kept (6 MiB for
an hour of eight devices at 50 Hz), the rest is added up from the samples when asked: of so few, plain Python
does that in 3 µs, where numpy needs 20 for any number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
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
STRIDE: Final = 8
_FEW: Final = 2 * STRIDE


class Roughness:
    """The sums of one device's samples, by index into the arrays of its log."""

    def __init__(self) -> None:
        self._at = array("q")
        self._sums = array("d")  # three for each of those

    def mark(self, index: int, sums: Sums) -> None:
        """Say what the sums are at a sample."""
        self._at.append(index)
        self._sums.extend(sums)

    def extend(self, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
        """Take in new samples; the sums at the newest."""
        last = len(t_ns) - 1
        if not self._at:
            self.mark(0, NONE)
        mark, sums = self._at[-1], self._mark(-1)
        if last <= mark or sensing.kind == "whole":
            return sums
        steps = _steps(mark, last, t_ns, power_mw, sensing, max_step_ns)
        # From the mark on, one after the other: the same to the last bit, however the samples were batched.
        up_to = np.cumsum(np.column_stack((sums, steps)), axis=1)
        for to in range(mark + STRIDE, last + 1, STRIDE):
            self.mark(to, tuple(up_to[:, to - mark].tolist()))
        first, second, power = up_to[:, -1].tolist()
        return first, second, power

    def up_to(self, index: int, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
        """The sums at a sample."""
        k = max(bisect_right(self._at, index) - 1, 0)
        mark, sums = self._at[k], self._mark(k)
        if index == mark:
            return sums
        low, high = (mark, index) if index > mark else (index, mark)
        first, second, power = _sums(low, high, t_ns, power_mw, sensing, max_step_ns)
        if index > mark:
            return sums[0] + first, sums[1] + second, sums[2] + power
        return sums[0] - first, sums[1] - second, sums[2] - power

    def _mark(self, k: int) -> Sums:
        k %= len(self._at)
        first, second, power = self._sums[3 * k : 3 * k + 3]
        return first, second, power

    def cut(self, i: int, j: int, sums: Sums) -> None:
        """The samples between i and j are gone from the log's arrays; `sums` are those at j."""
        kept = bisect_right(self._at, i)
        later = bisect_right(self._at, j)
        self._at[kept:] = array("q", [i + 1, *(at - (j - i - 1) for at in self._at[later:])])
        self._sums[3 * kept :] = array("d", [*sums, *self._sums[3 * later :]])

    def forget(self, n: int, newest: int, sums: Sums) -> None:
        """The first n samples are gone from the log's arrays; `newest` is where the last is now."""
        gone = bisect_left(self._at, n)
        self._at, self._sums = array("q", [at - n for at in self._at[gone:]]), self._sums[3 * gone :]
        if not self._at:
            self.mark(newest, sums)


def _sums(low: int, high: int, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int) -> Sums:
    """Over the steps that end at samples low + 1 … high."""
    low = max(low, 0)
    if high <= low or sensing.kind == "whole":
        return NONE
    if high - low > _FEW:
        first, second, power = _steps(low, high, t_ns, power_mw, sensing, max_step_ns).sum(axis=1).tolist()
        return first, second, power
    ring, seen_s = sensing.kind == "ring", sensing.seen_ns / 1e9
    p = [mw / 1000 for mw in power_mw[max(low - 1, 0) : high + 1].tolist()]
    t = t_ns[low : high + 1].tolist()
    k = 1 if low else 0  # where in `p` the first step begins
    before = p[k] - p[0] if low else p[1] - p[0]
    first = second = power = 0.0
    for i in range(high - low):
        dt_s = (t[i + 1] - t[i]) / 1e9
        d1 = p[k + i + 1] - p[k + i]
        if dt_s <= max_step_ns / 1e9:
            unseen_s2 = abs(dt_s - seen_s) * seen_s if ring else dt_s * dt_s
            first += d1 * d1 * unseen_s2
            second += (d1 - before) * (d1 - before) * unseen_s2
            power += p[k + i + 1] * p[k + i + 1] * unseen_s2
        before = d1
    return first, second, power


def _steps(
    low: int, high: int, t_ns: I64, power_mw: I32, sensing: Sensing, max_step_ns: int
) -> NDArray[np.float64]:
    """What each of those steps adds to the three sums, in three rows."""
    p = power_mw[max(low - 1, 0) : high + 1] / 1000
    d1 = np.diff(p)
    d2 = np.diff(d1) if low else np.diff(d1, prepend=d1[0])
    d1, dt_s = d1[-(high - low) :], np.diff(t_ns[low : high + 1]) / 1e9
    # Between two windows of a ring power is taken for noise without memory, so that the mean over a short
    # unseen piece r swings more than that over a window W: r · W in place of r².
    seen_s = sensing.seen_ns / 1e9
    unseen_s2 = np.abs(dt_s - seen_s) * seen_s if sensing.kind == "ring" else dt_s * dt_s
    unseen_s2[dt_s > max_step_ns / 1e9] = 0.0  # a gap: its doubt is the counter's
    steps: NDArray[np.float64] = np.stack((d1, d2, p[-(high - low) :]))
    steps *= steps
    return steps * unseen_s2
