"""What does one GPU's refusal cost: how soon is it asked again, and when is its counter believed?"""

from __future__ import annotations

import time

import numpy as np
import pytest

from energyd.sources import Break, CounterRead, DeviceInfo, PowerSamples
from energyd.sources.gpu_device import Gpu
from energyd.sources.gpu_readers import RingReader
from energyd.sources.nvml import NvmlError, RingDrain
from energyd_client.clock import now_ns

S = 1_000_000_000
PERIOD = 20_000_000
INFO = DeviceInfo(
    uuid="GPU-x", domain="gpu", name="x", source="ring", period_ns=PERIOD, max_step_ns=5 * PERIOD, depth=119
)  # fmt: skip


class Driver:
    """One GPU in memory: what its ring holds (until `now`), what its counter says, what it refuses."""

    def __init__(self) -> None:
        self.now = 1_000 * S
        self.first_us = 0  # of what the ring still holds, besides its depth
        self.mj: int | NvmlError = 5_000_000
        self.refusal: int | None = None
        self.call_s = 0.0

    def ring(self, handle: object, last_us: int) -> RingDrain:
        if self.refusal is not None:
            raise NvmlError(self.refusal, "nvmlDeviceGetSamples")
        stamp_us = np.arange(self.now - 118 * PERIOD, self.now + 1, PERIOD) // 1000
        stamp_us = stamp_us[(stamp_us > last_us) & (stamp_us >= self.first_us)]
        return RingDrain(stamp_us, stamp_us * 1000, np.full(len(stamp_us), 300_000), self.now, 0)

    def counter(self, handle: object) -> tuple[int, int]:
        time.sleep(self.call_s)
        if isinstance(self.mj, NvmlError):
            raise self.mj
        return self.now, self.mj


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def gpu(driver: Driver) -> Gpu:
    gpu = Gpu("handle", RingReader(INFO, 0.5, driver.now))
    gpu.sample(driver, driver.now, 0)
    gpu.read_counter(driver)
    return gpu


def outage(driver: Driver, gpu: Gpu, code: int, seconds: float) -> list:
    """Refusals for so long, asked when `gpu` says, then whatever comes first after them."""
    until = driver.now + int(seconds * S)
    driver.refusal = code
    while True:
        driver.now = max(gpu.next_ns, driver.now + 1)
        if driver.now > until:
            driver.refusal = None
            return gpu.sample(driver, driver.now, 0)
        with pytest.raises(NvmlError) as refused:
            gpu.sample(driver, driver.now, 0)
        gpu.failed(refused.value, driver.now, 0)


def test_a_gpu_is_asked_again_while_its_ring_still_holds_what_was_missed(driver: Driver, gpu: Gpu) -> None:
    last_ns = gpu.reader.last_ns
    events = outage(driver, gpu, 999, 1.6)
    assert not [e for e in events if isinstance(e, Break)]
    (samples,) = [e for e in events if isinstance(e, PowerSamples)]
    assert samples.t_ns[0] - last_ns == PERIOD


@pytest.mark.parametrize("seconds", [4.0, 15.0, 600.0])
def test_an_outage_lasts_here_at_most_half_as_long_again_and_never_ten_seconds_more(
    driver: Driver, gpu: Gpu, seconds: float
) -> None:
    began = driver.now
    outage(driver, gpu, 999, seconds)
    late_s = (driver.now - began) / S - seconds
    assert late_s <= min(0.5 * seconds + 0.5, 10.0)


def test_the_counter_is_read_as_soon_as_samples_are_behind_a_hole(driver: Driver, gpu: Gpu) -> None:
    gpu.counter_due = False
    driver.now += 2 * S
    gpu.sample(driver, driver.now, 0)
    assert not gpu.counter_due
    driver.now += 4 * S
    gpu.sample(driver, driver.now, 0)
    assert gpu.counter_due


@pytest.mark.parametrize(
    ("code", "reason"), [(1, "driver_reload"), (9, "driver_reload"), (18, "driver_reload"), (15, "reset")]
)
def test_a_counter_that_began_anew_is_named_after_what_the_library_said(
    driver: Driver, gpu: Gpu, code: int, reason: str
) -> None:
    driver.mj = 800
    events = outage(driver, gpu, code, 3.0)
    assert isinstance(events[0], Break)
    assert (events[0].reason, events[0].counter_reset) == (reason, True)
    # And the next reset is not blamed on an outage that is long over.
    driver.now += S // 2
    gpu.sample(driver, driver.now, 0)
    driver.mj = 100
    assert [e.reason for e in gpu.read_counter(driver) if isinstance(e, Break)] == ["reset"]


def test_a_counter_refused_now_and_then_is_kept_and_one_refused_always_is_given_up(
    driver: Driver, gpu: Gpu
) -> None:
    for _ in range(3):
        driver.mj = NvmlError(3, "counter")
        for _ in range(4):
            assert gpu.read_counter(driver) == []
        driver.mj = 6_000_000
        assert [type(e) for e in gpu.read_counter(driver)] == [CounterRead]
    driver.mj = NvmlError(3, "counter")
    for _ in range(5):
        gpu.read_counter(driver)
    assert not gpu.has_counter
    driver.mj = 7_000_000
    assert gpu.read_counter(driver) == []


def test_a_counter_call_longer_than_the_counters_own_step_is_not_believed_but_still_betrays_a_reset(
    driver: Driver, gpu: Gpu
) -> None:
    driver.call_s = 0.11
    driver.mj = 6_000_000
    began = now_ns()
    assert gpu.read_counter(driver) == []
    assert now_ns() - began > 100_000_000
    driver.mj = 1
    assert [(type(e), getattr(e, "reason", "")) for e in gpu.read_counter(driver)] == [(Break, "reset")]
