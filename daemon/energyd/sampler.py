"""When is each source read? A thread per source, on absolute deadlines; lateness is kept for status.

A machine that slept between two reads has measured nothing meanwhile: that is seen here, once for every
kind of source, and said before what the read brought.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Final

from energyd.inbox import Declared, Inbox
from energyd.releasing import Leave
from energyd.sources import Break, Changed, Event, Source
from energyd.timeline import suspended_ns
from energyd_client import clock

log = logging.getLogger("energyd")

_LEAVE_POLL_S: Final = 0.1
_AGAIN_S: Final = 10
"""A source that could not be opened after its leave is tried again after so long."""

_SLEPT_NS: Final = 50_000_000
"""Growth of BOOTTIME over MONOTONIC that is a suspend. The two are read within microseconds of each other,
and a sleep too short for this is too short for a gap."""


LATE_S: Final = 60.0
"""How far back lateness is told: a calm hour must not hide the minute in which a machine is overloaded."""


class Sampler:
    """Opens, reads and closes one source. Nothing it does waits for the store."""

    def __init__(self, source: Source, inbox: Inbox) -> None:
        self.source = source
        self.ready = threading.Event()  # opened, and its devices declared
        self.failure: Exception | None = None  # why it could not be opened
        self.leave = Leave()  # asked to let go of the source
        self.late: deque[tuple[float, float]] = deque(maxlen=10_000)  # (when it was due, ms too late)
        self._inbox = inbox
        self._stop = threading.Event()
        self._suspended_ns = suspended_ns()
        self._thread = threading.Thread(target=self._run, name=f"sampler-{source.name}", daemon=True)

    def start(self) -> None:
        """Begin; `ready` is set once the devices are known or `failure` says why not."""
        self._thread.start()

    def stop(self) -> None:
        """Read one last time, so that a sample follows what has ended, and close."""
        self._stop.set()
        self._thread.join(timeout=5)
        if self._thread.is_alive():
            log.error("source %s hangs in a driver call; left behind", self.source.name)

    def _run(self) -> None:
        try:
            self.source.open()
            self._declare()
        except Exception as error:
            self.failure = error
            self.ready.set()
            return
        self.ready.set()
        deadline = time.monotonic()
        while not self._stop.is_set():
            self._read()
            if self.leave.wanted:
                self._be_away()
                deadline = time.monotonic()
            deadline += self.source.interval_s
            now = time.monotonic()
            due, deadline = deadline, max(deadline, now)  # late: do not hurry after what is gone
            self._stop.wait(deadline - now)
            self.late.append((due, max(0.0, time.monotonic() - due) * 1000))
        self._read()
        self.source.close()

    def _be_away(self) -> None:
        """Close the source until its leave is over; what it misses is a gap that says so."""
        self._inbox.put_events(self._of_each_device(Break("", clock.now_ns(), "released")))
        self._inbox.put_events([Declared([], self.leave.told(self.source.domains()))])
        self.source.close()
        self.leave.gone(True)
        log.info("source %s: let go of", self.source.name)
        while True:
            while self.leave.wanted and not self._stop.is_set():
                self._stop.wait(_LEAVE_POLL_S)
            if self._stop.is_set():
                return
            try:
                self.source.open()
                break
            except Exception as error:  # the next try may find it as it was
                log.error("source %s: not taken back: %s", self.source.name, error)
                self.leave.prolong(_AGAIN_S)
        self.leave.gone(False)
        log.info("source %s: taken back", self.source.name)
        self._declare()

    def _read(self) -> None:
        try:
            events: list[Event | Declared] = list(self.source.read())
        except Exception:  # a source's bug is a gap of its devices, not the end of the daemon
            log.exception("source %s: unexpected error", self.source.name)
            events = [Break("", clock.now_ns(), "source_error")]
        # Asked after the read, said before it: wherever in between it slept, the hole is named after that.
        events = self._slept() + events
        events = [each for e in events for each in self._of_each_device(e)]
        if any(isinstance(e, Changed) for e in events):
            self._declare()
        self._inbox.put_events(events)

    def _slept(self) -> list[Event | Declared]:
        before, self._suspended_ns = self._suspended_ns, suspended_ns()
        if self._suspended_ns - before < _SLEPT_NS:
            return []
        return [Break("", clock.now_ns(), "suspend")]

    def _of_each_device(self, event: Event | Declared) -> list[Event | Declared]:
        if isinstance(event, Break) and not event.uuid:
            return [replace(event, uuid=info.uuid) for info in self.source.devices()]
        return [event]

    def _declare(self) -> None:
        found = Declared(list(self.source.devices()), list(self.source.domains()))
        self._inbox.put_events([found])


def late_ms_p99(samplers: list[Sampler]) -> float | None:
    """How late reads of the last minute were, in ms, 99th percentile; None before the first."""
    since = time.monotonic() - LATE_S
    late = sorted(ms for s in samplers for due, ms in list(s.late) if due >= since)
    return round(late[int(0.99 * (len(late) - 1))], 3) if late else None
