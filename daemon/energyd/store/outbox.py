"""Which sealed files wait to be shipped? Hard links in STORE/outbox: no room while the store has them.

    outbox/<table>/day=<day>/<name>.parquet      waits; `.parquet.1s`: thinned already
    outbox/refused/…                             the lake would not take it, and never will
    outbox/state.json                            up to which hour the store was looked through, what is owed

`collect` links and then writes the state, so that a kill in between links again what may be shipped already,
which a lake knows by its name. Above its budget the oldest measurements go first; their days are owed, and
come as one file from the store once there is room. Raises OSError where the disk refuses; then nothing is
forgotten.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from energyd.store import (
    DATED,
    DAY_FILE,
    KEPT,
    TABLES,
    THIN_FILE,
    counting,
    end_hour,
    is_hour_file,
    names_in,
)
from energyd.store.durable import sync
from energyd.store.sums import digest

FOLDER: Final = "outbox"
REFUSED: Final = "refused"
THINNED: Final = ".1s"
Each = Literal["hour", "day"]


@dataclass
class State:
    """What the outbox knows beside the files in it."""

    next_hour: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the last file of each of KEPT, which are sealed each hour though nothing is new."""
    owed: list[str] = field(default_factory=list)
    """`table/day=…` of which something was dropped here, or was in a day's file only."""
    dropped_files: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True)
class Waiting:
    """One file that waits."""

    table: str
    day: str
    name: str  # as in the outbox
    size_bytes: int

    @property
    def relative(self) -> str:
        """Its path below the outbox."""
        return f"{self.table}/{self.day}/{self.name}"

    @property
    def final_name(self) -> str:
        """Its name in the lake."""
        return self.name.removesuffix(THINNED)

    @property
    def end_hour(self) -> int:
        """The first hour after those that it is of."""
        ends = end_hour(self.day)
        return ends - 23 + int(self.name[:2]) if is_hour_file(self.final_name) else ends


