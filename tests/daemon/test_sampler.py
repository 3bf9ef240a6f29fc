"""Is each source read in time, and does status tell how late it was of late?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import pytest

from energyd.inbox import Inbox
from energyd.sampler import LATE_S, Sampler, late_ms_p99
from energyd.sources import DeviceInfo, DomainInfo, Event
from real_daemon import wait_for


class Idle:
    """A source with nothing to say."""

    name = "idle"
    interval_s = 0.001

    def open(self) -> None: ...

    def devices(self) -> Sequence[DeviceInfo]:
        return []

    def domains(self) -> Sequence[DomainInfo]:
        return []

    def read(self) -> Iterable[Event]:
        return []

    def close(self) -> None: ...


def test_lateness_is_that_of_the_last_minute_however_late_or_calm_it_was_before() -> None:
    sampler = Sampler(Idle(), Inbox())
    assert late_ms_p99([sampler]) is None
    now = time.monotonic()
    sampler.late.extend((now - LATE_S - 1, 500.0) for _ in range(1_000))
    assert late_ms_p99([sampler]) is None
    sampler.late.extend((now, float(ms)) for ms in range(101))
    assert late_ms_p99([sampler]) == pytest.approx(99)


class Slow(Idle):
    """Each read takes ten times its interval."""

    interval_s = 0.01

    def read(self) -> Iterable[Event]:
        time.sleep(0.1)
        return []


def test_a_read_that_comes_late_because_the_one_before_took_so_long_counts_as_late() -> None:
    sampler = Sampler(Slow(), Inbox())
    sampler.start()
    wait_for(lambda: len(sampler.late) > 3)
    sampler.stop()
    assert min(late for _, late in sampler.late) > 50


def test_a_sampler_says_of_each_read_how_late_it_came() -> None:
    sampler = Sampler(Idle(), Inbox())
    sampler.start()
    wait_for(lambda: len(sampler.late) > 3)
    sampler.stop()
    due = [at for at, _ in sampler.late]
    assert due == sorted(due)
    assert all(late >= 0 for _, late in sampler.late)
