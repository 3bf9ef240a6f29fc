"""Which RAPL counters does this machine have that may be read and count nothing twice?

Decided once, when the source is opened, and kept: a device that came or went in mid-run would change what
a total is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Final

from energyd.sources import Domain
from energyd_client.clock import now_ns

POWERCAP: Final = Path("/sys/class/powercap")
MAX_STEP_NS: Final = 5_000_000_000

# `intel-rapl:0` (AMD's are named so too), `intel-rapl:0:1`; not `intel-rapl-mmio:0`, which repeats it.
_ZONE: Final = re.compile(r"intel-rapl(:\d+)+")
_LEVELS: Final = 4  # class folder, control type, package, part
_MOVE_S: Final = 0.05
"""Every counter moves in this time: at 0.2 W, less than any package or DIMM takes, by 160 of its units."""
_MIRROR_LOOKS: Final = 6
_MIRROR_WAIT_S: Final = 0.1
_LATCH_NS: Final = 5_000_000
"""A counter is updated about every 1 ms, and each die's view of it at its own moment."""
_MOST_W: Final = 2_000
"""Over twice what any package or its memory takes: more than this was no energy."""
_SLACK_NS: Final = 100_000_000
"""Two reads soon after one another may see an update too many: that much more time is granted."""
_SHORTEST_WRAP_NS: Final = 2_000_000_000


@dataclass
class Zone:
    """One counter. `uuid` is made of its name, which outlives restarts, not of its number."""

    path: Path
    name: str
    uuid: str
    domain: Domain
    range_uj: int = 0
    t_ns: int = 0  # last read; 0: none
    energy_uj: int = 0
    power_mw: int = 0  # of the last step
    given: bool = False  # whether there is a sample at t_ns

    @property
    def safe_ns(self) -> int:
        """For how long the counter is sure not to wrap twice, which cannot be seen in its value."""
        return self.range_uj * 1000 // _MOST_W

    def read(self) -> tuple[int, int]:
        """(CLOCK_BOOTTIME ns in the middle, µJ). Raises OSError or ValueError."""
        if not self.t_ns and (name := (self.path / "name").read_text().strip()) != self.name:
            raise ValueError(f"{self.path} is {name} now, no longer {self.name}")  # modules were reloaded
        before = now_ns()
        energy_uj = int((self.path / "energy_uj").read_text())
        return (before + now_ns()) // 2, energy_uj

    @property
    def patience_ns(self) -> int:
        """A longer step is a gap. Over a shorter one a value that went back is a wrap, if it can be one."""
        return min(MAX_STEP_NS, self.safe_ns)

    def step_uj(self, t_ns: int, energy_uj: int) -> int | None:
        """Energy since the last read, unwrapped; None if the counter cannot have counted that.

        Set back within the last 2 kJ before its wrap it looks as if it had wrapped: that is taken for one.
        """
        step_uj, took_ns = energy_uj - self.energy_uj, t_ns - self.t_ns
        if step_uj < 0:
            if took_ns > self.patience_ns:
                return None
            step_uj += self.range_uj + 1
        possible = step_uj * 1000 <= (took_ns + _SLACK_NS) * _MOST_W
        return step_uj if possible else None

    def forget(self) -> None:
        """The next read starts anew."""
        self.t_ns, self.given = 0, False


@dataclass(frozen=True)
class Found:
    """Readable zones, and in words why there are not more."""

    zones: list[Zone] = field(default_factory=list)
    denied: dict[Domain, str] = field(default_factory=dict)  # there, but not all of it can be read
    missing: str | None = None  # not there at all
    mirrors: dict[Domain, int] = field(default_factory=dict)  # left out because they repeat another counter


