"""How does one GPU's power become samples, once its source is known?

Two readers: the driver's ring, drained now and then, and a polled field. Each keeps what it needs to
stay in order and complains by a `Break` only when samples are really missing. NVML's refusals pass
through as `NvmlError`: `gpu` decides what they mean for the device.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from energyd.sources import Break, DeviceInfo, Event, PowerSamples
from energyd.sources.nvml import Nvml, NvmlError

_CLOCK_STEP_NS: Final = 5_000_000
"""Wall clock against BOOTTIME between two drains: slewing makes at most 0.5 ms in a second, so more is
a step (NTP, a person)."""

_MAX_MW: Final = 2**31
"""Above it there is no power but a driver's `not available`. Nothing below is clipped: an H100 showed
939 W on a 700 W part."""


class PowerReader(Protocol):
    """Reads one device's power."""

    info: DeviceInfo
    every_ns: int  # how often to read
    patience_ns: int  # silence after which samples have been lost for good
    last_ns: int  # samples from before are of no use: the last one given, or the start

    def read(self, nvml: Nvml, handle: Any) -> list[Event]:
        """New samples, after a Break where some are missing. Raises NvmlError."""

    def restart(self, now_ns: int) -> None:
        """The device was away: take nothing from before `now_ns`."""


def make_reader(info: DeviceInfo, interval_s: float, now_ns: int) -> PowerReader:
    """The reader for the source that the probe chose, from `now_ns` (CLOCK_BOOTTIME) on."""
    return RingReader(info, interval_s, now_ns) if info.source == "ring" else PolledReader(info, now_ns)


class RingReader:
    """Drains the driver's ring: every sample that it took, with its own stamp, whenever we come.

    A value is the mean of about one period before its stamp (as fitted on recorded H100 traces): `lag_ns`,
    half of it, is taken off the stamps given out, so that they lie in the middle of what they mean. What is
    asked of the driver, and what tells of an overrun, stays on the driver's own stamps. All times below
    (`last_ns`) are those given out; the newest sample is therefore that much older than it was stamped.
    """

    def __init__(self, info: DeviceInfo, interval_s: float, now_ns: int):
        assert info.depth is not None
        self.info = info
        self._full = 0.9 * info.depth
        self._span_ns = info.depth * info.period_ns
        # A ring found later than at the start cannot refuse the interval any more: it is drained sooner.
        self.every_ns = min(int(interval_s * 1e9), int(0.8 * self._span_ns))
        self.patience_ns = max(int(0.8 * self._span_ns), info.max_step_ns) + info.lag_ns
        # What the ring holds from before the start is taken too: a daemon that restarts within its span
        # has no gap, and the integral can begin at the start.
        self.last_ns = now_ns - self._span_ns - info.lag_ns
        self._last_us = 0
        self._offset_ns: int | None = None

    def restart(self, now_ns: int) -> None:
        """The device was away: its ring may mix old and new."""
        self.last_ns = now_ns - self.info.period_ns - self.info.lag_ns
        self._last_us = 0

    def read(self, nvml: Nvml, handle: Any) -> list[Event]:
        """Everything since the last drain."""
        drain = nvml.ring(handle, self._last_us)
        newest_ns = drain.read_ns - self.info.lag_ns  # no sample can lie later
        if self._clock_stepped(drain.offset_ns):
            # Stamps from before a step of the wall clock cannot be placed on ours, and may lie in its
            # future: wait until the ring holds none. The counter bridges the hole.
            self.last_ns = newest_ns + self._span_ns
            self._last_us = 0
            return [Break(self.info.uuid, drain.read_ns, "clock_step")]
        if not len(drain.stamp_us) or newest_ns <= self.last_ns:
            return []
        events: list[Event] = []
        hole_ns = (int(drain.stamp_us[0]) - self._last_us) * 1000
        if self._last_us and hole_ns > self.info.max_step_ns and len(drain.stamp_us) >= self._full:
            events.append(Break(self.info.uuid, drain.read_ns, "overrun"))
        self._last_us = int(drain.stamp_us[-1])
        t_ns = drain.t_ns - self.info.lag_ns
        keep = (t_ns > self.last_ns) & plausible(drain.power_mw)
        keep[1:] &= np.diff(t_ns) > 0
        # The wall clock may have been set back before we first looked: what is stamped ahead of now, and
        # what stands before a jump back, was stamped by the old time.
        keep &= t_ns <= newest_ns + _CLOCK_STEP_NS
        back = np.flatnonzero(np.diff(drain.stamp_us) < 0)
        if len(back):
            keep[: back[-1] + 1] = False
        if keep.any():
            t_ns = t_ns[keep]
            events.append(PowerSamples(self.info.uuid, t_ns, drain.power_mw[keep].astype(np.int32)))
            self.last_ns = int(t_ns[-1])
        return events

    def _clock_stepped(self, offset_ns: int) -> bool:
        before, self._offset_ns = self._offset_ns, offset_ns
        return before is not None and abs(offset_ns - before) > _CLOCK_STEP_NS


class PolledReader:
    """Polls field 186 (`instant`) or 185 (`average`) at about its own period.

    A reading is `lag_ns` old, and its stamp is moved back by that: on average half a period since the
    driver renewed it, and for the average half of its 1 s window. The window of `instant` (25 ms on an
    H100) is short beside the period and not known in general: it is left out.
    """

    def __init__(self, info: DeviceInfo, now_ns: int):
        self.info = info
        self.every_ns = info.period_ns
        self.patience_ns = info.max_step_ns + info.lag_ns
        self.last_ns = now_ns - info.lag_ns - info.max_step_ns

    def restart(self, now_ns: int) -> None:
        """The device was away. A reading knows no past, so there is nothing to forget."""

    def read(self, nvml: Nvml, handle: Any) -> list[Event]:
        """One reading, or none where it is not plausible (0 W happens, alone, and means nothing)."""
        reading = nvml.polled(handle)
        power_mw = reading.instant_mw if self.info.source == "instant" else reading.average_mw
        if isinstance(power_mw, NvmlError):
            raise power_mw
        t_ns = reading.read_ns - self.info.lag_ns
        if t_ns <= self.last_ns or not 0 < power_mw < _MAX_MW:
            return []
        self.last_ns = t_ns
        return [PowerSamples(self.info.uuid, np.array([t_ns]), np.array([power_mw], dtype=np.int32))]


def plausible(power_mw: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these are powers: 0 W and `not available` are not, anything else is."""
    return (power_mw > 0) & (power_mw < _MAX_MW)
