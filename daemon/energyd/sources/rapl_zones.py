"""Which RAPL counters does this machine have that may be read and count nothing twice?"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from energyd.sources import Domain
from energyd_client.clock import now_ns

POWERCAP: Final = Path("/sys/class/powercap")

# `intel-rapl:0` (AMD's are named so too), `intel-rapl:0:1`; not `intel-rapl-mmio:0`, which repeats it.
_ZONE: Final = re.compile(r"intel-rapl(:\d+)+")
_LEVELS: Final = 4  # class folder, control type, package, part
_MIRROR_LOOKS: Final = 3
_MIRROR_WAIT_S: Final = 0.02


@dataclass
class Zone:
    """One counter. `uuid` is made of its name, which outlives restarts, not of its number."""

    path: Path
    uuid: str
    domain: Domain
    range_uj: int
    t_ns: int = 0  # last read; 0: none
    energy_uj: int = 0
    given: bool = False  # whether there is a sample at t_ns

    def read(self) -> tuple[int, int]:
        """(CLOCK_BOOTTIME ns in the middle, µJ). Raises OSError or ValueError."""
        before = now_ns()
        energy_uj = int((self.path / "energy_uj").read_text())
        return (before + now_ns()) // 2, energy_uj

    def forget(self) -> None:
        """The next read starts anew."""
        self.t_ns, self.given = 0, False


@dataclass(frozen=True)
class Found:
    """Readable zones, and in words why there are not more."""

    zones: list[Zone]
    denied: str | None  # there, but unreadable
    missing: str | None  # not there at all
    mirrors: int  # left out because they repeat another counter


def look(root: Path = POWERCAP) -> Found:
    """What RAPL offers below `root`. Never raises; takes 40 ms where there are two packages or more."""
    paths = _zone_paths(root)
    zones: list[Zone] = []
    denied = None
    for number, path in paths.items():
        try:
            name = (path / "name").read_text().strip()
            if name == "dram":
                package = paths[number.rpartition(":")[0]]
                uuid, domain = f"rapl:{(package / 'name').read_text().strip()}:dram", "dram"
            elif name.startswith("package"):
                uuid, domain = f"rapl:{name}", "cpu"
            else:
                continue
            if any(zone.uuid == uuid for zone in zones):
                uuid += f":{number}"
            zone = Zone(path, uuid, "dram" if domain == "dram" else "cpu", 0)
            zone.range_uj = int((path / "max_energy_range_uj").read_text())
            zone.read()
        except PermissionError:
            denied = f"{path}/energy_uj is for root only: run energyd as a service, or let its group read it"
        except (OSError, ValueError, KeyError) as error:
            denied = f"{path}: {error}"
        else:
            zones.append(zone)
    own = without_mirrors(zones)
    missing = None if zones or denied else f"no RAPL package in {root} (virtual machines rarely have one)"
    return Found(own, denied, missing, len(zones) - len(own))


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


def without_mirrors(zones: list[Zone]) -> list[Zone]:
    """Leave out counters that repeat an earlier one of their domain.

    Some multi-die processors show one socket's counter once per die, which would multiply its energy.
    Copies stay within what the original counts between two looks; sockets of their own do so, in every
    look, with a chance of about one in 100,000.
    """
    if len(zones) < 2:
        return zones
    looks = []
    for i in range(_MIRROR_LOOKS):
        if i:
            time.sleep(_MIRROR_WAIT_S)
        try:
            looks.append([zone.read()[1] for zone in zones])
        except (OSError, ValueError):
            return zones
    own: list[int] = []
    for i, zone in enumerate(zones):
        twins = (k for k in own if zones[k].domain == zone.domain)
        if not any(_mirrors([look[k] for look in looks], [look[i] for look in looks]) for k in twins):
            own.append(i)
    return [zones[i] for i in own]


def _mirrors(original: list[int], copy: list[int]) -> bool:
    slack = max(b - a for a, b in pairwise(original))
    return all(abs(a - b) <= max(slack, 0) for a, b in zip(original, copy, strict=True))
