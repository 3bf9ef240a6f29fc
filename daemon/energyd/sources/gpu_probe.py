"""What does each GPU offer for its power, and which of it is used?

Ring, else instant, else average (facts from one H100: the ring holds 119 samples 20 ms apart; instant is
new each 100 ms and sees a quarter of the time; the average trails by up to a second). Nothing of that is
assumed from a model's name. Measured here, for all sensors of all devices at once in about 1.2 s: period,
depth, cost of a call, agreement of the chosen source with the counter. Derived from the period: by how
much a value trails the load, `lag_ns`:

- ring: half its period, as a value is the mean of about one period before its stamp;
- instant: half its period, its mean age when polled; its window is short beside that, and not known;
- average: half its period and half of its 1 s window (NVIDIA's header);
- counter: half its period, the mean age of a value when read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from energyd.sources import DeviceInfo, SensorInfo
from energyd.sources.gpu_counter import Agreement, Power, compare
from energyd.sources.gpu_counter import period_ns as counter_period_ns
from energyd.sources.gpu_readers import plausible
from energyd.sources.gpu_sensors import ENOUGH, SENSORS, Sensor, Watched, update_period_ns, watch
from energyd.sources.nvml import LACKING, NOT_SUPPORTED, Nvml, NvmlError

ASSUMED_PERIOD_NS: Final = 100_000_000
"""For a polled value that never changes: then its period does not matter much."""

_SHORTEST_PERIOD_NS: Final = 20_000_000  # drivers answer faster polling with zeros and NOT_SUPPORTED
_AVERAGE_WINDOW_NS: Final = 1_000_000_000
"""Window of field 185, and of nvmlDeviceGetPowerUsage where that is an average (NVIDIA's header)."""

_ACCURACY: Final = 0.05
"""Identical boards differ by about ±5 % in gain and offset, whatever the sensor reads (Yang, Adamek and
Armour, SC24: 70 GPUs of 12 generations against an external meter)."""


@dataclass(frozen=True)
class Found:
    """The probe's answer. `notes` say in words what was not as it should be."""

    devices: dict[str, DeviceInfo]
    refused: dict[str, NvmlError]
    notes: list[str]

    @property
    def powerless(self) -> set[str]:
        """Refused GPUs that have no power reading at all, now or later."""
        return {uuid for uuid, error in self.refused.items() if error.code in LACKING}


def probe(nvml: Nvml, gpus: Mapping[str, tuple[int, Any]]) -> Found:
    """Measure all GPUs given as {uuid: (index, handle)}. Never raises for what one of them does."""
    found = Found({}, {}, [])
    for uuid, gpu in watch(nvml, gpus).items():
        try:
            found.devices[uuid] = _describe(nvml, uuid, gpu, found.notes)
        except NvmlError as error:
            found.refused[uuid] = error
    return found


def _describe(nvml: Nvml, uuid: str, gpu: Watched, notes: list[str]) -> DeviceInfo:
    source = next((sensor for sensor in SENSORS if sensor != "counter" and gpu.answers(sensor)), None)
    if source is None:
        raise gpu.refusal or NvmlError(NOT_SUPPORTED, "every power reading")
    measured_ns = _period_ns(gpu, source)
    period_ns = max(measured_ns or ASSUMED_PERIOD_NS, 1 if source == "ring" else _SHORTEST_PERIOD_NS)
    max_step_ns = max(5 * period_ns, 100_000_000 if source == "ring" else 500_000_000)
    if source != "ring":
        notes.append(f"{uuid}: the driver gives no ring of power samples, {source} power is polled")
        if measured_ns is None:
            notes.append(f"{uuid}: {source} power did not change for 1 s, a period of 100 ms is assumed")
    lag_ns = _lag_ns(source, period_ns)
    return DeviceInfo(
        uuid=uuid,
        domain="gpu",
        name=nvml.name(gpu.handle),
        source=source,
        period_ns=period_ns,
        max_step_ns=max_step_ns,
        lag_ns=lag_ns,
        depth=gpu.depth if source == "ring" else None,
        power_limit_mw=_limit_mw(nvml, gpu.handle),
        driver=nvml.driver(),
        index=gpu.index,
        mig=nvml.mig(gpu.handle),
        accuracy=_ACCURACY,
        sensors=tuple(_sensor(gpu, sensor, source, lag_ns) for sensor in SENSORS),
    )


def _sensor(gpu: Watched, sensor: Sensor, source: Sensor, source_lag_ns: int) -> SensorInfo:
    calls = gpu.calls[sensor]
    if not gpu.answers(sensor):
        missing = calls.refusal is not None and calls.refusal.code in LACKING
        return SensorInfo(
            sensor=sensor,
            state="absent" if missing else "refused",
            call_us=calls.median_us,
            call_max_us=calls.max_us,
            reason=_why_not(gpu, sensor),
        )
    agreement: Agreement | str = ""
    if sensor == "counter":
        power = _power(gpu, source, source_lag_ns)
        agreement = compare(gpu.counter, power) if power else "a 1 s mean is too slow for a comparison"
        period_ns = counter_period_ns(gpu.counter, power if source == "ring" else None, agreement)
    else:
        period_ns = _period_ns(gpu, sensor)
    lag_ns = None if period_ns is None else _lag_ns(sensor, period_ns)
    return SensorInfo(
        sensor=sensor,
        state="answers",
        period_ns=period_ns,
        lag_ns=source_lag_ns if sensor == source else lag_ns,
        depth=gpu.depth if sensor == "ring" else None,
        call_us=calls.median_us,
        call_max_us=calls.max_us,
        agreement=agreement.ratio if isinstance(agreement, Agreement) else None,
        reason=_what_to_know(gpu, sensor, source, period_ns, agreement),
    )


def _why_not(gpu: Watched, sensor: Sensor) -> str:
    refusal = gpu.calls[sensor].refusal
    if refusal is not None:
        return str(refusal)
    if sensor == "ring":
        return f"{gpu.powers} of its {gpu.depth} samples are powers, and {ENOUGH} are needed"
    return "reads 0 W only" if sensor != "counter" else "was not asked: the other counters took the time"


def _what_to_know(
    gpu: Watched, sensor: Sensor, source: Sensor, period_ns: int | None, agreement: Agreement | str
) -> str | None:
    known = []
    if period_ns is None:
        seldom = "changed too seldom to tell its period"
        known.append("was read too rarely to tell its period" if sensor == "counter" else seldom)
        if sensor == source:
            known.append(f"{ASSUMED_PERIOD_NS // 1_000_000} ms is assumed")
    if sensor == "counter":
        known.append(agreement.said if isinstance(agreement, Agreement) else agreement)
    if sensor == "average" and gpu.stand_in:
        known.append(
            "by nvmlDeviceGetPowerUsage: taken for a 1 s mean, as it is on Ampere (GA100 excepted) and later"
        )
    return "; ".join(known) or None


def _period_ns(gpu: Watched, sensor: Sensor) -> int | None:
    if sensor == "ring":
        return gpu.ring_period_ns()
    return update_period_ns(gpu.instant if sensor == "instant" else gpu.average)


def _lag_ns(sensor: Sensor, period_ns: int) -> int:
    return period_ns // 2 + (_AVERAGE_WINDOW_NS // 2 if sensor == "average" else 0)


def _power(gpu: Watched, source: Sensor, lag_ns: int) -> Power | None:
    """What the chosen source said through the probe; None where its window is about as long as the probe."""
    if source == "average":
        return None
    if source == "instant":
        t_ns, power_mw = np.array(gpu.instant, dtype=np.int64).T
        return Power(t_ns - lag_ns, power_mw)
    assert gpu.ring is not None
    keep = plausible(gpu.ring.power_mw)
    return Power(gpu.ring.t_ns[keep] - lag_ns, gpu.ring.power_mw[keep])


def _limit_mw(nvml: Nvml, handle: Any) -> int | None:
    try:
        return nvml.power_limit_mw(handle)
    except NvmlError:
        return None
