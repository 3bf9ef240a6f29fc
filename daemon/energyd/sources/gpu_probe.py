"""What does each GPU offer for its power, how often is it new, and how much of it is kept?

Ring, else instant, else average (facts from one H100: the ring holds 119 samples 20 ms apart; instant is
new each 100 ms and sees a quarter of the time; the average trails by up to a second). Nothing of that is
assumed from a model's name: period and depth are measured here, all devices at once, in at most 1.2 s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from energyd.sources import DeviceInfo
from energyd.sources.nvml import FUNCTION_NOT_FOUND, NOT_SUPPORTED, Nvml, NvmlError
from energyd_client.clock import now_ns

_LACKING: Final = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
_PROBE_NS: Final = 1_150_000_000
_POLL_S: Final = 0.01  # a tenth of an H100's update period
_RING_CHECK_NS: Final = 100_000_000
_ENOUGH: Final = 10  # samples from which a step can be told
_CHANGES: Final = 3  # changes of a polled value from which a period can be told
_ASSUMED_PERIOD_NS: Final = 100_000_000
_SHORTEST_PERIOD_NS: Final = 20_000_000  # drivers answer faster polling with zeros and NOT_SUPPORTED
_AVERAGE_WINDOW_NS: Final = 1_000_000_000
"""Window of field 185, and of nvmlDeviceGetPowerUsage where that is an average (NVIDIA's header)."""


@dataclass
class _Candidate:
    """One GPU while it is being probed."""

    index: int
    handle: Any
    ring_us: list[int] = field(default_factory=list)  # stamps of the largest drain so far
    ring_settled: bool = False
    instant: list[tuple[int, int]] = field(default_factory=list)  # (t_ns, mW)
    average: list[tuple[int, int]] = field(default_factory=list)
    refusal: NvmlError | None = None

    @property
    def has_ring(self) -> bool:
        return len(self.ring_us) >= _ENOUGH

    @property
    def down(self) -> bool:
        """It refuses for a reason other than not having the reading: no use in waiting for it."""
        return self.refusal is not None and self.refusal.code not in _LACKING


@dataclass(frozen=True)
class Found:
    """The probe's answer. `notes` say in words what was not as it should be."""

    devices: dict[str, DeviceInfo]
    refused: dict[str, NvmlError]
    notes: list[str]

    @property
    def powerless(self) -> set[str]:
        """Refused GPUs that have no power reading at all, now or later."""
        return {uuid for uuid, error in self.refused.items() if error.code in _LACKING}


def probe(nvml: Nvml, gpus: Mapping[str, tuple[int, Any]]) -> Found:
    """Measure all GPUs given as {uuid: (index, handle)}. Never raises for what one of them does."""
    candidates = {uuid: _Candidate(index, handle) for uuid, (index, handle) in gpus.items()}
    _watch(nvml, candidates)
    found = Found({}, {}, [])
    for uuid, candidate in candidates.items():
        try:
            found.devices[uuid] = _choose(nvml, uuid, candidate, found.notes)
        except NvmlError as error:
            found.refused[uuid] = error
    return found


def _watch(nvml: Nvml, candidates: Mapping[str, _Candidate]) -> None:
    """Drain rings until each stops growing, and meanwhile poll the GPUs that have none."""
    start_ns = now_ns()
    next_ring_ns = start_ns
    while now_ns() - start_ns < _PROBE_NS:
        waiting = [c for c in candidates.values() if not (c.down or (c.has_ring and c.ring_settled))]
        if not waiting:
            return
        look_at_rings = now_ns() >= next_ring_ns
        if look_at_rings:
            next_ring_ns = now_ns() + _RING_CHECK_NS
        for candidate in waiting:
            if look_at_rings and not candidate.ring_settled:
                _look_at_ring(nvml, candidate)
            if not candidate.has_ring:
                _poll(nvml, candidate)
        time.sleep(_POLL_S)


def _look_at_ring(nvml: Nvml, candidate: _Candidate) -> None:
    """A ring is as deep as a drain that is no longer than the one before: after a driver's start it grows."""
    try:
        stamps = nvml.ring(candidate.handle, 0).stamp_us.tolist()
    except NvmlError as error:
        candidate.refusal = error
        candidate.ring_settled = error.code in _LACKING
        return
    # One more or less is the moment of the look, not growth.
    candidate.ring_settled = candidate.has_ring and len(stamps) <= len(candidate.ring_us) + 1
    if len(stamps) > len(candidate.ring_us):
        candidate.ring_us = stamps


def _poll(nvml: Nvml, candidate: _Candidate) -> None:
    try:
        reading = nvml.polled(candidate.handle)
    except NvmlError as error:
        candidate.refusal = error
        return
    for value, readings in (
        (reading.instant_mw, candidate.instant),
        (reading.average_mw, candidate.average),
    ):
        if isinstance(value, NvmlError):
            candidate.refusal = value
        elif value > 0:
            readings.append((reading.read_ns, value))


def _choose(nvml: Nvml, uuid: str, candidate: _Candidate, notes: list[str]) -> DeviceInfo:
    depth = None
    lag_ns = 0
    if candidate.has_ring:
        source = "ring"
        depth = len(candidate.ring_us)
        period_ns = int(np.median(np.diff(candidate.ring_us))) * 1000
        max_step_ns = max(5 * period_ns, 100_000_000)
    else:
        readings = candidate.instant or candidate.average
        if not readings:
            raise candidate.refusal or NvmlError(NOT_SUPPORTED, "every power reading")
        source = "instant" if candidate.instant else "average"
        measured_ns = update_period_ns(readings)
        period_ns = max(measured_ns or _ASSUMED_PERIOD_NS, _SHORTEST_PERIOD_NS)
        max_step_ns = max(5 * period_ns, 500_000_000)
        lag_ns = period_ns // 2 + (_AVERAGE_WINDOW_NS // 2 if source == "average" else 0)
        notes.append(f"{uuid}: the driver gives no ring of power samples, {source} power is polled")
        if measured_ns is None:
            notes.append(f"{uuid}: {source} power did not change for 1 s, a period of 100 ms is assumed")
    return DeviceInfo(
        uuid=uuid,
        domain="gpu",
        name=nvml.name(candidate.handle),
        source=source,
        period_ns=period_ns,
        max_step_ns=max_step_ns,
        lag_ns=lag_ns,
        depth=depth,
        power_limit_mw=_limit_mw(nvml, candidate.handle),
        driver=nvml.driver(),
        index=candidate.index,
        mig=nvml.mig(candidate.handle),
    )


def update_period_ns(readings: list[tuple[int, int]]) -> int | None:
    """Median time between changes of a polled (t_ns, value); None if it changed too seldom to tell."""
    changes = [t for (t, new), (_, old) in zip(readings[1:], readings, strict=False) if new != old]
    return int(np.median(np.diff(changes))) if len(changes) > _CHANGES else None


def _limit_mw(nvml: Nvml, handle: Any) -> int | None:
    try:
        return nvml.power_limit_mw(handle)
    except NvmlError:
        return None
