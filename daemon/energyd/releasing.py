"""From when and until when is a source let go of, so that others can have the device to themselves?

Whoever holds NVML open keeps a GPU from being reset, MIG from being switched and the driver from being
unloaded. Asked for by the wire thread, obeyed by the sampler's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from energyd.sources import DomainInfo
from energyd_client.clock import now_ns

LONGEST_S: Final = 86_400
"""Nobody remembers a release of yesterday."""

RELEASABLE: Final = frozenset({"nvml"})
"""Sources that hold what others may need for themselves."""


class Leave:
    """One source's leave. Times are CLOCK_BOOTTIME ns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_ns = 0
        self._away = False

    def take(self, for_s: int) -> int:
        """Until when it is let go of, counted from now; a new word counts, the old one no longer."""
        with self._lock:
            self._until_ns = now_ns() + for_s * 1_000_000_000
            return self._until_ns

    def prolong(self, for_s: int) -> None:
        """It could not be taken back: not before so long from now. A later end that was asked for stays."""
        with self._lock:
            self._until_ns = max(self._until_ns, now_ns() + for_s * 1_000_000_000)

    @property
    def wanted(self) -> bool:
        """Whether the source is to be let go of at present."""
        return now_ns() < self._until_ns

    @property
    def until_ns(self) -> int | None:
        """Until when, once it has been let go of; None while it is held."""
        with self._lock:
            return self._until_ns if self._away else None

    def gone(self, away: bool) -> None:
        """The sampler's word: closed, or about to be opened again."""
        with self._lock:
            self._away = away

    def told(self, domains: Sequence[DomainInfo]) -> list[DomainInfo]:
        """What the machine offers meanwhile."""
        left_s = max(0.0, (self._until_ns - now_ns()) / 1e9)
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + left_s))
        reason = f"released until {until}: `energyd resume` takes it back sooner"
        return [replace(info, state="unreadable", reason=reason) for info in domains]
