"""How do events and markers reach the recorder from other threads? One lock, one bell."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from energyd.sources import DeviceInfo, DomainInfo, Event
from energyd.stages import Incoming

FLUSH_AT: Final = 500
"""Markers waiting at which the recorder commits early."""


@dataclass(frozen=True)
class Declared:
    """What a source found when it was opened, or found again."""

    devices: Sequence[DeviceInfo]
    domains: Sequence[DomainInfo]


@dataclass(frozen=True)
class ClientGone:
    """A client process died or said goodbye. `t_ns`: store time of its last sign of life.

    Only what that `uid` began is closed by it; None: whoever began it.
    """

    client: str
    t_ns: int
    doubt_ns: int
    uid: int | None = None


class Inbox:
    """Filled by sampler and wire threads, emptied by the recorder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event | Declared] = []
        self._markers: list[Incoming | ClientGone] = []
        self.bell = threading.Event()

    def put_events(self, events: Sequence[Event | Declared]) -> None:
        """Add what a source said; never blocks."""
        with self._lock:
            self._events += events

    def put_markers(self, markers: Sequence[Incoming | ClientGone]) -> None:
        """Add markers in the order of their arrival; rings the bell when many wait."""
        with self._lock:
            self._markers += markers
            many = len(self._markers) >= FLUSH_AT
        if many:
            self.bell.set()

    def take(self, most: int) -> tuple[list[Event | Declared], list[Incoming | ClientGone]]:
        """All events so far, and so many markers."""
        with self._lock:
            events, self._events = self._events, []
            markers, self._markers = self._markers[:most], self._markers[most:]
        return events, markers

    @property
    def markers(self) -> int:
        """Markers not yet taken."""
        with self._lock:
            return len(self._markers)

    @property
    def waiting(self) -> int:
        """Events and markers not yet taken."""
        with self._lock:
            return len(self._events) + len(self._markers)
