"""Which store time belongs to an instant of this boot? And how much of the boot did the machine sleep?

Store time = CLOCK_BOOTTIME + one offset, fixed at the first start of a daemon in that boot: it reads as
nanoseconds since the epoch, never steps, and is never below what the store already holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from energyd_client import clock


@dataclass(frozen=True)
class Timeline:
    """The offset of one boot."""

    boot_id: str
    offset_ns: int

    def to_store(self, boottime_ns: int) -> int:
        """Store time of a CLOCK_BOOTTIME instant."""
        return boottime_ns + self.offset_ns

    def now_ns(self) -> int:
        """Store time now."""
        return clock.now_ns() + self.offset_ns


def pair() -> tuple[int, int]:
    """(boottime_ns, realtime_ns) of one moment; best of five bracketed reads, about 0.2 µs wide."""
    best: tuple[int, int, int] | None = None
    for _ in range(5):
        before = clock.now_ns()
        realtime = time.time_ns()
        after = clock.now_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, realtime)
    assert best is not None
    return best[1], best[2]


def suspended_ns() -> int:
    """How long the machine has been suspended since it booted: CLOCK_BOOTTIME less CLOCK_MONOTONIC.

    Best of five bracketed reads: a thread that is stopped between the two clocks must not look like sleep.
    """
    best: tuple[int, int] | None = None
    for _ in range(5):
        before = time.monotonic_ns()
        boottime = clock.now_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, boottime - (before + after) // 2)
    assert best is not None
    return best[1]


def begin(known_offset_ns: int | None, newest_t_ns: int | None) -> Timeline:
    """The timeline of this boot: as recorded by an earlier daemon of this boot, or a new one.

    `newest_t_ns` is the newest store time anywhere in the store; a wall clock that was set back
    between boots must not put new samples before old ones.
    """
    boottime, realtime = pair()
    offset = realtime - boottime if known_offset_ns is None else known_offset_ns
    if newest_t_ns is not None and boottime + offset <= newest_t_ns:
        if known_offset_ns is not None:
            # Inside a boot only a trace played ahead of time can have written the future.
            offset = newest_t_ns + 1 - boottime
        else:
            offset = newest_t_ns + 1_000_000_000 - boottime
    return Timeline(clock.boot_id(), offset)
