"""Can only a fresh process go on? Asked where something starts the daemon again, that is under systemd.

Two things stay as they are for the life of a process: NVML's library, which a driver's upgrade leaves behind,
and the devices that its unit may open, which are those that the kernel had when it was started.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from energyd.sources import DomainInfo

_LEFT_BEHIND: Final = "(NVML 18 from"  # how NvmlError ends
_DEVICES: Final = Path("/proc/devices")


class Freshness:
    """Watches for both. Says nothing where nobody would start us again: then we stay, and status tells."""

    def __init__(self, devices: Path = _DEVICES) -> None:
        self._devices = devices
        self._watched = bool(os.environ.get("NOTIFY_SOCKET"))
        self._had_driver = self._driver()
        self._measured = False

    def lost(self, domains: Iterable[DomainInfo]) -> str | None:
        """Why a fresh process is needed; None while this one will do.

        A process that starts into the same trouble does not ask for another one.
        """
        if not self._watched:
            return None
        gpu = next((domain for domain in domains if domain.domain == "gpu"), None)
        if gpu is not None and gpu.state == "measured":
            self._measured = True
            return None
        if self._measured and gpu is not None and _LEFT_BEHIND in (gpu.reason or ""):
            return "the NVIDIA driver was upgraded: its new library needs a new process"
        if not self._had_driver and self._driver():
            return "an NVIDIA driver was loaded: its devices may only be opened by a new process"
        return None

    def _driver(self) -> bool:
        """Whether the kernel knows NVIDIA's character devices (`nvidia-frontend` of old drivers too)."""
        try:
            lines = self._devices.read_text().splitlines()
        except OSError:
            return False
        return any(
            name.startswith("nvidia") for _, _, name in (line.strip().partition(" ") for line in lines)
        )
