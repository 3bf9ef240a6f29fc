"""Where does everything lie on disk? Paths, table names and the hour, nothing that does work."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOUR_NS: Final = 3_600_000_000_000

KEPT: Final = ("devices", "sensors", "domains", "boots")
"""Tables that stay in hot.duckdb for ever, and are sealed as well; a union of both needs DISTINCT."""

TABLES: Final = (
    "samples", "counters", "conditions", "gaps", *KEPT, "clocks", "markers", "runs_log", "stages_log",
    "energies", "shares", "metrics", "artifacts", "artifact_uses",
)  # fmt: skip

DATED: Final = ("samples", "counters", "conditions", "shares", "clocks", "markers")
"""Tables whose old days go: what was measured. What was learnt of it (runs, energies, gaps …) stays."""

DAY_FILE: Final = "day.parquet"
"""All rows of a table's day, in place of its hours."""

MONTH_FILE: Final = "month.parquet"
"""All rows of a table's month, in place of its days: a year of day files takes 2.5 s to open."""

THIN_FILE: Final = "thin.parquet"
"""A day's samples thinned to one a second, in place of all others of that day."""

DROPPED: Final = "dropped"
"""Its presence in a day's or month's folder says: too old, nothing here counts, unlinked soon."""

_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_FOLDER: Final = re.compile(r"day=\d{4}-\d\d-\d\d|month=\d{4}-\d\d")
_HOUR_FILE: Final = re.compile(r"\d\d\.parquet")


@dataclass(frozen=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def catalogue(self) -> Path:
        """Views and macros for any DuckDB tool."""
        return self.root / "energy.duckdb"

    @property
    def hot(self) -> Path:
        """The daemon's own file: the current hour."""
        return self.root / "hot.duckdb"

    @property
    def lock(self) -> Path:
        """Flocked by the daemon; its text says who."""
        return self.root / "lock"

    def live(self, table: str, hour: int, generation: int) -> str:
        """Path of a live file, relative to the store."""
        return f"live/{table}-{hour}.{generation}.parquet"

    def sealed(self, table: str, hour: int) -> str:
        """Path of a sealed file, relative to the store; day and hour in UTC."""
        at = dt.datetime.fromtimestamp(hour * 3600, tz=dt.timezone.utc)
        return f"sealed/{table}/day={at:%Y-%m-%d}/{at:%H}.parquet"


def hour_of_sealed(path: str) -> int:
    """The hour (t_ns // HOUR_NS) that a sealed file's relative path names; of a longer one's, the last."""
    _, _, folder, name = path.rsplit("/", 3)
    return end_hour(folder) - (24 - int(name[:2]) if is_hour_file(name) else 1)


def is_folder(name: str) -> bool:
    """Whether a folder's name is one of a day (`day=2026-11-24`) or of a month (`month=2026-11`)."""
    return _FOLDER.fullmatch(name) is not None


def month_of(folder: str) -> str:
    """The folder of the month that a day lies in; a month's own."""
    return f"month={folder.partition('=')[2][:7]}"


def end_hour(folder: str) -> int:
    """The first hour after the day or month that a folder is of, UTC."""
    kind, _, text = folder.partition("=")
    if kind == "day":
        after = dt.date.fromisoformat(text).toordinal() + 1
    else:  # 31 days after its first it is the next month, on the 4th at the latest
        after = (dt.date.fromisoformat(f"{text}-01") + dt.timedelta(days=31)).replace(day=1).toordinal()
    return (after - _EPOCH_DAY) * 24


def is_hour_file(name: str) -> bool:
    """Whether a sealed file holds one hour, and not a whole day."""
    return _HOUR_FILE.fullmatch(name) is not None


def names_in(folder: str | Path) -> set[str]:
    """What lies in a folder; nothing if there is none. Raises OSError. A year has thousands: no Path each."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return set()


def counting(names: set[str]) -> list[str]:
    """Which files of one day's or month's folder count, sorted; each of the others repeats what these hold.

    One rule for every reader, so that a crash between writing one file and unlinking those it stands for
    shows nobody a row twice: dropped, else whole month, else thinned, else whole day, else hours.
    """
    if DROPPED in names:
        return []
    for whole in (MONTH_FILE, THIN_FILE, DAY_FILE):
        if whole in names:
            return [whole]
    return sorted(filter(is_hour_file, names))


def folders_counting(root: Path, table: str) -> list[str]:
    """Which of a table's days and months count, oldest first: a day not beside its month's one file.

    That file appears by one rename, and the days go 10 minutes after it: nobody sees both, or neither.
    """
    folder = f"{root}/sealed/{table}"
    names = {name for name in names_in(folder) if is_folder(name)}
    whole = {MONTH_FILE, DROPPED}
    months = {name for name in names if name == month_of(name) and names_in(f"{folder}/{name}") & whole}
    return sorted((name for name in names if name in months or month_of(name) not in months), key=end_hour)


def makes_a_month(table: str, names: Sequence[str]) -> bool:
    """Whether a month's files of a table, all over, are to become one: samples only once thinned."""
    return len(names) > 1 and set(names) == {THIN_FILE if table == "samples" else DAY_FILE}
