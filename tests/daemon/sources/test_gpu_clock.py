"""Do ring stamps stay in order when the wall clock, which they are in, is set?"""

from __future__ import annotations

import numpy as np
import pytest

from energyd.sources import Break, DeviceInfo, PowerSamples
from energyd.sources.gpu_readers import RingReader
from energyd.sources.nvml import RingDrain, clock_pair
from energyd_client.clock import now_ns

PERIOD = 20_000_000
DEPTH = 100


class Driver:
    """A ring in memory: stamps are kept as the wall clock showed them when the sample was taken."""

    def __init__(self) -> None:
        self.now = 1_000 * 1_000_000_000
        self.wall_ahead = 10**18
        self.stamps: list[tuple[int, int]] = []

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds * 1e9 / PERIOD)):
            self.now += PERIOD
            self.stamps.append(((self.now + self.wall_ahead) // 1000, 300_000))
        self.stamps = self.stamps[-DEPTH:]

    def ring(self, handle: object, last_us: int) -> RingDrain:
        new = [pair for pair in self.stamps if pair[0] > last_us]
        stamp_us = np.array([us for us, _ in new], dtype=np.int64)
        power = np.array([mw for _, mw in new], dtype=np.int64)
        return RingDrain(stamp_us, stamp_us * 1000 - self.wall_ahead, power, self.now, -self.wall_ahead)


@pytest.mark.parametrize("lag_ns", [0, PERIOD // 2])
@pytest.mark.parametrize("step_s", [-3600.0, -1.0, 0.3, 60.0])
def test_a_step_of_the_wall_clock_is_a_break_and_no_sample_is_misplaced(step_s, lag_ns):
    driver = Driver()
    driver.pass_s(5)
    info = DeviceInfo(
        uuid="GPU-x",
        domain="gpu",
        name="x",
        source="ring",
        period_ns=PERIOD,
        max_step_ns=5 * PERIOD,
        depth=DEPTH,
        lag_ns=lag_ns,
    )
    reader = RingReader(info, 0.5, driver.now)
    events = []
    for i in range(20):
        driver.pass_s(0.5)
        if i == 5:
            driver.pass_s(0.2)
            driver.wall_ahead += int(step_s * 1e9)
            driver.pass_s(0.3)
        events += reader.read(driver, None)
    assert [e.reason for e in events if isinstance(e, Break)] == ["clock_step"]
    t_ns = np.concatenate([e.t_ns for e in events if isinstance(e, PowerSamples)])
    steps = np.diff(t_ns)
    assert (steps > 0).all()
    assert ((t_ns + lag_ns) % PERIOD == 0).all()  # every stamp is one of the true instants, less the lag
    assert np.sum(steps > PERIOD) == 1
    assert steps.max() <= 4_000_000_000
    assert t_ns[-1] == driver.now - lag_ns


def test_the_pair_of_clocks_is_read_within_microseconds():
    before = now_ns()
    middle, _ = clock_pair()
    assert before <= middle <= now_ns()
    offsets = [clock_pair()[1] for _ in range(20)]
    assert np.ptp(offsets) < 1_000_000
