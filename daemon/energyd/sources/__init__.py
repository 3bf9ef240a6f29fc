"""What can be measured here, and what does one measurement look like?

A source is a small class behind the protocol `Source`. It is opened, read and closed by one thread
(`energyd.sampler`), speaks CLOCK_BOOTTIME nanoseconds, and yields events; what they mean for energy is
decided in the recorder. A source never invents a value: what it cannot read is an event that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Domain = Literal["gpu", "cpu", "dram"]
Origin = Literal["measured", "estimated", "replayed", "simulated"]


@dataclass(frozen=True, kw_only=True)
class SensorInfo:
    """What the probe found of one way to read a device's power, chosen or not."""

    sensor: Literal["ring", "instant", "average", "counter"]
    state: Literal["answers", "absent", "refused"]
    period_ns: int | None = None  # measured; None: it did not change often enough to tell
    lag_ns: int | None = None  # by which its values trail the load
    depth: int | None = None
    call_us: float | None = None  # median cost of one call
    call_max_us: float | None = None
    agreement: float | None = None  # counter's row: chosen source over counter, less 1, during the probe
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One device and the source chosen for its power, as the probe found it."""

    uuid: str  # GPU UUID, `rapl:package-0` …: the same after a restart
    domain: Domain
    name: str
    source: str  # ring | instant | average | rapl | codecarbon | simulated | replay
    origin: Origin = "measured"
    period_ns: int  # measured time between new values
    max_step_ns: int  # allowed gap between two samples
    lag_ns: int = 0  # by how much samples trail the load; the source has taken it off `t_ns`
    depth: int | None = None  # samples in the driver's ring
    power_limit_mw: int | None = None
    driver: str | None = None
    index: int | None = None  # NVML's index, for CUDA_VISIBLE_DEVICES in PCI order
    mig: bool = False
    accuracy: float | None = None  # half-width of the systematic error, as a share; None: exact by definition
    sensors: tuple[SensorInfo, ...] = ()  # everything the probe tried, the chosen one included


@dataclass(frozen=True, kw_only=True)
class DomainInfo:
    """What the machine offers for one domain: `absent` is not `unreadable`, and neither is 0."""

    domain: Domain
    state: Literal["measured", "estimated", "replayed", "simulated", "absent", "unreadable"]
    source: str | None = None
    reason: str | None = None
    is_starting: bool = False  # unreadable only until the source has said its devices, in seconds


@dataclass(frozen=True)
class PowerSamples:
    """New samples of one device, oldest first, strictly rising in time.

    `energy_uj`, where given, is the energy since the device's previous sample as its own counter
    has it (RAPL); without it the recorder integrates power between samples.
    """

    uuid: str
    t_ns: NDArray[np.int64]
    power_mw: NDArray[np.int32]
    energy_uj: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class CounterRead:
    """The hardware energy counter at an instant, in mJ since the driver was loaded."""

    uuid: str
    t_ns: int
    energy_mj: int


@dataclass(frozen=True)
class Condition:
    """What explains an outlier; None where the device does not say. `pids`: compute processes on it."""

    uuid: str
    t_ns: int
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    power_limit_mw: int | None = None
    throttle_bits: int | None = None
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Share:
    """How busy one process kept a GPU in the time before `t_ns`: % of it in which its kernels ran."""

    uuid: str
    t_ns: int
    pid: int
    sm_percent: int


@dataclass(frozen=True)
class Break:
    """Sampling of a device (of all of the source's: uuid "") was interrupted; the next step is a gap.

    `reason` is the gap's: lost, overrun, reset, loop … Raised again while it lasts; the recorder
    keeps the first reason. `counter_reset` forbids bridging with the counter; `torn`: and power itself is
    cut there, however short the step. A GPU's power goes on without its counter.
    """

    uuid: str
    t_ns: int
    reason: str
    counter_reset: bool = False
    torn: bool = True


@dataclass(frozen=True)
class TraceMarker:
    """A stage edge that a recorded trace carries. `run` names the trace."""

    t_ns: int
    kind: Literal["begin", "end"]
    run: str
    stage: str
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Exhausted:
    """The source has nothing more to give (a trace played once)."""

    t_ns: int


@dataclass(frozen=True)
class Changed:
    """Devices or domains are not what `open` said: ask `devices()` and `domains()` again."""

    t_ns: int


Event = PowerSamples | CounterRead | Condition | Share | Break | TraceMarker | Exhausted | Changed


class Source(Protocol):
    """One way of learning power. All methods are called from one thread."""

    name: str
    interval_s: float  # how often `read` wants to be called

    def open(self) -> None:
        """Probe. Finding nothing is no error: `domains` says why. Raises SourceError on bad settings."""

    def devices(self) -> Sequence[DeviceInfo]:
        """The devices found, each with its chosen source."""

    def domains(self) -> Sequence[DomainInfo]:
        """One entry for each domain this source answers for."""

    def read(self) -> Iterable[Event]:
        """What happened since the last call. Never raises for what a device does: it yields a Break."""

    def close(self) -> None:
        """Let go of everything; may be opened again."""


class SourceError(Exception):
    """The settings name a source that cannot be: what, where, cure in the text."""
