"""What did sources and clients say since the last round? Events into the ledger, markers into the tracker."""

from __future__ import annotations

import logging
from typing import Final

from energyd.accounting import Accountant
from energyd.clients import Clients
from energyd.doubt import FLOOR_W, Device
from energyd.inbox import FLUSH_AT, ClientGone, Declared, Inbox
from energyd.ledger import Ledger
from energyd.news import News, Voice
from energyd.sensing import counter_period_ns, sensor_of
from energyd.sources import (
    Break,
    Changed,
    Condition,
    CounterRead,
    Event,
    Exhausted,
    PowerSamples,
    Share,
    TraceMarker,
)  # fmt: skip
from energyd.stages import Incoming
from energyd.timeline import Timeline
from energyd.trace import TraceRuns
from energyd.tracker import Tracker
from energyd_client import protocol as p

log = logging.getLogger("energyd")

TAKE: Final = 2_000
"""Markers of one round: questions wait for the lock while they are taken, and acks for all of them."""


class Taking:
    """Used by the recorder's thread, under its lock."""

    def __init__(
        self,
        inbox: Inbox,
        timeline: Timeline,
        ledger: Ledger,
        tracker: Tracker,
        accountant: Accountant,
        clients: Clients,
        news: News,
        voice: Voice,
    ) -> None:
        self._inbox = inbox
        self._timeline = timeline
        self._ledger = ledger
        self._tracker = tracker
        self._accountant = accountant
        self._clients = clients
        self._news = news
        self._voice = voice
        self._trace = TraceRuns()
        self.exhausted = False  # a trace has come to its end
        self.markers = 0
        self.refused = 0

    def take(self, now_ns: int, seqs: dict[str, int]) -> bool:
        """What came in; whether there was so much that the next round should follow at once.

        `seqs`: filled with each client's last number taken, which the next commit is to store.
        """
        events, markers = self._inbox.take(TAKE)
        try:
            for event in events:
                self._event(event, now_ns, seqs)
            self._ledger.settle(now_ns)
        finally:  # what clients said is in no other place of this process
            for said in markers:
                if isinstance(said, ClientGone):
                    self._tracker.client_gone(said.client, said.t_ns, said.doubt_ns, said.uid)
                else:
                    self._marker_safely(said, seqs)
        return len(markers) >= FLUSH_AT

    def known_until(self, now_ns: int) -> int:
        """Up to which store time something may have been said: a trace may play faster than time goes."""
        if self._trace.playing:
            return max([now_ns, *(log.last_t_ns or 0 for log in self._ledger.logs.values())])
        return now_ns

    def declare(self, found: Declared, now_ns: int) -> None:
        """Devices and domains of a source."""
        if self._ledger.declare(found.devices, found.domains, now_ns):
            for device, info in self._ledger.infos.items():
                self._accountant.devices[device] = Device(
                    info.source, info.origin, info.period_ns, info.accuracy,
                    FLOOR_W if info.domain == "gpu" else 0.0, counter_period_ns(info), sensor_of(info),
                )  # fmt: skip
            self._accountant.devices_changed()
            self._news.devices()

    def _event(self, event: Event | Declared, now_ns: int, seqs: dict[str, int]) -> None:
        if isinstance(event, PowerSamples):
            self._ledger.samples_in(event, now_ns)
        elif isinstance(event, CounterRead):
            self._ledger.counter_in(event)
        elif isinstance(event, Condition):
            device = self._ledger.condition_in(event)
            if event.pids:
                self._accountant.note_pids(device, event.pids, self._timeline.to_store(event.t_ns))
        elif isinstance(event, Share):
            self._ledger.share_in(event)
        elif isinstance(event, Break):
            self._ledger.break_in(event)
        elif isinstance(event, Declared):
            self.declare(event, now_ns)
        elif isinstance(event, TraceMarker):
            for incoming in self._trace.markers(event, self._timeline):
                self._marker(incoming, seqs)
        elif isinstance(event, Exhausted):
            for incoming in self._trace.end(self._timeline.to_store(event.t_ns)):
                self._marker(incoming, seqs)
            self.exhausted = True
        else:
            assert isinstance(event, Changed)  # the sampler has sent a Declared with it

    def _marker_safely(self, incoming: Incoming, seqs: dict[str, int]) -> None:
        """A marker that trips over a bug is refused and logged; those behind it are taken."""
        try:
            self._marker(incoming, seqs)
        except Exception:
            log.exception("recorder: a marker failed: %r", incoming.message)
            self.refused += 1
            refusal = p.Refusal(
                "malformed", "the daemon failed on it, see its log", None, incoming.message.seq
            )
            self._voice.refuse(incoming.client, refusal)

    def _marker(self, incoming: Incoming, seqs: dict[str, int]) -> None:
        new = self._clients.take(incoming.client, incoming.message.seq)
        seqs[incoming.client] = self._clients.taken(incoming.client)
        if not new:
            return  # a duplicate: it is acknowledged again
        self.markers += 1
        refusal = self._tracker.apply(incoming)
        if refusal is not None:
            self.refused += 1
            self._voice.refuse(incoming.client, refusal)
