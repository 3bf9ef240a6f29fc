"""How is one GPU, once found, read and forgiven?

A refusal by NVML costs nothing while the driver's ring (or the next poll) still has what was missed:
only silence beyond that, or a GPU that is gone, becomes a `Break`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from energyd.sources import Break, Condition, CounterRead, Event, PowerSamples, Share
from energyd.sources.gpu_readers import PowerReader
from energyd.sources.nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNINITIALIZED,
    VERSION_MISMATCH,
    Nvml,
    NvmlError,
)
from energyd_client.clock import now_ns

_LACKING: Final = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
_UNLOADED: Final = (UNINITIALIZED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, VERSION_MISMATCH)
"""Answers of a library whose driver goes, or has gone, away."""

_BACK_OFF_MAX_NS: Final = 10_000_000_000
_COUNTER_REFUSALS: Final = 5
"""In a row, after which a counter is believed to be missing: drivers refuse now and then what they have."""

_COUNTER_CALL_NS: Final = 100_000_000
"""A read that took longer says nothing: when in the call the driver looked is unknown, and by then the
counter may have made a whole further step. An H100 takes 3 ms, at most 18."""

T = TypeVar("T")


@dataclass
class Gpu:
    """One GPU in service: its handle, its power reader, its record of failures."""

    handle: Any
    reader: PowerReader
    next_ns: int = 0
    failures: int = 0  # in a row
    failure: NvmlError | None = None  # the last of them
    since_ns: int = 0  # when the row began
    unloaded: bool = False  # the row has an answer of a driver that went away
    torn: bool = False  # samples are missing, and none has come since
    has_counter: bool = True
    counter_due: bool = True  # out of turn: at the start, and behind a hole so that it can be bridged
    counter_mj: int | None = None
    counter_refusals: int = 0  # in a row
    has_use: bool = True
    use_stamp_us: int | None = None  # of the last utilisation by process; None: not asked a second ago

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return self.reader.info.uuid

    @property
    def gone(self) -> bool:
        """It fell off the bus or waits for a reset: nothing from before counts any more."""
        return self.failure is not None and self.failure.code in (GPU_IS_LOST, RESET_REQUIRED)

    @property
    def unsupported(self) -> bool:
        """Its last refusal says that the driver has no such reading."""
        return self.failure is not None and self.failure.code in _LACKING

    def silent(self, now: int) -> bool:
        """Whether samples are lost for good: the ring no longer holds the oldest that we lack."""
        return now - self.reader.last_ns > self.reader.patience_ns

    def sample(self, nvml: Nvml, now: int, early_ns: int) -> list[Event]:
        """New power. `early_ns`: how much before its time the next call may come. Raises NvmlError."""
        self.next_ns = now + self.reader.every_ns - early_ns
        last_ns = self.reader.last_ns
        power = self.reader.read(nvml, self.handle)
        # After a failure the counter comes first: if it was reset, that must be known before the hole
        # is bridged.
        events = self.read_counter(nvml) if self.failures else []
        self.failures, self.failure, self.unloaded = 0, None, False
        if not any(isinstance(event, Break) for event in power) and self.silent(now):
            power.append(Break(self.uuid, now, "lost: the driver gives no new power value"))
        self.torn |= any(isinstance(event, Break) for event in power)
        for event in power:
            if isinstance(event, PowerSamples):
                hole = self.torn or event.t_ns[0] - last_ns > self.reader.info.max_step_ns
                self.counter_due, self.torn = self.counter_due or hole, False
        return events + power

    def failed(self, error: NvmlError, now: int, early_ns: int) -> list[Event]:
        """Back off; a Break if samples are lost for good.

        The next try comes after half the time that it has been failing: while a ring still holds what is
        missing it is asked again in time, and no outage lasts longer here than half as much again.
        """
        if not self.failures:
            self.since_ns = now
        self.failures += 1
        self.failure = error
        self.unloaded |= error.code in _UNLOADED
        wait_ns = min(max(self.reader.every_ns, (now - self.since_ns) // 2), _BACK_OFF_MAX_NS)
        self.next_ns = now + wait_ns - early_ns
        if self.gone or self.silent(now):
            self.torn = True
            return [Break(self.uuid, now, f"lost: {error}")]
        return []

    def read_counter(self, nvml: Nvml) -> list[Event]:
        """The energy counter, 3 ms on an H100; after a Break if it went back. Nothing if it refuses."""
        self.counter_due = False
        if not self.has_counter:
            return []
        began = now_ns()
        try:
            t_ns, energy_mj = nvml.counter(self.handle)
        except NvmlError as error:
            self.counter_refusals += error.code in _LACKING
            self.has_counter = self.counter_refusals < _COUNTER_REFUSALS
            return []
        self.counter_refusals = 0
        before, self.counter_mj = self.counter_mj, energy_mj
        events: list[Event] = []
        if before is not None and energy_mj < before:
            reason = "driver_reload" if self.unloaded else "reset"
            # The power samples may have gone on all the while; if not, their silence tells.
            events.append(Break(self.uuid, t_ns, reason, counter_reset=True, torn=self.unloaded))
        if now_ns() - began <= _COUNTER_CALL_NS:
            events.append(CounterRead(self.uuid, t_ns, energy_mj))
        return events

    def condition(self, nvml: Nvml) -> list[Event]:
        """What explains an outlier: five calls of 1 to 8 µs, one more while processes share the GPU."""
        condition = Condition(
            self.uuid,
            now_ns(),
            temperature_c=_or(None, nvml.temperature_c, self.handle),
            sm_clock_mhz=_or(None, nvml.sm_clock_mhz, self.handle),
            power_limit_mw=_or(None, nvml.power_limit_mw, self.handle),
            throttle_bits=_or(None, nvml.throttle_bits, self.handle),
            pids=_or(frozenset(), nvml.pids, self.handle),
        )
        return [condition, *self._shares(nvml, condition.pids)]

    def _shares(self, nvml: Nvml, pids: frozenset[int]) -> list[Event]:
        if len(pids) < 2 or not self.has_use:
            self.use_stamp_us = None
            return []
        try:
            used = nvml.process_use(self.handle, self.use_stamp_us)
        except NvmlError as error:
            self.has_use = error.code not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND)  # MIG, virtual GPUs
            return []
        self.use_stamp_us = max((use.stamp_us for use in used), default=self.use_stamp_us)
        return [Share(self.uuid, use.t_ns, use.pid, use.sm_percent) for use in used]


def _or(otherwise: T, call: Callable[[Any], T], handle: Any) -> T:
    try:
        return call(handle)
    except NvmlError:
        return otherwise
