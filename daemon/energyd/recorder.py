"""What becomes durable when? The one thread that integrates, tracks, commits, exports and seals.

Every half second, or every second while nobody waits for anything: take what came in, settle what can be
settled, commit it in one transaction, then tell the world (acknowledgements, stage news). When much comes
in, nobody's acknowledgement waits for energies: rounds are short, and stages stay pending until there is
time. A refused commit loses nothing: the batch is kept and tried again, and the daemon says DEGRADED.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from energyd.accounting import Accountant
from energyd.clients import Clients
from energyd.committing import Committing
from energyd.finals import Done, Finals
from energyd.inbox import FLUSH_AT, Inbox
from energyd.keeping import Keeping
from energyd.ledger import Ledger
from energyd.news import News, Voice
from energyd.stages import Run, Stage
from energyd.store import HOUR_NS
from energyd.store.live import LiveFiles
from energyd.store.load import Loaded
from energyd.store.write import CLIENT_MEMORY_NS, Batch, HotStore
from energyd.taking import Taking
from energyd.timeline import Timeline
from energyd.tracker import Tracker
from energyd.troubles import Troubles
from energyd.watermarks import Watermarks

log = logging.getLogger("energyd")

COMMIT_S: Final = 0.5
"""How long markers wait for their commit, and an ended stage for its energy, at most."""
CALM_S: Final = 1.0
"""The same for samples alone: a commit costs about the same however few it brings."""
STOP_RETRY_S: Final = 10.0
"""How long a stop goes on trying to store what a full disk refuses."""
SETTLE_S: Final = 0.02
"""How long a round may hold the lock to settle stages; the others wait for the next."""
SETTLE_BUSY_S: Final = 0.002
"""The same while so many markers come in that the next round follows at once."""
FLOOD_S: Final = 0.02
"""How soon more is awaited after a round of many markers, before their stages have their turn."""
SOURCES_WAIT_S: Final = 30.0
"""How long after the start no stage is settled while a source has yet to say its devices: charged to none of
them it would never have a total. CodeCarbon takes 3 s, on a loaded machine ten times that."""
MOST_PENDING: Final = 20_000
"""Ended stages without energies from which on a flood is slowed down to settle them."""


_FINALS: Final = """
    SELECT stage_id, run_id, parent_id, s.t0_ns, s.t1_ns, device
    FROM stages_log s JOIN energies USING (run_id, stage_id)
    WHERE device = {} AND s.t1_ns > {}
