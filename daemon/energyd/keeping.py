"""When do rows leave hot.duckdb for files? Live ones each minute, sealed each hour; those grow old."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final

from energyd.store import HOUR_NS, TABLES
from energyd.store.live import LiveFiles
from energyd.store.upkeep import Upkeep
from energyd.store.write import HotStore, StoreError
from energyd.troubles import Troubles
from energyd.watermarks import Watermarks

log = logging.getLogger("energyd")

EXPORT_S: Final = 60.0
FIRST_EXPORT_S: Final = 2.0  # so that plain DuckDB tools see something soon
SEAL_AFTER_NS: Final = 5_000_000_000
"""How long after an hour's end it is sealed: every device's samples of it have arrived by then."""


class Keeping:
    """Used by the recorder's thread, without its lock; what others may read changes under it."""

    def __init__(
        self,
        store: HotStore,
        live: LiveFiles,
        marks: Watermarks,
        sealed: dict[str, list[str]],
        troubles: Troubles,
        lock: Lock,
        forget: Callable[[int], None],
    ) -> None:
        """`forget`: told, under the lock, up to which instant everything is sealed now."""
        self._store = store
        self._marks = marks
        self._troubles = troubles
        self._lock = lock
        self._forget = forget
        self.live = live
        self.sealed = sealed
        self.recent: dict[str, list[tuple[Any, ...]]] = {t: [] for t in TABLES}
        """By table, rows that are stored and in no file yet (samples: see Watermarks)."""
        self.upkeep: Upkeep | None = None
        self.next_export = time.monotonic()
        self.next_seal = 0.0

    def begin(self, now_ns: int) -> None:
        """What an earlier daemon left of this hour is in live files before anyone asks."""
        self.export(now_ns)
        self.next_export = time.monotonic() + FIRST_EXPORT_S

    def stored(self, rows: Mapping[str, list[tuple[Any, ...]]]) -> None:
        """Rows that a commit has written. Under the lock."""
        for table, new in rows.items():
            self.recent[table] += new

    def hour_is_over(self, now_ns: int) -> bool:
        """Whether there is something to seal."""
        return (now_ns - SEAL_AFTER_NS) // HOUR_NS > self._marks.hour and time.monotonic() >= self.next_seal

    def step(self, now_ns: int) -> None:
        """After a commit: seal if an hour has passed, export if that is due or has to follow."""
        if self.hour_is_over(now_ns):
            self.next_seal = time.monotonic() + EXPORT_S  # one that fails is not tried at every commit
            self._seal((now_ns - SEAL_AFTER_NS) // HOUR_NS)
            self.export(now_ns)
        elif time.monotonic() >= self.next_export:
            self.export(now_ns)

    def keep_up(self, now_ns: int) -> None:
        """Old days made one file, thinned, dropped: name what counts now, in the catalogue as well."""
        sealed = self.upkeep.step(now_ns, self._marks.hour) if self.upkeep else None
        if sealed is not None and sealed != self.sealed:
            with self._lock:
                self.sealed = sealed
            self.next_export = time.monotonic()

    def export(self, now_ns: int) -> None:
        """Write the live files."""
        self.next_export = time.monotonic() + EXPORT_S
        with self._lock:
            samples = self._marks.unsealed()
        try:
            written = self.live.export(self._store, samples, self._marks.hour, now_ns)
        except StoreError as error:
            log.error("store: cannot write the live files: %s", error)
            self._troubles.complain("export", f"store: cannot write the live files: {error}")
            return
        self._troubles.complain("export", None)
        if self.live.left_out and "sealed" not in self._troubles:
            found = ", ".join(f"{path} {why}" for path, why in self.live.left_out.items())
            said = f"store: {found}; cure: stop, then `energyd recover`"
            self._troubles.complain("sealed", said)
            log.error("%s", said)
        with self._lock:  # one switch: a reader sees the old files and their tail, or the new ones
            self.live.switch(written)
            self._marks.export(samples)
            self.recent = {t: [] for t in TABLES}

    def _seal(self, hour: int) -> None:
        try:
            sealed = self._store.seal(self._marks.hour, hour)
        except StoreError as error:
            log.error("store: cannot seal the hour: %s", error)
            self._troubles.complain("seal", f"store: cannot seal the hour: {error}")
            return
        self._troubles.complain("seal", None)
        with self._lock:
            end = (self._marks.hour + 1) * HOUR_NS
            for table, path in sealed.items():
                self.sealed.setdefault(table, []).append(path)
            self._marks.seal(end, int(self._store.meta("hour") or self._marks.hour + 1))
            self._forget(end)
            # One switch for readers: what the old live files and `recent` hold is in sealed files now.
            self.live.switch({})
            self.recent = {t: [] for t in TABLES}
