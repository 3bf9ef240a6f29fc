"""How does analysis get at a store? Through `open_reader`, the only door.

The reader is a DuckDB in the asker's own process: it shares no lock with the daemon and can harm nothing.
While a daemon lives it names the exact files and hands over what is newer; files are never globbed then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import duckdb

from energyd.store import TABLES, Layout
from energyd.store.asked import explained, only_questions, vanished
from energyd.store.base import create_comments, parquet, raw_view
from energyd.store.damage import damaged_among
from energyd.store.needed import definitions, needed
from energyd.store.read_errors import (
    DaemonUnresponsive,
    LakeAway,
    LakeForbidden,
    LakeUnusable,
    QueryFailed,
    QueryMalformed,
    ReadError,
    StoreForbidden,
    StoreNotFound,
    StoreUnreadable,
)
from energyd.store.tail import OPEN_ROWS, Parts, gather
from energyd_client.endpoints import default_store

__all__ = [
    "DaemonUnresponsive", "LakeAway", "LakeForbidden", "LakeUnusable", "QueryFailed", "QueryMalformed",
    "ReadError", "Reader", "Result", "StoreForbidden", "StoreNotFound", "StoreUnreadable", "default_store",
    "open_lake", "open_reader",
]  # fmt: skip

TRIES: Final = 4
"""A live file lives 10 minutes, a tail's file list one reply: a file gone in between is asked for anew."""
BATCH_ROWS: Final = 2_000


