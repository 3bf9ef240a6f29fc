"""What would a machine take whose every joule is known? Closed-form curves to test everything else against.

Power is a function of CLOCK_BOOTTIME, sampled every 20 ms on a fixed grid; `energy_j` is its exact
integral. Corners of `square` and `ramp` lie on the grid: between them the ramp is linear, so a trapezoid
over samples is exact there, and off by half a step's jump at each edge of the square (each pair cancels).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from energyd.sources import Condition, CounterRead, DeviceInfo, Domain, DomainInfo, Event, PowerSamples
from energyd_client.clock import now_ns

GRID_NS: Final = 20_000_000
_SECOND: Final = 1_000_000_000
_MAX_STEP_NS: Final = 100_000_000


@dataclass(frozen=True)
class Curve(ABC):
    """Power that repeats after `period_ns`, from time 0 of the clock."""

    period_ns: int

    @abstractmethod
    def power_w(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """W at the share u (0 to 1) of the period."""

    @abstractmethod
    def area(self, u: float) -> float:
        """Integral of `power_w` from 0 to u, W."""

    def energy_j(self, t_ns: int) -> float:
        """J from time 0 to t_ns. The period is split off in integers: nanoseconds outgrow a float."""
        rounds, rest_ns = divmod(t_ns, self.period_ns)
        return (rounds * self.area(1.0) + self.area(rest_ns / self.period_ns)) * self.period_ns / _SECOND

    def power_mw(self, t_ns: NDArray[np.int64]) -> NDArray[np.int32]:
        """mW at instants, rounded as a sensor would."""
        u = (t_ns % self.period_ns) / self.period_ns
        return np.rint(self.power_w(u) * 1000).astype(np.int32)


@dataclass(frozen=True)
class Sine(Curve):
    """mean + swing × sin."""

    mean_w: float
    swing_w: float

    def power_w(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """W at the share u of the period."""
        return self.mean_w + self.swing_w * np.sin(2 * np.pi * u)

    def area(self, u: float) -> float:
        """Integral from 0 to u."""
        return self.mean_w * u + self.swing_w * (1 - math.cos(2 * math.pi * u)) / (2 * math.pi)


@dataclass(frozen=True)
class Square(Curve):
    """High in the first half of the period, low in the second."""

    high_w: float
    low_w: float

    def power_w(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """W at the share u of the period."""
        return np.where(u < 0.5, self.high_w, self.low_w)

    def area(self, u: float) -> float:
        """Integral from 0 to u."""
        return self.high_w * min(u, 0.5) + self.low_w * max(u - 0.5, 0.0)


@dataclass(frozen=True)
class Ramp(Curve):
    """Up in a straight line during the first half of the period, down in the second."""

    low_w: float
    high_w: float

    def power_w(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """W at the share u of the period."""
        return self.low_w + (self.high_w - self.low_w) * (1 - np.abs(2 * u - 1))

    def area(self, u: float) -> float:
        """Integral from 0 to u."""
        risen = u * u if u < 0.5 else 0.5 - (1 - u) ** 2
        return self.low_w * u + (self.high_w - self.low_w) * risen


@dataclass(frozen=True)
class Constant(Curve):
    """Always the same."""

    watts: float

    def power_w(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """W at the share u of the period."""
        return np.full(u.shape, self.watts)

    def area(self, u: float) -> float:
        """Integral from 0 to u."""
        return self.watts * u


CURVES: Final[dict[str, Curve]] = {
    "simulated:gpu-0": Sine(10 * _SECOND, mean_w=300.0, swing_w=150.0),
    "simulated:gpu-1": Square(2 * _SECOND, high_w=600.0, low_w=100.0),
    "simulated:gpu-2": Ramp(4 * _SECOND, low_w=100.0, high_w=500.0),
    "simulated:cpu-0": Constant(_SECOND, watts=65.0),
}


def energy_j(uuid: str, t0_ns: int, t1_ns: int) -> float:
    """Exact energy of a simulated device between two CLOCK_BOOTTIME instants, J."""
    curve = CURVES[uuid]
    return curve.energy_j(t1_ns) - curve.energy_j(t0_ns)


class SimulatedSource:
    """Three GPUs (sine, square, ramp) and a CPU (constant), with counters and conditions for the GPUs."""

    name = "simulated"

    def __init__(self, interval_s: float = 0.5):
        self.interval_s = interval_s
        self._next_ns = 0  # the grid instant to give next
        self._second_ns = 0

    def open(self) -> None:
        """Begin at the grid instant before now."""
        self._next_ns = now_ns() // GRID_NS * GRID_NS
        self._second_ns = self._next_ns

    def devices(self) -> Sequence[DeviceInfo]:
        """The curves, as devices."""
        return [
            DeviceInfo(
                uuid=uuid,
                domain=_domain(uuid),
                name=f"simulated {type(curve).__name__.lower()}",
                source=self.name,
                origin="simulated",
                period_ns=GRID_NS,
                max_step_ns=_MAX_STEP_NS,
                power_limit_mw=700_000 if _domain(uuid) == "gpu" else None,
                index=int(uuid.rpartition("-")[2]) if _domain(uuid) == "gpu" else None,
            )
            for uuid, curve in CURVES.items()
        ]

    def domains(self) -> Sequence[DomainInfo]:
        """gpu and cpu are simulated, dram is absent."""
        return [
            DomainInfo(domain="gpu", state="simulated", source=self.name),
            DomainInfo(domain="cpu", state="simulated", source=self.name),
            DomainInfo(domain="dram", state="absent", reason="the simulated machine has no dram counter"),
        ]

    def energy_j(self, uuid: str, t0_ns: int, t1_ns: int) -> float:
        """See the function of that name."""
        return energy_j(uuid, t0_ns, t1_ns)

    def read(self) -> Iterable[Event]:
        """All grid instants up to now."""
        now = now_ns()
        t_ns = np.arange(self._next_ns, now + 1, GRID_NS, dtype=np.int64)
        if not len(t_ns):
            return []
        self._next_ns = int(t_ns[-1]) + GRID_NS
        events: list[Event] = [
            PowerSamples(uuid, t_ns, curve.power_mw(t_ns)) for uuid, curve in CURVES.items()
        ]
        if now >= self._second_ns:
            self._second_ns = now + _SECOND
            newest = int(t_ns[-1])
            for uuid, curve in CURVES.items():
                if _domain(uuid) == "gpu":
                    events.append(CounterRead(uuid, newest, int(curve.energy_j(newest) * 1000)))
                    events.append(
                        Condition(uuid, newest, temperature_c=45, sm_clock_mhz=1980, throttle_bits=0)
                    )
        return events

    def close(self) -> None:
        """Nothing is held."""


def _domain(uuid: str) -> Domain:
    return "gpu" if "gpu" in uuid else "cpu"
