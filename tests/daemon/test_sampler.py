"""Is each source read in time, and does status tell how late it was of late?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import pytest

from energyd.inbox import Inbox
from energyd.sampler import LATE_S, Sampler, late_ms_p99
from energyd.sources import DeviceInfo, DomainInfo, Event
from energyd_client.clock import now_ns
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


class Contested(Idle):
    """While it is taken back, and in vain, it is released anew and for longer."""

    def __init__(self) -> None:
        self.opened = 0
        self.sampler = Sampler(self, Inbox())

    def open(self) -> None:
        self.opened += 1
        if self.opened == 2:
            self.sampler.leave.take(300)
            raise RuntimeError("the driver is not loaded")


def test_a_release_that_comes_while_the_source_cannot_be_taken_back_is_kept() -> None:
    source = Contested()
    source.sampler.leave.take(0)
    source.sampler.start()
    source.sampler.leave.take(1)
    wait_for(lambda: source.opened == 2)
    source.sampler.stop()
    until_ns = source.sampler.leave.until_ns
    assert until_ns is not None
    assert until_ns - now_ns() > 250e9


def test_a_sampler_says_of_each_read_how_late_it_came() -> None:
    sampler = Sampler(Idle(), Inbox())
    sampler.start()
    wait_for(lambda: len(sampler.late) > 3)
    sampler.stop()
    due = [at for at, _ in sampler.late]
    assert due == sorted(due)
    assert all(late >= 0 for _, late in sampler.late)
