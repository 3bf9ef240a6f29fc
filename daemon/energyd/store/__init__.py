"""Where does everything lie on disk? Paths, table names and the hour, nothing that does work."""

from __future__ import annotations

import datetime as dt
import os
import re
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


DAY_FILE: Final = "day.parquet"
"""All rows of a table's day, in place of its hours."""

THIN_FILE: Final = "thin.parquet"
"""A day's samples thinned to one a second, in place of all others of that day."""

DROPPED: Final = "dropped"
"""Its presence in a day's folder says: too old, nothing here counts, unlinked soon."""

_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
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
    """The hour (t_ns // HOUR_NS) that a sealed file's relative path names; of a day's file, the last one."""
    _, _, day, name = path.rsplit("/", 3)
    hour = int(name[:2]) if is_hour_file(name) else 23
    return (dt.date.fromisoformat(day[4:]).toordinal() - _EPOCH_DAY) * 24 + hour


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
    """Which files of one day's folder count, sorted; each of the others repeats what these hold.

    One rule for every reader, so that a crash between writing one file and unlinking those it stands for
    shows nobody a row twice: dropped, else thinned, else whole day, else hours.
    """
    if DROPPED in names:
        return []
    for whole in (THIN_FILE, DAY_FILE):
        if whole in names:
            return [whole]
    return sorted(filter(is_hour_file, names))
