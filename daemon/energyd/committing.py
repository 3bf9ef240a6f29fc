"""What goes into the next commit, and what if it is refused? The batch: filled, written, kept until it is.

A refused commit loses nothing: what it was to write waits, and is tried again with what has come since.
"""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import Any, Final

from energyd.ledger import Ledger
from energyd.store.quarantine import QUARANTINE
from energyd.store.write import Batch, HotStore, StoreError
from energyd.timeline import Timeline, pair
from energyd.tracker import Tracker
from energyd.troubles import Troubles
from energyd.waiting import MAX_SAMPLES, shorten
from energyd.watermarks import Watermarks

log = logging.getLogger("energyd")

CLOCKS_S: Final = 60.0


class Committing:
    """Used by the recorder's thread; the batch is changed under its lock, and written without."""

    def __init__(
        self,
        store: HotStore,
        timeline: Timeline,
        ledger: Ledger,
        tracker: Tracker,
        marks: Watermarks,
        troubles: Troubles,
        lock: Lock,
    ) -> None:
        self._store = store
        self._timeline = timeline
        self._ledger = ledger
        self._tracker = tracker
        self._marks = marks
        self._troubles = troubles
        self._lock = lock
        self._next_clock = 0.0
        self.batch = Batch()
        self.errors = 0  # commits that were refused
        self.took_ms: float | None = None  # the last that was not
        self.max_waiting = MAX_SAMPLES  # samples that wait in memory while commits are refused
        self._dropped = 0  # of those, since commits are refused

    @property
    def is_refused(self) -> bool:
        """Whether the last one was."""
        return "commit" in self._troubles

    def fill(self, now_ns: int) -> None:
        """Take over what ledger and tracker have learnt. Under the lock."""
        batch, tracker = self.batch, self._tracker
        batch.now_ns = now_ns
        rows, appended, totals = self._ledger.take_rows()
        if time.monotonic() >= self._next_clock:
            self._next_clock = time.monotonic() + CLOCKS_S
            boottime, realtime = pair()
            rows["clocks"] = [(self._timeline.to_store(boottime), boottime, realtime)]
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

    def commit(self) -> bool:
        """Write the batch; whether it is stored. The caller then begins a new one."""
        began = time.monotonic()
        try:
            self._store.commit(self.batch)
        except StoreError as error:
            if not self.is_refused:
                log.error("store: %s; sampling goes on, what is not stored waits in memory", error)
            self._troubles.complain("commit", f"store: {error}")
            self.errors += 1
            with self._lock:
                self._shorten()
            return False
        if self.is_refused:
            self._troubles.complain("commit", None)
            lost = f"{self._dropped} samples were dropped, see gaps" if self._dropped else "nothing was lost"
            log.warning("store: writes again, %s", lost)
            self._troubles.complain("dropped", None)
            self._dropped = 0
        if self._store.quarantined:
            said = f"store: {self._store.quarantined} rows could not be stored, see {QUARANTINE} beside it"
            self._troubles.complain("quarantine", said)
        self.took_ms = (time.monotonic() - began) * 1000
        return True

    def waiting(self, table: str) -> list[tuple[Any, ...]]:
        """Rows that the next commit is to write: many, while commits are refused. Under the lock."""
        return [*self.batch.rows.get(table, ()), *self._tracker.rows.get(table, ())]

    def _shorten(self) -> None:
        """Keep what waits within bounds, when a disk stays full for hours."""
        dropped = shorten(self.batch, self._ledger.logs, self._marks.committed, self.max_waiting)
        if dropped:
            self._dropped += dropped
            said = f"store: more waits than memory may hold: the oldest {self._dropped} samples are a gap"
            if "dropped" not in self._troubles:
                log.error("%s", said)
            self._troubles.complain("dropped", said)