@dataclass(frozen=True)
class Result:
    """Rows of one query, streamed. The next query on the same reader ends it."""

    columns: list[str]
    types: list[str]  # DuckDB's names: BIGINT, DOUBLE, VARCHAR …
    rows: Iterator[tuple[Any, ...]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return list(self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """All rows that are left, as {column: value}."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Reader:
    """A store, open for questions. Use it in a `with`, or call `close`."""

    _of_lake = False

    def __init__(self, store: Path, endpoint: str | None) -> None:
        self.store: Path | str = store  # of a lake: its address
        self._layout = Layout(store)
        self._endpoint = endpoint
        self.left_out: dict[str, str] = {}
        """Damaged files, relative to the store, whose rows no answer holds; and why."""
        self._made: set[str] = set()
        """Relations, views and macros made so far: those that questions named."""
        self._scratch = tempfile.TemporaryDirectory(prefix="energyq-")
        # One thread: a training job lives on this machine too. No extension is ever fetched.
        self._con = duckdb.connect(
            config={"threads": 1, "autoinstall_known_extensions": False, "python_enable_replacements": False,
                    "allow_persistent_secrets": False}
        )  # fmt: skip
        # A year is thousands of files, each asked often.
        self._con.execute("SET parquet_metadata_cache = true")
        self._con.execute("SET enable_progress_bar = false")  # it would be drawn into the answer
        try:
            self._parts = self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Parts:
        """Learn where the rows are; views are made when a question names them."""
        return self._load()

    @property
    def source(self) -> str:
        """`daemon` (files and what the daemon holds since), `files` (no daemon lives) or `lake`."""
        return self._parts.source

    @property
    def newest_t_ns(self) -> int | None:
        """Store time of the newest sample, ns; None without any."""
        query = "SELECT max(t_ns) FROM raw_samples"
        self._make(query)
        row = self._con.execute(query).fetchone()
        value = row[0] if row else None
        return None if value is None else int(value)

    def sql(self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> Result:
        """Run SQL ($name or ? parameters) and stream its rows; of several statements, the last one's.

        Raises QueryMalformed, QueryFailed, StoreUnreadable, StoreForbidden, DaemonUnresponsive.
        """
        for left in reversed(range(TRIES)):
            try:
                statements = only_questions(self._con, query)
                self._make(query)
                for number, statement in enumerate(statements, 1):
                    self._run(statement, params if number == len(statements) else None)
                description = (self._con.description or []) if statements else []
                head = self._con.fetchmany(BATCH_ROWS) if description else []
                break
            except duckdb.Error as error:
                if not (left and (vanished(error) or self._leave_out(error, self._parts))):
                    raise self._explained(error) from error
                self._reload()
        return Result([d[0] for d in description], [str(d[1]) for d in description], self._stream(head))

    def write_parquet(self, query: str, path: Path, params: Mapping[str, Any] | None = None) -> None:
        """Write the rows of one SELECT to a Parquet file. Raises as `sql` does."""
        try:
            only_questions(self._con, query)
            self._make(query)
            with self._con.cursor() as con:  # its own: another answer may not be read to its end
                con.sql(query, params=params).write_parquet(str(path), compression="zstd")
        except duckdb.Error as error:
            if isinstance(error, duckdb.CatalogException) and self._make(None):
                return self.write_parquet(query, path, params)
            raise self._explained(error) from error

    def views(self) -> list[tuple[str, str, str, str, str]]:
        """(view, what it holds, column, type, what the column holds) of all that analysis may rely on."""
        self._make(None)
        create_comments(self._con)
        return self._con.execute(
            "SELECT view_name, coalesce(v.comment, ''), column_name, data_type, coalesce(c.comment, '')"
            " FROM duckdb_columns() c JOIN duckdb_views() v"
            " ON v.view_name = c.table_name AND v.database_name = c.database_name"
            " AND v.schema_name = c.schema_name"
            " WHERE NOT v.internal AND v.schema_name = 'main' AND NOT starts_with(view_name, 'raw_')"
            " ORDER BY view_name, column_index"
        ).fetchall()

    def close(self) -> None:
        """Forget everything, and the copy of hot.duckdb with it."""
        self._con.close()
        self._scratch.cleanup()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, query: str | None) -> bool:
        """Make what a question names and is not there yet (None: everything); whether anything was.

        Raises StoreUnreadable, StoreForbidden, DaemonUnresponsive.
        """
        lacking = [name for name in needed(query, lake=self._of_lake) if name not in self._made]
        for left in reversed(range(TRIES)):
            try:
                for name in lacking:
                    if name not in self._made:
                        made = definitions(lake=self._of_lake).get(name)
                        self._con.execute(made or self._raw_view(name))
                        self._made.add(name)
                break
            except duckdb.Error as error:
                if not (left and (vanished(error) or self._leave_out(error, self._parts))):
                    raise self._explained(error, opening=True) from error
                self._reload()
        return bool(lacking)

    def _raw_view(self, name: str, parts: Parts | None = None) -> str:
        table = name.removeprefix("raw_")
        return raw_view(table, self._relations(table, parts or self._parts))

    def _run(self, statement: duckdb.Statement, params: Mapping[str, Any] | Sequence[Any] | None) -> None:
        """Run one statement. A name that DuckDB does not know gets its hint from all names that there are."""
        try:
            self._con.execute(statement, params)
        except duckdb.CatalogException:
            if not self._make(None):
                raise
            self._con.execute(statement, params)

    def _stream(self, head: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        try:
            while head:
                yield from head
                head = self._con.fetchmany(BATCH_ROWS)
        except duckdb.Error as error:
            raise self._explained(error) from error

    def _load(self) -> Parts:
        """Load what is newer than the files, and make anew the raw_ relations that are in use.

        A file that vanishes meanwhile means the list is old: ask again.
        """
        parts = None
        for left in reversed(range(TRIES)):
            try:
                parts = gather(self._con, self._layout, self._endpoint, Path(self._scratch.name))
                for name in [f"raw_{table}" for table in TABLES if f"raw_{table}" in self._made]:
                    self._con.execute(self._raw_view(name, parts))
                break
            except PermissionError as error:
                raise StoreForbidden(error.filename or str(self.store)) from error
            except OSError as error:
                if not left:
                    raise StoreUnreadable(self.store, f"{error.strerror}: {error.filename}") from error
            except duckdb.Error as error:
                if not (left and (vanished(error) or self._leave_out(error, parts))):
                    raise self._explained(error, opening=True) from error
            self._forget()
        assert parts is not None
        return parts

    def _leave_out(self, error: duckdb.Error, parts: Parts | None) -> bool:
        """Find the damaged files behind an error and do without them; False if it is no such error."""
        if parts is None:
            return False
        paths = {p for table in parts.sealed.values() for p in table} | set(parts.live.values())
        found = damaged_among(self._layout.root, sorted(paths - self.left_out.keys()), error)
        self.left_out |= found
        return bool(found)

    def _reload(self) -> None:
        self._forget()
        self._parts = self._load()

    def _explained(self, error: duckdb.Error, *, opening: bool = False) -> ReadError:
        """DuckDB's error as one of ours."""
        return explained(error, self.store, opening=opening)

    def _forget(self) -> None:
        """Drop the old hot tail, whichever kind it is."""
        self._con.execute("DETACH DATABASE IF EXISTS hot")
        self._con.execute("DROP SCHEMA IF EXISTS hot CASCADE")

    def _relations(self, table: str, parts: Parts) -> list[str]:
        """Where the rows of a table are: sealed, live, hot. A live row that says `open` is the older one."""
        relations = []
        if sealed := [p for p in parts.sealed.get(table, ()) if p not in self.left_out]:
            relations.append(parquet(self._layout.root, sealed, same_columns=table == "samples"))
        if table in parts.live and parts.live[table] not in self.left_out:
            live = parquet(self._layout.root, [parts.live[table]])
            if table in OPEN_ROWS:
                # Closed rows stay: a child heard after its run's end opens the run again in the tail.
                key, open_ = "run_id", "t1_ns IS NULL"
                if table == "stages_log":
                    key, open_ = "run_id, stage_id", "state <> 'final'"
                live = f"(FROM {live} WHERE NOT ({open_} AND ({key}) IN (SELECT ({key}) FROM hot.{table})))"
            relations.append(live)
        return relations + list(parts.hot.get(table, []))


def open_reader(store: Path, *, endpoint: str | None = None) -> Reader:
    """Open a store for questions, with or without a living daemon.

    `endpoint`: where to ask the daemon, if not where its lock file says. Raises StoreNotFound,
    StoreForbidden, StoreUnreadable, DaemonUnresponsive.
    """
    store = store.absolute()
    try:
        if not store.is_dir():
            raise StoreNotFound(store, "not a folder" if store.exists() else "there is nothing")
    except PermissionError as error:
        raise StoreForbidden(store) from error
    return Reader(store, endpoint)


def open_lake(url: str, *, keys: Path | None = None) -> Reader:
    """Open a lake of many hosts for questions: a folder, s3://BUCKET/PREFIX or postgresql://HOST/DATABASE.

    `keys`: the file with its credentials, else ENERGYD_LAKE_KEYS or the environment. Raises ReadError.
    """
    from energyd.store.lake_read import open_lake_reader  # S3 and its client only where they are asked for

    return open_lake_reader(url, keys)
