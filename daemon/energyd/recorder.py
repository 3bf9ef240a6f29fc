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
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from energyd.accounting import Accountant
from energyd.clients import Clients
from energyd.doubt import FLOOR_W, Device
from energyd.inbox import FLUSH_AT, ClientGone, Declared, Inbox
from energyd.ledger import Ledger
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
from energyd.stages import Incoming, Run, Stage
from energyd.store import HOUR_NS, TABLES
from energyd.store.live import LiveFiles
from energyd.store.load import Loaded
from energyd.store.quarantine import QUARANTINE
from energyd.store.upkeep import Upkeep
from energyd.store.write import CLIENT_MEMORY_NS, Batch, HotStore, StoreError
from energyd.timeline import Timeline, pair
from energyd.trace import TraceRuns
from energyd.tracker import Tracker
from energyd.waiting import MAX_SAMPLES, shorten
from energyd.watermarks import Watermarks
from energyd_client import protocol as p

log = logging.getLogger("energyd")

COMMIT_S: Final = 0.5
"""How long markers wait for their commit, and an ended stage for its energy, at most."""
CALM_S: Final = 1.0
"""The same for samples alone: a commit costs about the same however few it brings."""
EXPORT_S: Final = 60.0
FIRST_EXPORT_S: Final = 2.0  # so that plain DuckDB tools see something soon
CLOCKS_S: Final = 60.0
STOP_RETRY_S: Final = 10.0
"""How long a stop goes on trying to store what a full disk refuses."""
SEAL_AFTER_NS: Final = 5_000_000_000
"""How long after an hour's end it is sealed: every device's samples of it have arrived by then."""
ASKED_LATE_NS: Final = 600_000_000_000
"""Who waits for a stage's energy gets it though its hour is sealed: so long after its end, at least."""

TAKE: Final = 2_000
"""Markers of one round: questions wait for the lock while they are taken, and acks for all of them."""
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


Done = tuple[tuple[Any, ...], list[tuple[Any, ...]]]
"""A stage whose energy is known: its row of stages_log, and of energies (none if charged to no device)."""


_FINALS: Final = """
    SELECT stage_id, run_id, parent_id, s.t0_ns, s.t1_ns, device
    FROM stages_log s JOIN energies USING (run_id, stage_id)
    WHERE device = {} AND s.t1_ns > {}
"""
"""What stages still open or pending may have beside them; of what is longer ago they have the sum."""


class Voice(Protocol):
    """How the recorder speaks to clients and subscribers (the wire thread does it)."""

    def refuse(self, client: str, refusal: p.Refusal) -> None:
        """Tell a client that one of its markers was refused."""

    def acknowledge(self, acks: dict[str, int]) -> None:
        """Tell clients up to which marker everything is stored."""

    def publish(self, topic: str, message: p.Message) -> None:
        """Tell subscribers."""


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
        self.sealed = loaded.sealed
        self.live = live
        self.upkeep: Upkeep | None = None
        self._troubles: dict[str, str] = {}  # by what it was that failed; gone once that succeeds
        self.unstored: str | None = None  # after a stop: what could not be stored
        self.exhausted = False
        self.markers = 0
        self.refused = 0
        self.store_errors = 0  # commits that were refused
        self.commit_ms: float | None = None
        self.after_commit: Callable[[bool], object] = lambda _: None
        self.awaits_sources: Callable[[], bool] = lambda: False  # whether one has yet to say its devices
        self._settles_at = time.monotonic() + SOURCES_WAIT_S  # whatever has been said by then
        self.max_waiting = MAX_SAMPLES  # samples that wait in memory while commits are refused
        self._dropped = 0  # of those, since commits are refused
        self._store = store
        self._voice = voice
        self._batch = Batch()
        self._trace = TraceRuns()
        self._settled: dict[str, dict[int, int | None]] = {}
        self.host_id = store.meta("host_id") or ""
        self.finals: dict[str, Done] = {}  # done and stored: stages of this hour, and the last before
        self._unstored: dict[str, Done] = {}  # done, and in the next commit
        self.marks = Watermarks(ledger.logs, store.hour(timeline.now_ns() // HOUR_NS))
        for device, stored in loaded.devices.items():
            if not len(stored.t_ns):
                self.marks.all_sealed(device)
        self.recent: dict[str, list[tuple[Any, ...]]] = {t: [] for t in TABLES}
        self._next_export = time.monotonic()
        self._next_clock = 0.0
        self._next_seal = 0.0
        self._pause_s = COMMIT_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="recorder")

    # ---- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. What an earlier daemon left of this hour is in live files before anyone asks."""
        self._store.plan_briefly()
        self._export()
        self._next_export = time.monotonic() + FIRST_EXPORT_S
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
                self._troubles["recorder"] = "unexpected error in the recorder, see the log"
            else:
                self._troubles.pop("recorder", None)
        self._last_words()

    def _awaited(self) -> bool:
        """Whether somebody waits: a client for an acknowledgement, a stage for its energy."""
        return bool(self.inbox.markers or self.pending_stages)

    def _last_words(self) -> None:
        """The last commit and export. A full disk gets some seconds; then what is lost is said."""
        deadline = time.monotonic() + STOP_RETRY_S
        self.ledger.patience_ns = 0
        self.tick()
        while "commit" in self._troubles and time.monotonic() < deadline:
            time.sleep(COMMIT_S)
            self.tick()
        if "commit" in self._troubles:
            samples = sum(len(added.t_ns) for _, added in self._batch.samples)
            markers = len(self._batch.rows.get("markers", ()))
            self.unstored = (
                f"{samples} samples are lost, {markers} markers stay in the spools of their programs"
            )
            log.error("store: %s; stopped without storing the last: %s", self.degraded, self.unstored)
            return
        self._export()

    @property
    def degraded(self) -> str | None:
        """What does not work at present, for people; None if all does."""
        return "; ".join(dict.fromkeys(self._troubles.values())) or None

    def complain(self, what: str, said: str | None) -> None:
        """Be degraded until None is said of it. Any thread: one step of a dict is whole."""
        if said is None:
            self._troubles.pop(what, None)
        else:
            self._troubles[what] = said

    def note(self, table: str, row: tuple[Any, ...]) -> None:
        """Add a row to the next commit. Before `start` only."""
        self._batch.rows.setdefault(table, []).append(row)

    def tick(self) -> None:
        """One round: take, settle, commit, tell, and now and then export and seal.

        What is settled quickly goes into the same commit; where there is more of it, or of markers, those
        are acknowledged first.
        """
        now = self.timeline.now_ns()
        with self.lock:
            many = self._take(now)
            if not (many or self.accountant.behind):
                self._settle(now, SETTLE_S)
            if self._hour_is_over(now):
                self.accountant.fold()
            self._fill_batch(now)
        committed = self._commit()
        if many:
            with self.lock:
                self._settle(now, SETTLE_BUSY_S if len(self.tracker.stages) < MOST_PENDING else SETTLE_S)
        elif self.accountant.behind:
            self._settle_on(now)
        self._pause_s = self._rest_s(many)
        if committed and self._due(now):
            self._export()
        self._keep_up(now)

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

    # ---- in ------------------------------------------------------------------------------------------

    def _take(self, now_ns: int) -> bool:
        """What came in; whether there was so much that the next round should follow at once."""
        events, markers = self.inbox.take(TAKE)
        try:
            for event in events:
                self._event(event, now_ns)
            self.ledger.settle(now_ns)
        finally:  # what clients said is in no other place of this process
            for said in markers:
                if isinstance(said, ClientGone):
                    self.tracker.client_gone(said.client, said.t_ns, said.doubt_ns, said.uid)
                else:
                    self._marker_safely(said)
        return len(markers) >= FLUSH_AT

    def _settle(self, now_ns: int, seconds: float) -> None:
        """Fix begins, settle ends, for no longer than that."""
        until_s = time.monotonic() + seconds
        if self._trace.playing:
            now_ns = max([now_ns, *(log.last_t_ns or 0 for log in self.ledger.logs.values())])
        self.accountant.resolve_begins()
        if self._settles_at and time.monotonic() < self._settles_at:
            if self.awaits_sources():
                return
            self._settles_at = 0.0
        self._settled.update(self.accountant.settle(now_ns, until_s))

    def _event(self, event: Event | Declared, now_ns: int) -> None:
        if isinstance(event, PowerSamples):
            self.ledger.samples_in(event, now_ns)
        elif isinstance(event, CounterRead):
            self.ledger.counter_in(event)
        elif isinstance(event, Condition):
            device = self.ledger.condition_in(event)
            if event.pids:
                self.accountant.note_pids(device, event.pids, self.timeline.to_store(event.t_ns))
        elif isinstance(event, Share):
            self.ledger.share_in(event)
        elif isinstance(event, Break):
            self.ledger.break_in(event)
        elif isinstance(event, Declared):
            self.declare(event, now_ns)
        elif isinstance(event, TraceMarker):
            for incoming in self._trace.markers(event, self.timeline):
                self._marker(incoming)
        elif isinstance(event, Exhausted):
            for incoming in self._trace.end(self.timeline.to_store(event.t_ns)):
                self._marker(incoming)
            self.exhausted = True
        else:
            assert isinstance(event, Changed)  # the sampler has sent a Declared with it

    def declare(self, found: Declared, now_ns: int) -> None:
        """Devices and domains of a source."""
        if self.ledger.declare(found.devices, found.domains, now_ns):
            for device, info in self.ledger.infos.items():
                self.accountant.devices[device] = Device(
                    info.source, info.origin, info.period_ns, info.accuracy,
                    FLOOR_W if info.domain == "gpu" else 0.0, counter_period_ns(info), sensor_of(info),
                )  # fmt: skip
            self.accountant.devices_changed()
            self._voice.publish("devices", p.DeviceList(0, self.device_maps()))

    def _marker_safely(self, incoming: Incoming) -> None:
        """A marker that trips over a bug is refused and logged; those behind it are taken."""
        try:
            self._marker(incoming)
        except Exception:
            log.exception("recorder: a marker failed: %r", incoming.message)
            self.refused += 1
            refusal = p.Refusal(
                "malformed", "the daemon failed on it, see its log", None, incoming.message.seq
            )
            self._voice.refuse(incoming.client, refusal)

    def _marker(self, incoming: Incoming) -> None:
        new = self.clients.take(incoming.client, incoming.message.seq)
        self._batch.clients[incoming.client] = self.clients.taken(incoming.client)
        if not new:
            return  # a duplicate: it is acknowledged again
        self.markers += 1
        refusal = self.tracker.apply(incoming)
        if refusal is not None:
            self.refused += 1
            self._voice.refuse(incoming.client, refusal)

    # ---- out -----------------------------------------------------------------------------------------

    def _fill_batch(self, now_ns: int) -> None:
        batch, tracker = self._batch, self.tracker
        batch.now_ns = now_ns
        rows, appended, totals = self.ledger.take_rows()
        self._unstored.update(_done(tracker.rows))
        if time.monotonic() >= self._next_clock:
            self._next_clock = time.monotonic() + CLOCKS_S
            boottime, realtime = pair()
            rows["clocks"] = [(self.timeline.to_store(boottime), boottime, realtime)]
        for source in (rows, tracker.rows):
            for table, new in source.items():
                batch.rows.setdefault(table, []).extend(new)
        tracker.rows.clear()
        batch.samples += appended
        batch.totals.update(totals)
        for stage_id in tracker.touched:
            stage = tracker.stages.get(stage_id)
            batch.open_stages[stage_id] = None if stage is None else (stage.row(), stage.memo())
        for run_id in tracker.touched_runs:
            run = tracker.runs.get(run_id)
            batch.open_runs[run_id] = None if run is None else run.row()
        tracker.touched.clear()
        tracker.touched_runs.clear()

    def _commit(self) -> bool:
        began = time.monotonic()
        batch = self._batch
        try:
            self._store.commit(batch)
        except StoreError as error:
            if "commit" not in self._troubles:
                log.error("store: %s; sampling goes on, what is not stored waits in memory", error)
            self._troubles["commit"] = f"store: {error}"
            self.store_errors += 1
            with self.lock:
                self._shorten()
            self.after_commit(False)
            return False
        if self._troubles.pop("commit", None):
            lost = f"{self._dropped} samples were dropped, see gaps" if self._dropped else "nothing was lost"
            log.warning("store: writes again, %s", lost)
            self._troubles.pop("dropped", None)
            self._dropped = 0
        if self._store.quarantined:
            self._troubles["quarantine"] = (
                f"store: {self._store.quarantined} rows could not be stored, see {QUARANTINE} beside it"
            )
        self.commit_ms = (time.monotonic() - began) * 1000
        with self.lock:
            self._batch = Batch()
            for table, rows in batch.rows.items():
                self.recent[table] += rows
            self.finals.update(self._unstored)
            self._unstored = {}
            self.marks.commit(batch.samples)
            self._publish(batch)
        self.clients.commit(batch.clients.items(), batch.now_ns)
        self._voice.acknowledge(batch.clients)
        self.after_commit(True)
        return True

    def _shorten(self) -> None:
        """Keep what waits within bounds, when a disk stays full for hours."""
        dropped = shorten(self._batch, self.ledger.logs, self.marks.committed, self.max_waiting)
        if dropped:
            self._dropped += dropped
            said = f"store: more waits than memory may hold: the oldest {self._dropped} samples are a gap"
            if "dropped" not in self._troubles:
                log.error("%s", said)
            self._troubles["dropped"] = said

    def _publish(self, batch: Batch) -> None:
        for device, added in batch.samples:
            t_ns, power = added.t_ns.tolist(), added.power_mw.tolist()
            self._voice.publish(f"samples/{device}", p.Samples(0, device, t_ns, power, int(added.cum_uj[-1])))
        finals = {row[1]: row for row in batch.rows.get("stages_log", [])}
        for stage_id in self.tracker.news:
            stage = self.tracker.stages.get(stage_id)
            if stage is not None:
                self._voice.publish(f"stages/{stage_id}", stage.state_message(self.run_name(stage.run_id)))
            elif stage_id in finals:
                message = _final_message(finals[stage_id], self._settled.pop(stage_id, {}), self.run_name)
                self._voice.publish(f"stages/{stage_id}", message)
        self.tracker.news.clear()

    # ---- export and seal -----------------------------------------------------------------------------

    def _due(self, now_ns: int) -> bool:
        """Seal if an hour has passed; whether an export is due."""
        if self._hour_is_over(now_ns):
            self._next_seal = time.monotonic() + EXPORT_S  # one that fails is not tried at every commit
            self._seal((now_ns - SEAL_AFTER_NS) // HOUR_NS)
            return True
        return time.monotonic() >= self._next_export

    def _hour_is_over(self, now_ns: int) -> bool:
        return (now_ns - SEAL_AFTER_NS) // HOUR_NS > self.marks.hour and time.monotonic() >= self._next_seal

    def _seal(self, hour: int) -> None:
        try:
            sealed = self._store.seal(self.marks.hour, hour)
        except StoreError as error:
            log.error("store: cannot seal the hour: %s", error)
            self._troubles["seal"] = f"store: cannot seal the hour: {error}"
            return
        self._troubles.pop("seal", None)
        with self.lock:
            end = (self.marks.hour + 1) * HOUR_NS
            for table, path in sealed.items():
                self.sealed.setdefault(table, []).append(path)
            self.marks.seal(end, int(self._store.meta("hour") or self.marks.hour + 1))
            self.ledger.forget_reads()
            late_ns = end - ASKED_LATE_NS  # of a row of stages_log, 5 is t1_ns
            self.finals = {k: done for k, done in self.finals.items() if done[0][5] > late_ns}
            self.clients.forget(end - CLIENT_MEMORY_NS)  # as the store has just done
            # One switch for readers: what the old live files and `recent` hold is in sealed files now.
            self.live.switch({})
            self.recent = {t: [] for t in TABLES}

    def _keep_up(self, now_ns: int) -> None:
        """Old days made one file, thinned, dropped: name what counts now, in the catalogue as well."""
        sealed = self.upkeep.step(now_ns, self.marks.hour) if self.upkeep else None
        if sealed is not None and sealed != self.sealed:
            with self.lock:
                self.sealed = sealed
            self._next_export = time.monotonic()

    def _export(self) -> None:
        self._next_export = time.monotonic() + EXPORT_S
        with self.lock:
            samples = self.marks.unsealed()
        try:
            written = self.live.export(self._store, samples, self.marks.hour, self.timeline.now_ns())
        except StoreError as error:
            log.error("store: cannot write the live files: %s", error)
            self._troubles["export"] = f"store: cannot write the live files: {error}"
            return
        self._troubles.pop("export", None)
        if self.live.left_out and "sealed" not in self._troubles:
            found = ", ".join(f"{path} {why}" for path, why in self.live.left_out.items())
            self._troubles["sealed"] = f"store: {found}; cure: stop, then `energyd recover`"
            log.error("%s", self._troubles["sealed"])
        with self.lock:  # one switch: a reader sees the old files and their tail, or the new ones
            self.live.switch(written)
            self.marks.export(samples)
            self.recent = {t: [] for t in TABLES}

    # ---- what others may ask (under lock) --------------------------------------------------------------

    def waiting_rows(self, table: str) -> list[tuple[Any, ...]]:
        """Rows that the next commit is to write: many, while commits are refused."""
        return [*self._batch.rows.get(table, ()), *self.tracker.rows.get(table, ())]

    def done(self, stage_id: str) -> tuple[Done | None, bool]:
        """A stage whose energy is known, and whether it is stored; None if there is none in memory."""
        stored = self.finals.get(stage_id)
        if stored is not None:
            return stored, True
        return self._unstored.get(stage_id) or _done(self.tracker.rows).get(stage_id), False

    @property
    def pending_stages(self) -> int:
        """Stages that have ended and whose energy is not stored yet."""
        settled = len(self._unstored) + len(self.tracker.rows.get("stages_log", ()))
        return len(self.tracker.stages) - self.tracker.roster.open + settled

    def run_name(self, run_id: str) -> str:
        """The name of a run, or its id once it is closed and forgotten."""
        run = self.tracker.runs.get(run_id) or self.tracker.ended.get(run_id)
        return run.name if run else run_id

    def device_maps(self) -> list[dict[str, Any]]:
        """Every device as status and subscribers see it."""
        maps = []
        for device, info in sorted(self.ledger.infos.items()):
            totals = self.ledger.logs[device].totals
            maps.append(
                {
                    "device": device, "uuid": info.uuid, "domain": info.domain, "name": info.name,
                    "source": info.source, "origin": info.origin, "period_ns": info.period_ns,
                    "max_step_ns": info.max_step_ns, "power_limit_mw": info.power_limit_mw,
                    "driver": info.driver,
                    "last_t_ns": totals.t_ns, "cum_uj": totals.cum_uj,
                    "power_mw": totals.power_mw if totals.t_ns is not None else None,
                }
            )  # fmt: skip
        return maps


def _done(rows: Mapping[str, list[tuple[Any, ...]]]) -> dict[str, Done]:
    done: dict[str, Done] = {row[1]: (row, []) for row in rows.get("stages_log", ())}
    for row in rows.get("energies", ()):
        done[row[1]][1].append(row)
    return done


def _final_message(
    row: tuple[Any, ...], energies: dict[int, int | None], run_name: Callable[[str], str]
) -> p.StageState:
    """The last news of a stage, from its final row."""
    return p.StageState(
        0, row[0], run_name(row[0]), row[1], row[2], row[3], "final", row[7], row[4], row[5],
        msgspec.json.decode(row[9]), {}, energies,
    )  # fmt: skip
