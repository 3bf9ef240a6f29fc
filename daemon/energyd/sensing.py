"""What does each kind of sensor see of the power, and how far may its stamps be off?

The figures are shares of periods that the probe measured; nothing is keyed on a model's name, though the
shares were found on the sensors of an H100. Where they come from, and the test that holds them to the truth:
docs/measurement.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from energyd.sources import DeviceInfo

DEFAULT_COUNTER_PERIOD_NS: Final = 100_000_000
"""A counter that was not probed: H100, H200 and RTX 4090 were all seen to step at about 100 ms."""

UNTOLD_PERIOD_NS: Final = 1_000_000_000
"""A sensor that the probe watched for a second without being able to tell its period: it may be that long."""

Kind = Literal["point", "ring", "whole"]


@dataclass(frozen=True)
class Sensing:
    """How the samples of one device relate to its power. The default: exact values at exact instants."""

    kind: Kind = "point"
    """`point`: a sample sees nothing of the time around it. `ring`: the mean of the `seen_ns` before its
    stamp, more or less end to end. `whole`: nothing goes unseen between samples (a counter, a long mean)."""
    seen_ns: int = 0
    reach_ns: int = 0  # how far from an instant samples still know of it
    edge_ns: int = 0  # time within which one sample cannot tell when power flowed
    lag_doubt_ns: int = 0  # half-width: how far all stamps may be off together
    hidden_ns: float = 0.0  # s.d. of an edge, as time at full power, from swings too fast to be seen
    hidden_share: float = 0.0  # ring: swings within one window, as a share of power


def sensor_of(info: DeviceInfo) -> str:
    """The sensor that its power comes, or once came, from: `source`, but for a replay the recorded one."""
    if info.origin != "replayed" or not info.sensors:
        return info.source
    return info.sensors[0].sensor


def sensing_of(info: DeviceInfo) -> Sensing:
    """The model for a device as it was probed."""
    period, sensor = info.period_ns, sensor_of(info)
    if sensor == "ring":
        # Nothing is taken off a recording's stamps, so half a period more of lag is in doubt there.
        late = period // 4 if info.lag_ns else 3 * period // 4
        return Sensing("ring", period, period, period, late, 0.05 * period, 0.10)
    if sensor == "instant":
        period = _period_ns(info, "instant") or period
        # Stamped at the poll, which comes up to a period after the value was renewed.
        return Sensing("point", 0, period, period, 7 * period // 10, 0.04 * period)
    if sensor == "average":
        window = 2 * info.lag_ns - period  # lag_ns is half a period and half the window
        period = _period_ns(info, "average") or period
        return Sensing("whole", 0, window // 2 + period, window, period // 2, 0.02 * window)
    if info.origin == "simulated":
        return Sensing("point", 0, period, period)
    return Sensing("whole", 0, period, period, period // 10, 0.02 * period)


def counter_period_ns(info: DeviceInfo) -> int:
    """Time between two steps of the hardware counter; 0 if it is exact (a closed-form curve)."""
    if info.origin == "simulated":
        return 0
    return _period_ns(info, "counter") or DEFAULT_COUNTER_PERIOD_NS


def counter_lag_ns(info: DeviceInfo) -> int:
    """How old a read is on average: half a step, the common one where the probe could not tell."""
    period_ns = counter_period_ns(info)
    return (DEFAULT_COUNTER_PERIOD_NS if period_ns == UNTOLD_PERIOD_NS else period_ns) // 2


def _period_ns(info: DeviceInfo, sensor: str) -> int | None:
    """As probed; None if the sensor was not."""
    found = next((s for s in info.sensors if s.sensor == sensor and s.state == "answers"), None)
    return None if found is None else found.period_ns or UNTOLD_PERIOD_NS
