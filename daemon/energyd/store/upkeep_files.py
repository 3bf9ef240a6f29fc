"""How do a day's or month's files become one, samples one a second? A process of its own, new files only.

Run as `python -m energyd.store.upkeep_files STORE FOLDER [--thin]` by `upkeep.Upkeep`: a day of 8 GPUs at
50 Hz is 34.6 M samples, and takes memory and seconds of a core that the daemon has not
(tests/bench/hours.py). It never unlinks what others may read, and a kill leaves a `.tmp` that nobody reads;
what was renamed stands for what it was made of (`store.counting`), and the daemon takes over from there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

import duckdb

from energyd.store import (
    DAY_FILE,
    KEPT,
    MONTH_FILE,
    TABLES,
    THIN_FILE,
    end_hour,
    folders_counting,
    is_hour_file,
    makes_a_month,
    month_of,
)
from energyd.store.base import ROW_GROUP, files_of, first_line, parquet, quoted, sealed_files
from energyd.store.durable import copy_parquet, sync
from energyd.store.sums import altered, missing, place, tidy

MEMORY: Final = "200MB"
_PR_SET_PDEATHSIG: Final = 1

# One sample a second is enough for most questions, and some samples more keep the exact ones exact:
# `last`: the last of each second of each device: its cum_uj holds all energy up to it;
# `around_gap`: both ends of each gap: what lies between them is the gap's;
# `around_edge`: the samples around each edge of each stage: its energy comes out the same to the microjoule.
THIN_SQL: Final = """
WITH raw AS (FROM day_samples WHERE device = $device),
reach AS (
  SELECT coalesce(max(max_step_ns) // 1000000000, 3) + 1 AS s FROM all_devices WHERE device = $device
),
edge AS (
  SELECT DISTINCT t_ns
  FROM (SELECT unnest([t0_ns, t1_ns]) AS t_ns FROM all_energies WHERE device = $device), reach
  WHERE t_ns >= $first_ns - s * 1000000000 AND t_ns <= $last_ns + s * 1000000000
),
near AS (
  SELECT t_ns, unnest(range(t_ns // 1000000000 - s, t_ns // 1000000000 + s + 1)) AS sec FROM edge, reach
),
kept AS (
  SELECT max(t_ns) AS t_ns FROM raw GROUP BY t_ns // 1000000000
  UNION
  SELECT unnest([t0_ns, t1_ns]) FROM all_gaps WHERE device = $device
  UNION
  SELECT unnest([max(r.t_ns) FILTER (r.t_ns <= n.t_ns), min(r.t_ns) FILTER (r.t_ns > n.t_ns)])
  FROM near n JOIN raw r ON r.t_ns // 1000000000 = n.sec GROUP BY n.t_ns
)
INSERT INTO thinned SELECT * FROM raw SEMI JOIN kept USING (t_ns) ORDER BY t_ns
"""


class UpkeepFailed(Exception):
    """A file would not hold what those before it held; nothing was replaced."""


def compact(store: Path, table: str, day: str) -> bool:
    """Write all hours of a table's day to one file, in (device, t_ns) order; False if there is nothing to do.

    Raises OSError, duckdb.Error, UpkeepFailed.
    """
    paths = files_of(store, table, day)
    if not paths or not is_hour_file(Path(paths[0]).name):
        return False
    _join(store, table, paths, day, DAY_FILE)
    return True


def fold(store: Path, table: str, month: str) -> bool:
    """Write all days of a table's month to one file; False if they are not to become one (yet).

    Raises OSError, duckdb.Error, UpkeepFailed.
    """
    days = [day for day in folders_counting(store, table) if month_of(day) == month]
    paths = [path for day in days for path in files_of(store, table, day)]
    if not makes_a_month(table, [Path(path).name for path in paths]):
        return False
    (store / "sealed" / table / month).mkdir(mode=0o750, exist_ok=True)
    _join(store, table, paths, month, MONTH_FILE)
    return True


def _join(store: Path, table: str, paths: list[str], folder: str, name: str) -> None:
    """Write all rows of a table's files to one, samples in (device, t_ns) order."""
    _as_written(store, paths, folder)
    with connect() as con:
        relation = parquet(store, paths, same_columns=table == "samples")
        (before,) = con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0]
        query = f"SELECT {'DISTINCT ' if table in KEPT else ''}* FROM {relation}"
        if table == "samples":
            # Each file is in this order already: device by device there is nothing to sort.
            devices = con.execute(f"SELECT DISTINCT device FROM {relation} ORDER BY 1").fetchall()
            parts = (
                f"SELECT device, t_ns, power_mw, cum_uj FROM {relation} WHERE device = {d}"
                for (d,) in devices
            )
            query = " UNION ALL ".join(parts)
        expected = None if table in KEPT else before
        _write(con, query, store / "sealed" / table / folder / name, expected)


def thin(store: Path, day: str) -> bool:
    """Write a day's samples as one a second, and those around gaps and stages' edges; False: nothing to do.

    Raises OSError, duckdb.Error, UpkeepFailed.
    """
    paths = files_of(store, "samples", day)
    if not paths or paths[0].endswith(THIN_FILE):
        return False
    _as_written(store, paths, day)
    files = sealed_files(store, None)
    with connect() as con:
        con.execute(
            "CREATE VIEW day_samples AS SELECT device, t_ns, power_mw, cum_uj FROM "
            + parquet(store, paths, same_columns=True)
        )
        view_of(con, store, "all_gaps", files["gaps"], "device UTINYINT, t0_ns BIGINT, t1_ns BIGINT")
        view_of(con, store, "all_energies", files["energies"], "device UTINYINT, t0_ns BIGINT, t1_ns BIGINT")
        view_of(con, store, "all_devices", files["devices"], "device UTINYINT, max_step_ns BIGINT")
        con.execute("CREATE TABLE thinned AS FROM day_samples LIMIT 0")
        spans = con.execute("SELECT device, min(t_ns), max(t_ns) FROM day_samples GROUP BY 1 ORDER BY 1")
        for device, first, last in spans.fetchall():  # one at a time: an eighth of the memory
            con.execute(THIN_SQL, {"device": device, "first_ns": first, "last_ns": last})
        (expected,) = con.execute("SELECT count(*) FROM thinned").fetchall()[0]
        _write(con, "FROM thinned", store / "sealed" / "samples" / day / THIN_FILE, expected)
    return True


def _as_written(store: Path, paths: list[str], folder: str) -> None:
    """Refuse to make a day's or month's file of others that have changed, or of fewer than were written.

    It would pass for what was measured, and nobody would miss the others any more.
    """
    wrong = {path: why for path in paths if (why := altered(store, path)) is not None}
    table = paths[0].split("/")[1]
    for path in missing(store, end_hour(folder)):
        _, whose, lies_in, _ = path.split("/")
        if whose == table and folder in (lies_in, month_of(lies_in)):
            wrong[path] = "is gone"
    for path, why in wrong.items():
        raise UpkeepFailed(f"{path} {why}; cure: stop, then `energyd recover`")


def view_of(con: duckdb.DuckDBPyConnection, store: Path, name: str, paths: list[str], columns: str) -> None:
    """A relation of these columns of sealed files; empty without any file."""
    names = ", ".join(c.split()[0] for c in columns.split(", "))
    if paths:
        con.execute(f"CREATE VIEW {name} AS SELECT {names} FROM {parquet(store, paths)}")
    else:
        con.execute(f"CREATE TABLE {name} ({columns})")


def _write(con: duckdb.DuckDBPyConnection, query: str, final: Path, expected: int | None) -> None:
    """Write aside, count what is really there, make it durable, rename."""
    tmp = final.with_suffix(f".{os.getpid()}.tmp")
    try:
        copy_parquet(con, query, tmp, ROW_GROUP)
        (written,) = con.execute(f"SELECT num_rows FROM parquet_file_metadata({quoted(tmp)})").fetchall()[0]
        if expected is not None and written != expected:
            raise UpkeepFailed(f"{final} would hold {written} rows, its parts {expected}")
        sync(tmp)
        place(final.parents[3], str(final.relative_to(final.parents[3])), tmp)
        sync(final.parent)
    finally:
        tmp.unlink(missing_ok=True)


def connect() -> duckdb.DuckDBPyConnection:
    """A database in memory that keeps to its memory, and spills nothing beside the store."""
    con = duckdb.connect(config={"threads": 1, "memory_limit": MEMORY})
    con.execute("SET enable_progress_bar = false")
    con.execute("SET temp_directory = ''")  # fail rather than spill beside the store
    return con


def main(store: Path, folder: str, thinned: bool) -> list[str]:
    """A day or a month, its tables one after another; `thinned`: a day's samples so. What went wrong."""
    os.nice(19)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # ends with the daemon
    failed = []
    for table in TABLES:
        try:
            if folder == month_of(folder):
                fold(store, table, folder)
            elif thinned and table == "samples":
                thin(store, folder)
            else:
                compact(store, table, folder)
        except (OSError, duckdb.Error, UpkeepFailed) as error:  # the other tables can do without this one
            failed.append(f"{table}: {first_line(error)}")
    tidy(store, folder)
    return failed


if __name__ == "__main__":
    os.umask(0o027)
    sys.exit("; ".join(main(Path(sys.argv[1]), sys.argv[2], "--thin" in sys.argv[3:])) or None)