"""
"""What stages still open or pending may have beside them; of what is longer ago they have the sum."""


class Recorder:
    """Owns the store and all state; questions from other threads are answered under `lock`."""

    def __init__(
        self,
        store: HotStore,
        live: LiveFiles,
        timeline: Timeline,
        ledger: Ledger,
        inbox: Inbox,
        voice: Voice,
        loaded: Loaded,
    ) -> None:
        self.lock = threading.Lock()
        self.inbox = inbox
        self.timeline = timeline
        self.ledger = ledger
        self.tracker = Tracker()
        self.accountant = Accountant(self.tracker, ledger.logs, ledger.known)
        self.accountant.counters = ledger.tracks
        self.tracker.restore(
            [Run.restore(r) for r in loaded.runs], [Stage.restore(*s) for s in loaded.stages]
        )
        for device, since_ns in self.accountant.unfolded().items():
            self.accountant.recall(store.fetch(_FINALS.format(device, since_ns)))
        self.clients = Clients(loaded.last_seq, timeline.now_ns())
        self.marks = Watermarks(ledger.logs, store.hour(timeline.now_ns() // HOUR_NS))
        for device, stored in loaded.devices.items():
            if not len(stored.t_ns):
                self.marks.all_sealed(device)
        self._voice = voice
        self._news = News(voice, ledger, self.tracker)
        self.taking = Taking(
            inbox, timeline, ledger, self.tracker, self.accountant, self.clients, self._news, voice
        )
        self._troubles = Troubles()
        self.complain = self._troubles.complain
        self.keeping = Keeping(
            store, live, self.marks, loaded.sealed, self._troubles, self.lock, self._forget
        )
        self.committing = Committing(
            store, timeline, ledger, self.tracker, self.marks, self._troubles, self.lock
        )
        self.unstored: str | None = None  # after a stop: what could not be stored
        self.after_commit: Callable[[bool], object] = lambda _: None
        self.awaits_sources: Callable[[], bool] = lambda: False  # whether one has yet to say its devices
        self._settles_at = time.monotonic() + SOURCES_WAIT_S  # whatever has been said by then
        store.plan_briefly()
        self.host_id = store.meta("host_id") or ""
        self._finals = Finals()
        self._pause_s = COMMIT_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="recorder")

    # ---- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self.keeping.begin(self.timeline.now_ns())
        self._thread.start()

    def stop(self) -> None:
        """Last commit and export, then end. The caller has stopped sampler and intake."""
        self._stop.set()
        self.inbox.bell.set()
        self._thread.join()

    def _loop(self) -> None:
        next_ = 0.0
        while not self._stop.is_set():
            rang = self.inbox.bell.wait(self._pause_s)
            self.inbox.bell.clear()
            if not rang and not self._awaited() and time.monotonic() < next_:
                continue
            next_ = time.monotonic() + CALM_S
            try:
                self.tick()
            except Exception:  # a bug must not end the sampling; the batch is kept
                log.exception("recorder: unexpected error, going on")
                self.complain("recorder", "unexpected error in the recorder, see the log")
            else:
                self.complain("recorder", None)
        self._last_words()

    def _awaited(self) -> bool:
        """Whether somebody waits: a client for an acknowledgement, a stage for its energy."""
        return bool(self.inbox.markers or self.pending_stages)

    def _last_words(self) -> None:
        """The last commit and export. A full disk gets some seconds; then what is lost is said."""
        deadline = time.monotonic() + STOP_RETRY_S
        self.ledger.patience_ns = 0
        self.tick()
        while self.committing.is_refused and time.monotonic() < deadline:
            time.sleep(COMMIT_S)
            self.tick()
        if self.committing.is_refused:
            samples = sum(len(added.t_ns) for _, added in self.committing.batch.samples)
            markers = len(self.committing.batch.rows.get("markers", ()))
            self.unstored = (
                f"{samples} samples are lost, {markers} markers stay in the spools of their programs"
            )
            log.error("store: %s; stopped without storing the last: %s", self.degraded, self.unstored)
            return
        self.keeping.export(self.timeline.now_ns())

    @property
    def degraded(self) -> str | None:
        """What does not work at present, for people; None if all does."""
        return str(self._troubles) or None

    def note(self, table: str, row: tuple[Any, ...]) -> None:
        """Add a row to the next commit. Before `start` only."""
        self.committing.batch.rows.setdefault(table, []).append(row)

    def tick(self) -> None:
        """One round: take, settle, commit, tell, and now and then export and seal.

        What is settled quickly goes into the same commit; where there is more of it, or of markers, those
        are acknowledged first.
        """
        now = self.timeline.now_ns()
        with self.lock:
            many = self.taking.take(now, self.committing.batch.clients)
            if not (many or self.accountant.behind):
                self._settle(now, SETTLE_S)
            if self.keeping.hour_is_over(now):
                self.accountant.fold()
            self._finals.add(self.tracker.rows)
            self.committing.fill(now)
        committed = self._commit()
        if many:
            with self.lock:
                self._settle(now, SETTLE_BUSY_S if len(self.tracker.stages) < MOST_PENDING else SETTLE_S)
        elif self.accountant.behind:
            self._settle_on(now)
        self._pause_s = self._rest_s(many)
        if committed:
            self.keeping.step(now)
        self.keeping.keep_up(now)

    def _rest_s(self, many: bool) -> float:
        """How long to wait for the next round, if nobody rings."""
        if self.inbox.markers >= FLUSH_AT:
            return 0.0
        if many:
            return FLOOD_S
        return 0.0 if self.accountant.behind else COMMIT_S

    def _settle_on(self, now_ns: int) -> None:
        """Settle while nothing else is to do: a commit costs as much as many stages."""
        until_s = time.monotonic() + COMMIT_S / 2
        while self.accountant.behind and time.monotonic() < until_s and self.inbox.markers < FLUSH_AT:
            with self.lock:
                self._settle(now_ns, SETTLE_S)

    def _settle(self, now_ns: int, seconds: float) -> None:
        """Fix begins, settle ends, for no longer than that."""
        until_s = time.monotonic() + seconds
        self.accountant.resolve_begins()
        if self._settles_at and time.monotonic() < self._settles_at:
            if self.awaits_sources():
                return
            self._settles_at = 0.0
        self._news.settled(self.accountant.settle(self.taking.known_until(now_ns), until_s))

    def _commit(self) -> bool:
        """Write, then tell the world; whether it is stored."""
        if not self.committing.commit():
            self.after_commit(False)
            return False
        with self.lock:
            batch, self.committing.batch = self.committing.batch, Batch()
            self.keeping.stored(batch.rows)
            self._finals.commit()
            self.marks.commit(batch.samples)
            self._news.stored(batch)
        self.clients.commit(batch.clients.items(), batch.now_ns)
        self._voice.acknowledge(batch.clients)
        self.after_commit(True)
        return True

    def _forget(self, sealed_ns: int) -> None:
        """Everything before that instant is in sealed files."""
        self.ledger.forget_reads()
        self._finals.forget(sealed_ns)
        self.clients.forget(sealed_ns - CLIENT_MEMORY_NS)  # as the store has just done

    # ---- what others may ask (under lock) --------------------------------------------------------------

    def done(self, stage_id: str) -> tuple[Done | None, bool]:
        """A stage whose energy is known, and whether it is stored; None if there is none in memory."""
        return self._finals.done(stage_id, self.tracker.rows)

    @property
    def pending_stages(self) -> int:
        """Stages that have ended and whose energy is not stored yet."""
        settled = self._finals.waiting + len(self.tracker.rows.get("stages_log", ()))
        return len(self.tracker.stages) - self.tracker.roster.open + settled
