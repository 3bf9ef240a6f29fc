"""How often does a GPU's energy counter step, and does it agree with the integral of its power?

Told from the few reads of a probe. Where a counter stands between two reads at which it changed, its step
lies between them: a comparison from the first such bracket to the last is as good as the brackets are
narrow, and says so. The daemon knows better after some minutes: view `sensor_agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from energyd.sources.gpu_sensors import integral_mj

_TELLS_NOTHING: Final = 0.1
"""Beyond ±10 % of doubt a ratio is not worth a number."""

_CHANGES: Final = 4

Reads = list[tuple[int, int]]  # (t_ns, mJ)


@dataclass(frozen=True)
class Power:
    """Power of the chosen source through the probe, its lag taken off the times."""

    t_ns: NDArray[np.int64]
    power_mw: NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """`ratio`: integral over counter, less 1. `doubt`: half-width that the brackets leave to it."""

    ratio: float
    doubt: float
    seconds: float

    @property
    def said(self) -> str:
        """For people."""
        return f"compared over {self.seconds:.2f} s at its own steps, to within {100 * self.doubt:.1f} %"


def compare(reads: Reads, power: Power) -> Agreement | str:
    """Integral against counter between the counter's own steps; else the reason why not."""
    if len(power.t_ns) < 2:
        return "no power to compare with"
    if any(new < old for (_, old), (_, new) in pairwise(reads)):
        return "the counter went back"
    # (before, after, mJ): it came to mJ at some time between these.
    first_ns, last_ns = int(power.t_ns[0]), int(power.t_ns[-1])
    brackets = [
        (t0, t1, new)
        for (t0, old), (t1, new) in pairwise(reads)
        if new != old and first_ns <= t0 and t1 <= last_ns
    ]
    if len(brackets) < 2 or brackets[-1][2] == brackets[0][2]:
        return "the counter did not step twice while it was watched"
    (a0, a1, a_mj), (b0, b1, b_mj) = brackets[0], brackets[-1]
    curve = integral_mj(power.t_ns, power.power_mw)
    e = np.interp([a0, a1, b0, b1], power.t_ns, curve)
    counted = b_mj - a_mj
    doubt = float(e[1] - e[0] + e[3] - e[2]) / 2 / counted
    if doubt > _TELLS_NOTHING:
        return f"the probe is too short to compare: to within {100 * doubt:.0f} % only"
    ratio = float(e[2] + e[3] - e[0] - e[1]) / 2 / counted - 1
    return Agreement(ratio, doubt, (b0 + b1 - a0 - a1) / 2e9)


def period_ns(reads: Reads, ring: Power | None, agreement: Agreement | str) -> int | None:
    """Mean time between the counter's steps; None if the reads are too few or too rare to tell.

    `ring`: power fine enough to tell a step's time by; None without.
    """
    return (_by_energy(reads, ring, agreement) if ring else None) or _by_changes(reads)


def _by_changes(reads: Reads) -> int | None:
    """From the reads at which it had changed: sure to miss no step if it stood still at half of them."""
    changed = [t for (_, old), (t, new) in pairwise(reads) if new != old]
    if len(changed) < _CHANGES or 2 * len(changed) > len(reads):
        return None
    return (changed[-1] - changed[0]) // (len(changed) - 1)


def _by_energy(reads: Reads, power: Power, agreement: Agreement | str) -> int | None:
    """From the times at which the integral reached what the counter showed, that is when it stepped.

    Tells steps that come several between two reads, as when eight GPUs share the time for counters. A
    counter's value is at most one period old: unless the ages found spread over most of the shortest step
    and not beyond, steps were missed, or the load was too bursty for this.
    """
    if len(power.t_ns) < 2:
        return None
    inside = [(t, mj) for t, mj in reads if power.t_ns[0] <= t <= power.t_ns[-1]]
    if len(inside) < _CHANGES:
        return None
    t_ns, mj = (np.array(column, dtype=float) for column in zip(*inside, strict=True))
    curve = integral_mj(power.t_ns, power.power_mw)
    gain = 1.0
    if isinstance(agreement, Agreement) and abs(agreement.ratio) > agreement.doubt:
        gain = 1 + agreement.ratio
    begin_mj = np.interp(t_ns[0], power.t_ns, curve)
    reached_mj = begin_mj + gain * (mj - mj[0])
    stepped_ns = np.interp(reached_mj, curve, power.t_ns)
    steps = np.diff(stepped_ns)
    steps = steps[steps > 0]
    if len(steps) < _CHANGES:
        return None
    shortest = float(steps.min())
    spread = float(np.ptp(t_ns - stepped_ns)) / shortest
    if not 0.5 < spread < 1.4:
        return None
    one = float(np.median(steps[steps < 1.5 * shortest]))
    return int(steps.sum() / np.round(steps / one).sum())
