"""What do the CPU packages and their memory take, by the processor's own energy counters (RAPL)?

Read from the kernel's powercap tree, at 1 Hz: package zones are domain cpu, dram zones domain dram.
`psys`, `core` and `uncore` overlap with them and are left out, and so is the MMIO copy of a package.

A sample carries the counter's energy since the one before (`energy_uj`), so that the integral is the
counter's whatever the power did in between; `power_mw` is that energy's mean over the step, known only at
its end. The first two reads therefore give two samples at once, both with the first step's mean: without
the one at the first read, the first second would belong to nobody. The same after a loss, which is
always a gap, so that the 0 in the first one's `energy_uj` is never integrated.

What a counter cannot have counted is a gap, never a joule: a silence in which it may have wrapped twice, a
step that no processor takes (it was set back, by firmware or drivers), any step over a suspend (which sets
some counters back), a counter that stands still.

No error figure of RAPL is published for the servers of today. ±10 % (`accuracy`) is an assumption, from
studies of older ones that found it highly correlated with the power at the plug.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from energyd.sources import Break, DeviceInfo, Domain, DomainInfo, Event, PowerSamples
from energyd.sources.rapl_zones import POWERCAP, Found, Zone, look
from energyd_client.clock import now_ns

ACCURACY: Final = 0.10
_PERIOD_NS: Final = 1_000_000_000
_STUCK_NS: Final = _PERIOD_NS // 2  # an update comes every 1 ms: silence over this long is none of them
_SHORTEST_NS: Final = 20_000_000  # below it the updates show in the mean, which may be 0
_SLEPT_NS: Final = 100_000_000


class RaplSource:
    """All readable RAPL zones below `root`, as one `Source`. Zones that appear later need a restart."""

    name = "rapl"

    def __init__(self, root: Path = POWERCAP):
        self.interval_s = _PERIOD_NS / 1e9
        self._root = root
        self._found = Found()
        self._infos: list[DeviceInfo] = []
        self._asleep_ns = 0

    def open(self) -> None:
        """Find the zones. Never raises: what cannot be read is in `domains`."""
        self._found = look(self._root)
        self._asleep_ns = asleep_ns()
        cpu = cpu_model()
        self._infos = [
            DeviceInfo(
                uuid=zone.uuid,
                domain=zone.domain,
                name=f"{cpu} {zone.uuid.removeprefix('rapl:')}",
                source="rapl",
                period_ns=_PERIOD_NS,
                max_step_ns=zone.patience_ns,
                driver="powercap",
                accuracy=ACCURACY,
            )
            for zone in self._found.zones
        ]

    def devices(self) -> Sequence[DeviceInfo]:
        """One device per package and per package's memory."""
        return self._infos

    def domains(self) -> Sequence[DomainInfo]:
        """The domains `cpu` and `dram`."""
        return [self._domain("cpu"), self._domain("dram")]

    def _domain(self, domain: Domain) -> DomainInfo:
        found = self._found
        if domain in found.denied:
            return DomainInfo(domain=domain, state="unreadable", reason=found.denied[domain])
        if not any(zone.domain == domain for zone in found.zones):
            reason = found.missing or f"this processor has no RAPL zone for {domain}"
            return DomainInfo(domain=domain, state="absent", reason=reason)
        mirrors = found.mirrors.get(domain, 0)
        note = f"{mirrors} counter(s) mirror another one and are left out" if mirrors else None
        return DomainInfo(domain=domain, state="measured", source="rapl", reason=note)

    def read(self) -> Iterable[Event]:
        """One sample of each zone; two after its first and second read."""
        events: list[Event] = []
        before, self._asleep_ns = self._asleep_ns, asleep_ns()
        if self._asleep_ns - before > _SLEPT_NS:
            for zone in self._found.zones:
                events += _anew(zone, "suspend")
        for zone in self._found.zones:
            try:
                t_ns, energy_uj = zone.read()
                if zone.t_ns and energy_uj == zone.energy_uj and t_ns - zone.t_ns > _STUCK_NS:
                    raise ValueError(f"{zone.path}/energy_uj does not move")
            except (OSError, ValueError) as error:
                # A failure within the allowed gap costs nothing: the next read still has its energy.
                if now_ns() - zone.t_ns > zone.patience_ns:
                    zone.forget()
                    events.append(Break(zone.uuid, now_ns(), f"lost: {error}"))
                continue
            events += _step(zone, t_ns, energy_uj)
        return events

    def close(self) -> None:
        """Nothing is held open; the zones are forgotten."""
        self._found = Found()
        self._infos = []


def _step(zone: Zone, t_ns: int, energy_uj: int) -> list[Event]:
    events: list[Event] = []
    if zone.t_ns and t_ns - zone.t_ns > zone.safe_ns:
        events = _anew(zone, "lost: RAPL may have wrapped more than once")
    step_uj = zone.step_uj(t_ns, energy_uj) if zone.t_ns else 0
    if step_uj is None:
        silent = t_ns - zone.t_ns > zone.patience_ns
        events = _anew(zone, "lost: RAPL wrapped or was set back meanwhile" if silent else "reset")
    t0_ns, given = zone.t_ns, zone.given
    if t0_ns and t_ns <= t0_ns:
        return []
    zone.t_ns, zone.energy_uj = t_ns, energy_uj
    if not t0_ns or step_uj is None:
        return events
    if t_ns - t0_ns > _SHORTEST_NS or not zone.power_mw:
        zone.power_mw = round(step_uj * 1_000_000 / (t_ns - t0_ns))
    zone.given = True
    times, energies = ([t_ns], [step_uj]) if given else ([t0_ns, t_ns], [0, step_uj])
    power = np.full(len(times), zone.power_mw, dtype=np.int32)
    return [PowerSamples(zone.uuid, np.array(times), power, np.array(energies))]


def _anew(zone: Zone, reason: str) -> list[Event]:
    """What lies between the last read and the next one is a gap that nothing bridges."""
    if not zone.t_ns:
        return []
    zone.forget()
    return [Break(zone.uuid, now_ns(), reason, counter_reset=True)]


def asleep_ns() -> int:
    """For how long the machine has been suspended since it was started (and a constant, in a container)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def cpu_model() -> str:
    """Model name from /proc/cpuinfo; `CPU` where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
