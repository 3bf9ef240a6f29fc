"""Which windows does every tool measure on one load?

Two kinds, because a tool can be wrong in two ways:
  tick  begins and ends at a step of the hardware energy counter, so that the counter's difference over it
        is exact: each window has its own reference.
  free  begins and ends anywhere, as a user's window does. The counter is known only at its steps (100 ms on
        an H100), so one short window has no exact reference, but the mean over many random phases has.
Phases and gaps are random, seeded; windows overlap. No two edges of tick windows share a step where that
can be had, so that tools which are called at the edges are not called in bunches.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final

TICK: Final = 0
FREE: Final = 1
SPAN: Final = 0.0
"""Length of the one window that spans the whole steady time of a load."""

COUNTS: Final = {0.2: (60, 60), 1.0: (60, 60), 5.0: (20, 16), 10.0: (16, 8), 30.0: (8, 0)}
"""Windows of each length in seconds: (tick, free)."""

_TRIES: Final = 200


@dataclass(frozen=True)
class Window:
    """One window, as planned. `k0`, `k1`: numbers of the counter's steps, -1 in free windows.

    `t0_ns`, `t1_ns` (CLOCK_BOOTTIME): exact in free windows, in tick windows where the steps are expected.
    """

    number: int
    kind: int
    length_s: float
    k0: int
    k1: int
    t0_ns: int
    t1_ns: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(
    *, seed: int, first_k: int, first_ns: int, ticks: int, period_ns: int, scale: float = 1.0
) -> list[Window]:
    """All windows between step `first_k` (expected at `first_ns`) and `ticks` steps later.

    `scale` thins the short ones out, for slow machines. A length that does not fit is left out.
    """
    rng = random.Random(seed)
    used: set[int] = set()
    last_ns = first_ns + ticks * period_ns
    spans = [(SPAN, TICK, first_k, first_k + ticks, first_ns, last_ns)]
    for length_s, (n_tick, n_free) in sorted(COUNTS.items(), reverse=True):
        steps = max(1, round(length_s * 1e9 / period_ns))
        if steps > ticks - 2:
            continue
        for _ in range(max(1, round(n_tick * scale))):
            k0 = _begin(rng, used, first_k + 1, first_k + ticks - 1 - steps, steps)
            t0_ns = first_ns + (k0 - first_k) * period_ns
            spans.append((length_s, TICK, k0, k0 + steps, t0_ns, t0_ns + steps * period_ns))
        length_ns = round(length_s * 1e9)
        for _ in range(round(n_free * scale)):
            t0_ns = rng.randint(first_ns + period_ns, last_ns - length_ns - period_ns)
            spans.append((length_s, FREE, -1, -1, t0_ns, t0_ns + length_ns))
    return [
        Window(number, kind, length_s, k0, k1, t0_ns, t1_ns)
        for number, (length_s, kind, k0, k1, t0_ns, t1_ns) in enumerate(spans)
    ]


def one_at_a_time(windows: list[Window], pause_ns: int) -> list[Window]:
    """Those that a tool can take which knows one window at once: as many as fit, `pause_ns` apart.

    Of long windows those with an exact reference come first, of short ones both kinds alike.
    """
    kept: list[Window] = []
    kinds = ({TICK}, {FREE}) if windows and windows[0].length_s > 1 else ({TICK, FREE},)
    for kind in kinds:
        for window in sorted((w for w in windows if w.kind in kind), key=lambda w: w.t1_ns):
            if all(window.t0_ns >= w.t1_ns + pause_ns or window.t1_ns + pause_ns <= w.t0_ns for w in kept):
                kept.append(window)
    return kept


def _begin(rng: random.Random, used: set[int], low: int, high: int, steps: int) -> int:
    for _ in range(_TRIES):
        k0 = rng.randint(low, max(low, high))
        if k0 not in used and k0 + steps not in used:
            break
    used.update((k0, k0 + steps))
    return k0
