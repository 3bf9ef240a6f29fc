"""How large is the store, how much room is left, and since when does it hold samples?"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from energyd.recorder import Recorder
from energyd.store import HOUR_NS, hour_of_sealed, is_hour_file
from energyd.store.outbox import FOLDER as OUTBOX

EVERY_S: Final = 10.0
"""A year of hours and days is thousands of files: 10 ms of `stat`."""


@dataclass(frozen=True)
class Extent:
    """What status tells of it; None where the disk would not say."""

    store_bytes: int | None = None  # of all files in it
    free_bytes: int | None = None  # on its disk, for this user
    oldest_t_ns: int | None = None  # of all samples; of sealed ones where their hour, day or month begins


class Survey:
    """Keeps an Extent current; for one thread."""

    def __init__(self, store: Path, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder
        self._next = 0.0
        self.extent = Extent()

    def look(self) -> None:
        """Measure it again if it is time to."""
        now = time.monotonic()
        if now < self._next and self.extent.oldest_t_ns is not None:
            return
        self._next = now + EVERY_S
        self.extent = Extent(_size(self._store), _free(self._store), self._oldest())

    def facts(self) -> dict[str, Any]:
        """As status has it."""
        return dict(vars(self.extent))

    def _oldest(self) -> int | None:
        with self._recorder.lock:
            sealed = list(self._recorder.keeping.sealed.get("samples", ()))
            if sealed:
                return sealed_since_ns(sealed)
            logs, committed = self._recorder.ledger.logs, self._recorder.marks.committed
            known = [logs[device].after(None, until)[0] for device, until in committed.items()]
        return min((int(t_ns[0]) for t_ns in known if len(t_ns)), default=None)


def sealed_since_ns(paths: Iterable[str]) -> int:
    """Where the hour, day or month of the oldest of these sealed files begins, as t_ns."""
    return min(_begins_ns(path) for path in paths)


def _begins_ns(path: str) -> int:
    *_, folder, name = path.split("/")
    if is_hour_file(name):
        return hour_of_sealed(path) * HOUR_NS
    first = dt.date.fromisoformat((folder.partition("=")[2] + "-01")[:10])  # a month has no day of its own
    return (first - dt.date(1970, 1, 1)).days * 24 * HOUR_NS


def _size(store: Path) -> int | None:
    total = 0
    try:
        for folder, _, names in os.walk(store):
            for name in names:
                try:
                    found = (Path(folder) / name).lstat()
                    if found.st_nlink == 1 or f"/{OUTBOX}/" not in folder:  # else the store has it, too
                        total += found.st_size
                except FileNotFoundError:
                    pass  # renewed or dropped meanwhile
    except OSError:
        return None
    return total


def _free(store: Path) -> int | None:
    try:
        disk = os.statvfs(store)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize
