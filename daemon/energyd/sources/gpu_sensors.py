"""What do all sensors of a GPU show, watched side by side for a second?

Every way to read power is tried on every GPU, chosen later or not: how often it is new, how deep it is,
what a call costs. Measured: period, depth, cost. All GPUs share one window and one thread. The counter is
dear (3 ms a call on an H100), so it gets a quarter of the time at most, and few reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from energyd.sources.gpu_readers import plausible
from energyd.sources.nvml import LACKING, Nvml, NvmlError, RingDrain
from energyd_client.clock import now_ns

Sensor = Literal["ring", "instant", "average", "counter"]
SENSORS: Final[tuple[Sensor, ...]] = ("ring", "instant", "average", "counter")
"""The best source of power first; the counter is none."""

WINDOW_NS: Final = 1_200_000_000
ENOUGH: Final = 10  # samples from which the ring's step can be told
_POLL_S: Final = 0.01  # a tenth of an H100's update period
_RING_EVERY_NS: Final = 200_000_000
_COUNTER_READS: Final = 30
_COUNTER_SHARE: Final = 0.25
_CHANGES: Final = 3  # changes of a value from which a period can be told


@dataclass
class Calls:
    """How one way to read was called: what each call cost, and how it was refused."""

    costs_ns: list[int] = field(default_factory=list)
    refusal: NvmlError | None = None

    @property
    def median_us(self) -> float | None:
        """Median cost, decoding included; None if no call succeeded."""
        return round(float(np.median(self.costs_ns)) / 1000, 1) if self.costs_ns else None

    @property
    def max_us(self) -> float | None:
        """The dearest call."""
        return round(max(self.costs_ns) / 1000, 1) if self.costs_ns else None


@dataclass
class Watched:
    """One GPU while it is watched. Times are CLOCK_BOOTTIME ns as read, no lag taken off."""

    index: int
    handle: Any
    ring: RingDrain | None = None  # the newest drain of all that the ring holds
    depth: int = 0  # the longest drain
    powers: int = 0  # how many of a drain's values were powers, at most
    instant: list[tuple[int, int]] = field(default_factory=list)  # (t_ns, mW)
    average: list[tuple[int, int]] = field(default_factory=list)
    counter: list[tuple[int, int]] = field(default_factory=list)  # (t_ns, mJ)
    stand_in: bool = False  # the average is nvmlDeviceGetPowerUsage's
    calls: dict[Sensor, Calls] = field(default_factory=lambda: {sensor: Calls() for sensor in SENSORS})

    def answers(self, sensor: Sensor) -> bool:
        """Whether that sensor has given something to measure by."""
        if sensor == "ring":
            return self.powers >= ENOUGH
        return bool({"instant": self.instant, "average": self.average, "counter": self.counter}[sensor])

    @property
    def down(self) -> bool:
        """It answers nothing, and not for lack of readings: no use in waiting for it."""
        refusals = [calls.refusal for calls in self.calls.values()]
        refused = any(error is not None and error.code not in LACKING for error in refusals)
        return refused and not any(self.answers(sensor) for sensor in SENSORS)

    @property
    def refusal(self) -> NvmlError | None:
        """Why it has no power reading, preferring a reason that may pass."""
        refusals = [self.calls[s].refusal for s in ("ring", "instant", "average")]
        told = [error for error in refusals if error is not None]
        return next((e for e in told if e.code not in LACKING), told[-1] if told else None)

    def drain(self, nvml: Nvml) -> None:
        """Look at the whole ring. After a driver's start it grows from look to look."""
        before = now_ns()
        try:
            drain = nvml.ring(self.handle, 0)
        except NvmlError as error:
            self.calls["ring"].refusal = error
            return
        self.calls["ring"].costs_ns.append(now_ns() - before)
        self.depth = max(self.depth, len(drain.stamp_us))
        self.powers = max(self.powers, int(plausible(drain.power_mw).sum()))
        self.ring = drain

    def poll(self, nvml: Nvml) -> None:
        """Read instant and average; both come from one call, whose cost counts for either."""
        before = now_ns()
        try:
            reading = nvml.polled(self.handle)
        except NvmlError as error:
            self.calls["instant"].refusal = self.calls["average"].refusal = error
            return
        cost_ns = now_ns() - before
        self.stand_in = reading.stand_in
        for sensor, value, readings in (
            ("instant", reading.instant_mw, self.instant),
            ("average", reading.average_mw, self.average),
        ):
            calls = self.calls["instant" if sensor == "instant" else "average"]
            if isinstance(value, NvmlError):
                calls.refusal = value
            elif value > 0:  # 0 W happens, alone, and means nothing
                calls.costs_ns.append(cost_ns)
                readings.append((reading.read_ns, value))

    def read_counter(self, nvml: Nvml) -> None:
        """Read the energy counter once."""
        before = now_ns()
        try:
            self.counter.append(nvml.counter(self.handle))
        except NvmlError as error:
            self.calls["counter"].refusal = error
            return
        self.calls["counter"].costs_ns.append(now_ns() - before)

    def ring_period_ns(self) -> int | None:
        """Median step between the ring's own stamps."""
        if self.ring is None or len(self.ring.stamp_us) < ENOUGH:
            return None
        return int(np.median(np.diff(self.ring.stamp_us))) * 1000