class Outbox:
    """The outbox of one store. `collect` is for one thread of the daemon; the child only takes files away."""

    def __init__(self, store: Path, budget_bytes: float | None = None, each: Each = "hour") -> None:
        self._store = store
        self.root = store / FOLDER
        self._budget_bytes = budget_bytes
        self._each = each
        self.state = self._read()

    def collect(self, hour: int) -> list[Waiting]:
        """Link what was sealed since, up to `hour` (the first not sealed); all that waits, oldest first."""
        if self._each == "hour":
            self._collect_hours(hour)
        else:
            self._collect_days(hour)
        waiting = self._within_budget(self.waiting())
        if self.state.owed and self._has_room(waiting):
            self._collect_owed()
            waiting = self.waiting()
        return waiting

    def waiting(self) -> list[Waiting]:
        """Everything that waits, oldest first; in an hour measurements last, since they are the largest."""
        found = []
        for table in TABLES:
            for day in names_in(self.root / table):
                for name in names_in(self.root / table / day):
                    if name.removesuffix(THINNED).endswith(".parquet"):
                        with contextlib.suppress(FileNotFoundError):  # shipped meanwhile
                            size = (self.root / table / day / name).stat().st_size
                            found.append(Waiting(table, day, name, size))
        return sorted(found, key=lambda w: (w.end_hour, w.table in DATED, w.relative))

    def path(self, waiting: Waiting) -> Path:
        """Where it lies."""
        return self.root / waiting.relative

    def done(self, waiting: Waiting) -> None:
        """It is in the lake."""
        self.path(waiting).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others of that day wait
            self.path(waiting).parent.rmdir()

    def refuse(self, waiting: Waiting) -> None:
        """Put a file aside that will never be taken."""
        aside = self.root / REFUSED / waiting.relative
        aside.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.path(waiting).replace(aside)

    def refused(self) -> int:
        """How many were put aside."""
        return sum(1 for _ in (self.root / REFUSED).glob("*/*/*"))

    # ---- in ------------------------------------------------------------------------------------------

    def _collect_hours(self, hour: int) -> None:
        since = self.state.next_hour
        if hour <= since:
            return
        for table, day, names in self._days(since):
            begins = end_hour(day) - 24
            hours = [n for n in names if is_hour_file(n) and since <= begins + int(n[:2]) < hour]
            if hours:  # until 10 minutes after they have become one file
                for name in sorted(hours):
                    self._link(table, day, name)
            elif end_hour(day) <= hour and (whole := _whole(names)) is not None:
                self._link(table, day, whole)  # nobody shipped while they were hours
        self._looked_through(hour)

    def _collect_days(self, hour: int) -> None:
        days: dict[int, list[tuple[str, str, str | None]]] = {}
        for table, day, names in self._days(self.state.next_hour):
            if counting(names) and end_hour(day) < hour:
                days.setdefault(end_hour(day), []).append((table, day, _whole(names)))
        for ends, parts in sorted(days.items()):
            if any(whole is None for _, _, whole in parts):
                return  # its hours are still to become one file
            for table, day, whole in parts:
                assert whole is not None
                self._link(table, day, whole)
            self._looked_through(ends)

    def _days(self, since: int) -> list[tuple[str, str, set[str]]]:
        """(table, day, names of its files) of every day that reaches beyond an hour."""
        found = []
        for table in TABLES:
            folder = self._store / "sealed" / table
            for day in sorted(names_in(folder)):
                if day.startswith("day=") and end_hour(day) > since:
                    found.append((table, day, names_in(folder / day)))
        return found

    def _link(self, table: str, day: str, name: str) -> None:
        source = self._store / "sealed" / table / day / name
        if table in KEPT:
            found = digest(source)
            if self.state.kept.get(table) == found:
                return
            self.state.kept[table] = found
        target = self.root / table / day / name
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(source, target)
        sync(target.parent)

    def _looked_through(self, hour: int) -> None:
        self.state.next_hour = hour
        self._write()

    # ---- budget ----------------------------------------------------------------------------------------

    def _within_budget(self, waiting: list[Waiting]) -> list[Waiting]:
        """Drop the oldest, measurements before what was learnt of them, until what is left has room."""
        if self._budget_bytes is None:
            return waiting
        total = sum(w.size_bytes for w in waiting)
        gone: set[str] = set()
        for one in sorted(waiting, key=lambda w: (w.table not in DATED, w.end_hour)):
            if total <= self._budget_bytes:
                break
            total -= one.size_bytes
            gone.add(one.relative)
            self.state.dropped_files += 1
            self.state.dropped_bytes += one.size_bytes
            day = f"{one.table}/{one.day}"
            if day not in self.state.owed:
                self.state.owed.append(day)
        if gone:
            self._write()  # first: what is unlinked must be owed
            for one in waiting:
                if one.relative in gone:
                    self.path(one).unlink(missing_ok=True)
        return [w for w in waiting if w.relative not in gone]

    def _has_room(self, waiting: list[Waiting]) -> bool:
        """Whether the lake takes things again."""
        return not waiting

    def _collect_owed(self) -> None:
        """Link the oldest day of which something was dropped, as the one file that stands for all of it."""
        for day in sorted(self.state.owed, key=lambda d: d.partition("/")[2]):
            table, _, folder = day.partition("/")
            names = names_in(self._store / "sealed" / table / folder)
            if names and _whole(names) is None:
                continue  # its day goes on
            if (whole := _whole(names)) is not None:
                self._link(table, folder, whole)
            self.state.owed.remove(day)  # or the store has dropped it meanwhile, too
            self._write()
            return

    # ---- state -----------------------------------------------------------------------------------------

    def _read(self) -> State:
        try:
            found: dict[str, Any] = json.loads((self.root / "state.json").read_text())
            return State(**found)
        except (FileNotFoundError, ValueError, TypeError):
            return State()  # everything is linked again, which a lake knows by its name

    def _write(self) -> None:
        self.root.mkdir(mode=0o750, exist_ok=True)
        aside = self.root / "state.json.new"
        aside.write_text(json.dumps(asdict(self.state)))
        sync(aside)
        aside.replace(self.root / "state.json")
        sync(self.root)


def _whole(names: set[str]) -> str | None:
    """The one file that stands for a day, if there is one that counts."""
    found = counting(names)
    return found[0] if found and found[0] in (DAY_FILE, THIN_FILE) else None
