"""What becomes durable when? The one thread that integrates, tracks, commits, exports and seals.

Every half second, or every second while nobody waits for anything: take what came in, settle what can be
settled, commit it in one transaction, then tell the world (acknowledgements, stage news). A refused
commit loses nothing: the batch is kept and tried again, and the daemon says DEGRADED.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from energyd.accounting import Accountant
from energyd.doubt import FLOOR_W, Device
from energyd.inbox import ClientGone, Declared, Inbox
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
from energyd.store.live import Arrays, LiveFiles
from energyd.store.load import Loaded
from energyd.store.upkeep import Upkeep
from energyd.store.write import CLIENT_MEMORY_NS, Batch, HotStore, StoreError
from energyd.timeline import Timeline, pair
from energyd.trace import TraceRuns
from energyd.tracker import Tracker
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


Done = tuple[tuple[Any, ...], list[tuple[Any, ...]]]
"""A stage whose energy is known: its row of stages_log, and of energies (none if charged to no device)."""


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
        self.taken_seq = dict(loaded.last_seq)  # per client: what is in the batch or the store
        self.stored_seq = loaded.last_seq  # per client: what is in the store; read by the wire thread
        self.sealed = loaded.sealed
        self.live = live
        self.upkeep: Upkeep | None = None
        self._troubles: dict[str, str] = {}  # by what it was that failed; gone once that succeeds
        self.unstored: str | None = None  # after a stop: what could not be stored
        self.exhausted = False
        self.markers = 0
        self.refused = 0
        self.commit_ms: float | None = None
        self.after_commit: Callable[[bool], object] = lambda _: None
        self._store = store
        self._voice = voice
        self._batch = Batch()
        self._trace = TraceRuns()
        self._settled: dict[str, dict[int, int | None]] = {}
        self.hour = store.hour(timeline.now_ns() // HOUR_NS)
        self.host_id = store.meta("host_id") or ""
        self.finals: dict[str, Done] = {}  # this hour's stages that are done
        self._heard = dict.fromkeys(loaded.last_seq, timeline.now_ns())  # per client: its last commit
        # Newest sample of each device that is committed, in a live file, in a sealed file.
        self.committed: dict[int, int] = {}
        self._exported: dict[int, int] = {}
        self._sealed_to: dict[int, int] = {}
        for device, device_log in ledger.logs.items():
            if device_log.last_t_ns is not None:
                self.committed[device] = device_log.last_t_ns
                if not len(loaded.devices[device].t_ns):
                    self._sealed_to[device] = device_log.last_t_ns
        self.recent: dict[str, list[tuple[Any, ...]]] = {t: [] for t in TABLES}
        self._next_export = time.monotonic()
        self._next_clock = 0.0
        self._next_seal = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="recorder")

    # ---- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. What an earlier daemon left of this hour is in live files before anyone asks."""
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
            rang = self.inbox.bell.wait(COMMIT_S)
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
        return self.inbox.has_markers or any(s.state == "ended" for s in self.tracker.stages.values())

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

    def note(self, table: str, row: tuple[Any, ...]) -> None:
        """Add a row to the next commit. Before `start` only."""
        self._batch.rows.setdefault(table, []).append(row)

    def tick(self) -> None:
        """One round: take, settle, commit, tell, and now and then export and seal."""
        now = self.timeline.now_ns()
        with self.lock:
            self._take(now)
            self._fill_batch(now)
        if self._commit() and self._due(now):
            self._export()
        self._keep_up(now)

    # ---- in ------------------------------------------------------------------------------------------

    def _take(self, now_ns: int) -> None:
        events, markers = self.inbox.take()
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
        self.accountant.resolve_begins()
        newest = max([now_ns, *(log.last_t_ns or 0 for log in self.ledger.logs.values())])
        self._settled.update(self.accountant.settle(newest if self._trace.playing else now_ns))

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
        last = self.taken_seq.get(incoming.client, 0)
        seq = incoming.message.seq
        self._batch.clients[incoming.client] = max(last, seq)  # a duplicate is acknowledged again
        if seq <= last:
            return
        self.taken_seq[incoming.client] = seq
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
            self.after_commit(False)
            return False
        if self._troubles.pop("commit", None):
            log.warning("store: writes again, nothing was lost")
        self.commit_ms = (time.monotonic() - began) * 1000
        with self.lock:
            self._batch = Batch()
            for table, rows in batch.rows.items():
                self.recent[table] += rows
            self.finals.update(_done(batch))
            self._heard.update(dict.fromkeys(batch.clients, batch.now_ns))
            for device, added in batch.samples:
                self.committed[device] = int(added.t_ns[-1])
            self._publish(batch)
        self.stored_seq.update(batch.clients)
        self._voice.acknowledge(batch.clients)
        self.after_commit(True)
        return True

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
        hour = (now_ns - SEAL_AFTER_NS) // HOUR_NS
        if hour > self.hour and time.monotonic() >= self._next_seal:
            self._next_seal = time.monotonic() + EXPORT_S  # one that fails is not tried at every commit
            self._seal(hour)
            return True
        return time.monotonic() >= self._next_export

    def _seal(self, hour: int) -> None:
        try:
            sealed = self._store.seal(self.hour, hour)
        except StoreError as error:
            log.error("store: cannot seal the hour: %s", error)
            self._troubles["seal"] = f"store: cannot seal the hour: {error}"
            return
        self._troubles.pop("seal", None)
        with self.lock:
            end = (self.hour + 1) * HOUR_NS
            for table, path in sealed.items():
                self.sealed.setdefault(table, []).append(path)
            for device, device_log in self.ledger.logs.items():
                t_ns, _, _ = device_log.after(self._sealed_to.get(device), until_ns=end - 1)
                if len(t_ns):
                    self._sealed_to[device] = int(t_ns[-1])
                device_log.trim(end)
            self.hour = int(self._store.meta("hour") or self.hour + 1)
            self.finals.clear()
            for client in [c for c, t_ns in self._heard.items() if t_ns < end - CLIENT_MEMORY_NS]:
                for known in (self._heard, self.taken_seq, self.stored_seq):  # as the store has just done
                    known.pop(client, None)
            # One switch for readers: what the old live files and `recent` hold is in sealed files now.
            self.live.switch({})
            self.recent = {t: [] for t in TABLES}

    def _keep_up(self, now_ns: int) -> None:
        """Old days made one file, thinned, dropped: name what counts now, in the catalogue as well."""
        sealed = self.upkeep.step(now_ns, self.hour) if self.upkeep else None
        if sealed is not None and sealed != self.sealed:
            with self.lock:
                self.sealed = sealed
            self._next_export = time.monotonic()

    def unsealed(self) -> Arrays:
        """Committed samples that no sealed file holds, in (device, t_ns) order."""
        found: Arrays = []
        for device, device_log in sorted(self.ledger.logs.items()):
            until = self.committed.get(device)
            if until is not None:
                t_ns, power, cum = device_log.after(self._sealed_to.get(device), until)
                if len(t_ns):
                    found.append((device, t_ns, power, cum))
        return found

    def _export(self) -> None:
        self._next_export = time.monotonic() + EXPORT_S
        with self.lock:
            samples = self.unsealed()
        try:
            written = self.live.export(self._store, samples, self.hour, self.timeline.now_ns())
        except StoreError as error:
            log.error("store: cannot write the live files: %s", error)
            self._troubles["export"] = f"store: cannot write the live files: {error}"
            return
        self._troubles.pop("export", None)
        with self.lock:  # one switch: a reader sees the old files and their tail, or the new ones
            self.live.switch(written)
            for device, t_ns, _, _ in samples:
                self._exported[device] = int(t_ns[-1])
            self.recent = {t: [] for t in TABLES}

    # ---- what others may ask (under lock) --------------------------------------------------------------

    def after_export(self, device: int) -> tuple[Any, Any, Any]:
        """Committed samples of a device that no live file holds yet."""
        log_ = self.ledger.logs[device]
        floor = max(self._exported.get(device, -1), self._sealed_to.get(device, -1))
        return log_.after(floor, self.committed.get(device, -1))

    def waiting_rows(self, table: str) -> list[tuple[Any, ...]]:
        """Rows that the next commit is to write: many, while commits are refused."""
        return list(self._batch.rows.get(table, []))

    def done(self, stage_id: str) -> tuple[Done | None, bool]:
        """A stage whose energy is known, and whether it is stored; None if there is none in memory."""
        stored = self.finals.get(stage_id)
        return (stored, True) if stored is not None else (_done(self._batch).get(stage_id), False)

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
                    "last_t_ns": totals.t_ns, "cum_uj": totals.cum_uj,
                    "power_mw": totals.power_mw if totals.t_ns is not None else None,
                }
            )  # fmt: skip
        return maps


def _done(batch: Batch) -> dict[str, Done]:
    done: dict[str, Done] = {row[1]: (row, []) for row in batch.rows.get("stages_log", [])}
    for row in batch.rows.get("energies", []):
        done[row[1]][1].append(row)
    return done


def _final_message(
    row: tuple[Any, ...], energies: dict[int, int | None], run_name: Callable[[str], str]
) -> p.StageState:
    """The last news of a stage, from its final row."""
    return p.StageState(
        0, row[0], run_name(row[0]), row[1], row[2], row[3], "final", row[7], row[4], row[5],
        json.loads(row[9]), {}, energies,
    )  # fmt: skip