def look(root: Path = POWERCAP) -> Found:
    """What RAPL offers below `root`. Never raises; takes 50 ms, and 0.5 s where a package has several dies.

    A domain of which one counter cannot be read has none: a sum without one of its parts would be a
    number that is too small.
    """
    paths = _zone_paths(root)
    zones: list[Zone] = []
    denied: dict[Domain, str] = {}
    for number, path in paths.items():
        try:
            zone = _zone(number, paths)
        except (OSError, KeyError) as error:
            denied.setdefault("cpu", f"{path}: {error}")  # what it counts is not known
            continue
        if zone is None:
            continue
        if any(other.uuid == zone.uuid for other in zones):
            zone.uuid += f":{number}"
        try:
            zone.range_uj = int((path / "max_energy_range_uj").read_text())
            zone.read()
            if zone.safe_ns < _SHORTEST_WRAP_NS:
                raise ValueError(f"a range of {zone.range_uj} µJ is too small to be read once a second")
        except PermissionError:
            denied[zone.domain] = (
                f"{path}/energy_uj is for root only: run energyd as a service, or let its group read it"
            )
        except (OSError, ValueError) as error:
            denied.setdefault(zone.domain, f"{path}: {error}")
        else:
            zones.append(zone)
    for zone in _stuck(zones):
        denied.setdefault(zone.domain, f"{zone.path}/energy_uj does not move, so it measures nothing")
    zones = [zone for zone in zones if zone.domain not in denied]
    own = without_mirrors(zones)
    mirrors: dict[Domain, int] = {}
    for zone in zones:
        if zone not in own:
            mirrors[zone.domain] = mirrors.get(zone.domain, 0) + 1
    missing = None if zones or denied else f"no RAPL package in {root} (virtual machines rarely have one)"
    return Found(own, denied, missing, mirrors)


def _zone(number: str, paths: dict[str, Path]) -> Zone | None:
    """The zone at a number; None if what it counts is a part of another one or holds one (psys)."""
    path = paths[number]
    name = (path / "name").read_text().strip()
    if name == "dram":
        package = (paths[number.rpartition(":")[0]] / "name").read_text().strip()
        return Zone(path, name, f"rapl:{package}:dram", "dram")
    return Zone(path, name, f"rapl:{name}", "cpu") if name.startswith("package") else None


def _zone_paths(root: Path) -> dict[str, Path]:
    """{number: path}: the class folder lists zones flat, other trees nest them; each counts once."""
    found: dict[str, Path] = {}
    folders = [root]
    for _ in range(_LEVELS):
        folders = [path for folder in folders for path in sorted(folder.glob("intel-rapl*")) if path.is_dir()]
        for path in folders:
            if _ZONE.fullmatch(path.name):
                found.setdefault(path.name, path)
    return found


def _stuck(zones: list[Zone]) -> list[Zone]:
    """Counters that stand still, as some virtual machines and boards without memory sensors show them."""
    if not zones:
        return []
    first = _values(zones)
    sleep(_MOVE_S)
    return [zone for zone, a, b in zip(zones, first, _values(zones), strict=True) if a is not None and a == b]


def _values(zones: list[Zone]) -> list[int | None]:
    values: list[int | None] = []
    for zone in zones:
        try:
            values.append(zone.read()[1])
        except (OSError, ValueError):
            values.append(None)
    return values


def without_mirrors(zones: list[Zone]) -> list[Zone]:
    """Leave out counters that repeat that of an earlier die of their package.

    Some multi-die processors (Threadripper and EPYC of the first two generations) show one socket's
    counter once per die, as package-0-die-0, package-0-die-1 …, which would multiply its energy. Sockets
    are never compared with each other. Dies with counters of their own (Cascade Lake AP) may meet: a copy
    must lie between a read of the original before it and one after it (within 5 ms of its pace) in every
    look of half a second. Two counters of 65.7 kJ at 100 W are that near with a chance of 1 in 60,000,
    and part in that time if their powers differ by some W.
    """
    own: list[Zone] = []
    for zone in zones:
        if not any(_mirrors(twin, zone) for twin in own if _die_of(twin) == _die_of(zone)):
            own.append(zone)
    return own


def _die_of(zone: Zone) -> tuple[Domain, str]:
    """(domain, package): what two zones have in common if they may be dies of one package."""
    return zone.domain, zone.uuid.removeprefix("rapl:").partition("-die-")[0].split(":")[0]


def _mirrors(original: Zone, copy: Zone) -> bool:
    looks: list[tuple[int, int, int, int]] = []
    for i in range(_MIRROR_LOOKS):
        if i:
            sleep(_MIRROR_WAIT_S)
        try:
            (t_ns, before), (_, value), (_, after) = original.read(), copy.read(), original.read()
        except (OSError, ValueError):
            return False
        looks.append((t_ns, before, value, after))
    whole = original.range_uj + 1  # differences hold across a wrap
    took_ns = max(looks[-1][0] - looks[0][0], 1)
    slack = (looks[-1][1] - looks[0][1]) % whole * _LATCH_NS // took_ns
    return all((v - a + slack) % whole <= (b - a) % whole + 2 * slack for _, a, v, b in looks)
