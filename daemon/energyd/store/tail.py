"""What came after the files? The daemon's hot tail, or a copy of hot.duckdb when no daemon lives.

Both end as the schema `hot` of the reader's own connection, one relation per table. A reader holds the
store's lock, shared, only while it copies: a daemon must always be able to start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from energyd.store import Layout
from energyd.store.base import quoted, sealed_files
from energyd.store.columns import inserted, schema, to_numpy
from energyd.store.lock import read_holder
from energyd.store.read_errors import DaemonUnresponsive, StoreForbidden, StoreNotFound

ANSWER_WITHIN_S: Final = 6.0
"""A daemon may be starting (it locks before it listens) or just ending; then it is asked again."""
ASK_TIMEOUT_S: Final = 3.0
OPEN_ROWS: Final = {"runs_log": "open_runs", "stages_log": "open_stages"}
"""Tables of hot.duckdb that hold the rows still open, with the columns of the table named first."""


@dataclass(frozen=True)
class Parts:
    """Where each table's rows are now."""

    source: str  # daemon | files
    sealed: Mapping[str, list[str]]  # relative to the store
    live: Mapping[str, str]
    hot: Mapping[str, list[str]]  # relations of this connection


def gather(con: duckdb.DuckDBPyConnection, layout: Layout, endpoint: str | None, scratch: Path) -> Parts:
    """Load what is newer than the files into `con`, from the daemon if one holds the lock.

    Raises StoreNotFound, StoreForbidden, DaemonUnresponsive, OSError.
    """
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        copied = _copy_hot(layout, scratch)
        if copied is not None:
            return _from_files(con, layout, copied)
        answer, why = _ask(layout, endpoint)
        if answer is not None:
            return _from_daemon(con, answer)
        if time.monotonic() > deadline:
            raise DaemonUnresponsive(layout.root, endpoint or read_holder(layout.lock).get("endpoint"), why)
        time.sleep(0.05)


def _ask(layout: Layout, endpoint: str | None) -> tuple[dict[str, Any] | None, str]:
    """(the daemon's hot tail, "") or (None, why not)."""
    from energyd_client.errors import DaemonAbsent, DaemonTimeout, EnergydError, PermissionRefused
    from energyd_client.protocol import AskTail
    from energyd_client.request import ask

    address = endpoint or read_holder(layout.lock).get("endpoint")
    if not isinstance(address, str):
        return None, "it has not said yet where it listens"
    try:
        return ask(address, AskTail(req=1), ASK_TIMEOUT_S), ""
    except (DaemonAbsent, DaemonTimeout) as error:
        return None, str(error).splitlines()[0]
    except PermissionRefused as error:
        raise StoreForbidden(address) from error
    except EnergydError as error:  # another protocol version; asking again will not help
        raise DaemonUnresponsive(layout.root, address, str(error).splitlines()[0]) from error


def _from_daemon(con: duckdb.DuckDBPyConnection, answer: dict[str, Any]) -> Parts:
    """Tables `hot.<table>` from the reply."""
    import numpy as np  # as in columns.py

    con.execute("CREATE SCHEMA IF NOT EXISTS hot")
    for table, columns in schema().items():
        con.execute(f"CREATE OR REPLACE TABLE hot.{table} ({', '.join(f'{n} {k}' for n, k in columns)})")
    for device, column in answer["samples"].items():
        arrays = {
            "t_ns": np.frombuffer(column["t_ns"], "<i8"),
            "power_mw": np.frombuffer(column["power_mw"], "<i4"),
            "cum_uj": np.frombuffer(column["cum_uj"], "<i8"),
        }
        con.register("tail_samples", arrays)
        con.execute(
            "INSERT INTO hot.samples SELECT $device, t_ns, power_mw, cum_uj FROM tail_samples",
            {"device": int(device)},
        )
        con.unregister("tail_samples")
    for table, rows in answer["rows"].items():
        if rows and table in schema():
            columns = schema()[table]
            con.register("tail_rows", to_numpy(columns, rows))
            con.execute(f"INSERT INTO hot.{table} BY NAME SELECT {inserted(columns)} FROM tail_rows")
            con.unregister("tail_rows")
    hot = {table: [f"hot.{table}"] for table in schema()}
    return Parts("daemon", answer["sealed"], answer["live"], hot)


def _copy_hot(layout: Layout, scratch: Path) -> Path | None:
    """Copy hot.duckdb and its log into a new folder; None if a daemon holds the lock.

    Without hot.duckdb (only sealed files were unpacked here) the folder stays empty.
    """
    try:
        fd = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = None  # a store that was copied here without its lock: no daemon
    try:
        if fd is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        folder = Path(tempfile.mkdtemp(dir=scratch))
        # Beside hot.duckdb and .wal, a kill within a checkpoint leaves a second log that belongs to them.
        for file in layout.root.glob(f"{layout.hot.name}*"):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        return folder
    finally:
        if fd is not None:
            os.close(fd)


def _from_files(con: duckdb.DuckDBPyConnection, layout: Layout, folder: Path) -> Parts:
    """Attach the copy of hot.duckdb as `hot`; the live files repeat what it holds, so they are left out."""
    copy = folder / layout.hot.name
    if not copy.exists():
        if not (layout.root / "sealed").is_dir():
            raise StoreNotFound(layout.root, "the folder has neither hot.duckdb nor sealed files")
        return Parts("files", sealed_files(layout.root, None), {}, {})
    con.execute(f"ATTACH {quoted(copy)} AS hot (READ_ONLY)")
    have = {
        name
        for (name,) in con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'hot'"
        ).fetchall()
    }
    if "meta" not in have:  # a daemon died before its first commit
        return Parts("files", sealed_files(layout.root, None), {}, {})
    row = con.execute("SELECT v FROM hot.meta WHERE k = 'hour'").fetchone()
    hour = int(row[0]) if row else None
    hot = {
        table: [f"hot.{name}" for name in (table, OPEN_ROWS.get(table, "")) if name in have]
        for table in schema()
    }
    return Parts("files", sealed_files(layout.root, hour), {}, hot)
