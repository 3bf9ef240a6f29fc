"""What do the CPU packages and their memory take, by the processor's own energy counters (RAPL)?

Read from the kernel's powercap tree, at 1 Hz: package zones are domain cpu, dram zones domain dram.
`psys`, `core` and `uncore` overlap with them and are left out, and so is the MMIO copy of a package.

A sample carries the counter's energy since the one before (`energy_uj`), so that the integral is the
counter's whatever the power did in between; `power_mw` is that energy's mean over the step, known only at
its end. The first two reads therefore give two samples at once, both with the first step's mean: without
the one at the first read, the first second would belong to nobody. The same after a loss, which is
always longer than the allowed gap, so that the 0 in the first one's `energy_uj` is never integrated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from energyd.sources import Break, DeviceInfo, DomainInfo, Event, PowerSamples
from energyd.sources.rapl_zones import POWERCAP, Found, Zone, look
from energyd_client.clock import now_ns

_PERIOD_NS: Final = 1_000_000_000
_MAX_STEP_NS: Final = 5 * _PERIOD_NS
_MOST_W: Final = 1_000
"""More than any package takes. It tells for how long a counter is sure not to have wrapped twice (65 s
for the smallest range of 65.7 kJ), which cannot be seen in its value."""


class RaplSource:
    """All readable RAPL zones below `root`, as one `Source`."""

    name = "rapl"

    def __init__(self, root: Path = POWERCAP):
        self.interval_s = _PERIOD_NS / 1e9
        self._root = root
        self._found = Found([], None, None, 0)
        self._infos: list[DeviceInfo] = []

    def open(self) -> None:
        """Find the zones. Never raises: what cannot be read is in `domains`."""
        self._found = look(self._root)
        cpu = cpu_model()
        self._infos = [
            DeviceInfo(
                uuid=zone.uuid,
                domain=zone.domain,
                name=f"{cpu} {zone.uuid.removeprefix('rapl:')}",
                source="rapl",
                period_ns=_PERIOD_NS,
                max_step_ns=_MAX_STEP_NS,
                driver="powercap",
            )
            for zone in self._found.zones
        ]

    def devices(self) -> Sequence[DeviceInfo]:
        """One device per package and per package's memory."""
        return self._infos

    def domains(self) -> Sequence[DomainInfo]:
        """The domains `cpu` and `dram`."""
        found = self._found
        present = {zone.domain for zone in found.zones}
        note = f"{found.mirrors} counters mirror another one and are left out" if found.mirrors else None
        infos = []
        for domain in ("cpu", "dram"):
            if domain in present:
                infos.append(DomainInfo(domain=domain, state="measured", source="rapl", reason=note))
            elif found.denied:
                infos.append(DomainInfo(domain=domain, state="unreadable", reason=found.denied))
            else:
                reason = found.missing or f"this processor has no RAPL zone for {domain}"
                infos.append(DomainInfo(domain=domain, state="absent", reason=reason))
        return infos

    def read(self) -> Iterable[Event]:
        """One sample of each zone; two after its first and second read."""
        events: list[Event] = []
        for zone in self._found.zones:
            try:
                t_ns, energy_uj = zone.read()
            except (OSError, ValueError) as error:
                # A failure within the allowed gap costs nothing: the next read still has its energy.
                if now_ns() - zone.t_ns > _MAX_STEP_NS:
                    zone.forget()
                    events.append(Break(zone.uuid, now_ns(), f"lost: {error}"))
                continue
            events += _step(zone, t_ns, energy_uj)
        return events

    def close(self) -> None:
        """Nothing is held open; the zones are forgotten."""
        self._found = Found([], None, None, 0)
        self._infos = []


def _step(zone: Zone, t_ns: int, energy_uj: int) -> list[Event]:
    t0_ns, e0_uj, given = zone.t_ns, zone.energy_uj, zone.given
    zone.t_ns, zone.energy_uj, zone.given = t_ns, energy_uj, False
    if not t0_ns:
        return []
    if t_ns - t0_ns > zone.range_uj * 1000 // _MOST_W:
        return [Break(zone.uuid, t_ns, "lost: RAPL may have wrapped more than once")]
    step_uj = energy_uj - e0_uj
    if step_uj < 0:
        step_uj += zone.range_uj + 1
    power_mw = round(step_uj * 1_000_000 / (t_ns - t0_ns))
    zone.given = True
    times, energies = ([t_ns], [step_uj]) if given else ([t0_ns, t_ns], [0, step_uj])
    power = np.full(len(times), power_mw, dtype=np.int32)
    return [PowerSamples(zone.uuid, np.array(times), power, np.array(energies))]


def cpu_model() -> str:
    """Model name from /proc/cpuinfo; `CPU` where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