def watch(nvml: Nvml, gpus: Mapping[str, tuple[int, Any]]) -> dict[str, Watched]:
    """Try every sensor of the GPUs given as {uuid: (index, handle)}, for 1.2 s if one of them lives.

    Never raises for what a GPU does: its refusals are kept.
    """
    watched = {uuid: Watched(index, handle) for uuid, (index, handle) in gpus.items()}
    alive = list(watched.values())
    begin_ns = now_ns()
    drain_ns = begin_ns
    next_read = {w.index: begin_ns for w in alive}
    counter_cost_ns = 0
    while alive and (now := now_ns()) - begin_ns < WINDOW_NS:
        look_at_rings = now >= drain_ns
        if look_at_rings:
            drain_ns = now + _RING_EVERY_NS
        for gpu in alive:
            if look_at_rings:
                gpu.drain(nvml)
            gpu.poll(nvml)
        # One counter at a time, so that the polls keep their pace, and the one that waits longest.
        due = min(alive, key=lambda gpu: next_read[gpu.index])
        if now >= next_read[due.index] and counter_cost_ns <= _COUNTER_SHARE * (now - begin_ns):
            next_read[due.index] = now + WINDOW_NS // _COUNTER_READS
            before = now_ns()
            due.read_counter(nvml)
            counter_cost_ns += now_ns() - before
        alive = [gpu for gpu in alive if not gpu.down]
        time.sleep(_POLL_S)
    for gpu in alive:
        gpu.drain(nvml)  # the newest samples, beside the last counter reads
    return watched


def update_period_ns(readings: list[tuple[int, int]]) -> int | None:
    """Time between changes of a polled (t_ns, value); None if it changed too seldom to tell.

    The mean of the steps near the median one: the median alone would be a multiple of the polls' own
    step, and a value that came out the same twice in a row makes a step of two periods.
    """
    changes = [t for (t, new), (_, old) in zip(readings[1:], readings, strict=False) if new != old]
    if len(changes) <= _CHANGES:
        return None
    steps = np.diff(changes)
    return int(np.mean(steps[steps < 1.5 * np.median(steps)]))


def integral_mj(t_ns: NDArray[np.int64], power_mw: NDArray[np.int64]) -> NDArray[np.float64]:
    """Energy from the first of some samples to each of them, by trapezoids."""
    steps = np.diff(t_ns) * (power_mw[1:] + power_mw[:-1]) / 2e9
    return np.concatenate(([0.0], np.cumsum(steps)))
