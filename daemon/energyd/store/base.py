"""How do the store's files become SQL? One relation `raw_<table>` per table, then the views on top.

Used by both doors: `read` (a user's process: sealed + live + tail) and `catalogue` (any DuckDB tool).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import duckdb

from energyd.store import DATED, TABLES, counting, folders_counting, hour_of_sealed, names_in
from energyd.store.columns import SCHEMA_SQL, schema
from energyd.store.needed import HERE, definitions

ROW_GROUP: Final = 245_760
"""Rows between two zone maps of a day's file: 82 minutes of one device at 50 Hz. Of 1 B samples in 29 files,
one minute is found in 0.04 s; half as many rows in a group take 0.07 s, for all zone maps are looked at."""
COMMENT_FILE: Final = "comments.sql"
PASSED_ON: Final = {"runs_log": "runs", "stages_log": "stages"}
"""Tables whose view has another name; their columns keep the comments of schema.sql."""


def sealed_files(store: Path, before_hour: int | None) -> dict[str, list[str]]:
    """Sealed files of hours below `before_hour` (None: all), relative to the store, oldest first.

    A sealed file of an hour not yet moved on in hot.duckdb is half of a seal that died: its rows are
    still in hot.duckdb. Raises PermissionError where a folder may not be read.
    """
    found: dict[str, list[str]] = {}
    for table in TABLES:
        folders = folders_counting(store, table)
        paths = [path for folder in folders for path in files_of(store, table, folder)]
        found[table] = [p for p in paths if before_hour is None or hour_of_sealed(p) < before_hour]
    return found


def files_of(store: Path, table: str, folder: str) -> list[str]:
    """The files of one table's day or month that count, relative to the store, oldest first."""
    names = names_in(f"{store}/sealed/{table}/{folder}")
    return [f"sealed/{table}/{folder}/{name}" for name in counting(names)]


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [repr(error)])[0]


def quoted(text: str | Path) -> str:
    """A string literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def parquet(store: Path, paths: Sequence[str], *, same_columns: bool = False) -> str:
    """The relation that reads these files; DuckDB takes *, ? and [ in a path for a pattern.

    `same_columns` spares opening each file to ask for its columns.
    """
    full = (quoted(re.sub(r"([\[*?])", r"[\1]", str(store / p))) for p in paths)
    return f"read_parquet([{', '.join(full)}], hive_partitioning = false, union_by_name = {not same_columns})"


def raw_view(table: str, relations: Sequence[str]) -> str:
    """The statement that makes `raw_<table>` the union of relations; empty but typed without any.

    Files of an older release lack the columns that have come since: they read as NULL.
    """
    columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in schema()[table])
    nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in schema()[table])
    typed = f"SELECT {nulls} WHERE false"
    if table == "samples" and relations:  # its columns never change, and a plain scan of it is pruned best
        rows = " UNION ALL ".join(f"SELECT {columns} FROM {relation}" for relation in relations)
    else:
        chain = " UNION ALL BY NAME ".join([typed, *(f"FROM {relation}" for relation in relations)])
        rows = f"SELECT {columns} FROM ({chain})"
    return f"CREATE OR REPLACE VIEW raw_{table} AS {rows}"


def create_views(con: duckdb.DuckDBPyConnection) -> None:
    """All views and macros, on raw_ relations that exist already."""
    for statement in definitions().values():
        con.execute(statement)


def lake_rows(table: str, relation: str | None) -> str:
    """The question for `raw_<table>` of a lake, from a relation that has its columns, host and day.

    Its devices are numbers of the whole lake: a host's place among all of them, times 256, plus his own.
    """
    parts = ["host::VARCHAR AS host", *(["day::DATE AS day"] if table in DATED else [])]
    for name, kind in schema()[table]:
        if name == "device":
            parts.append("(enum_code(host::lake_host)::INTEGER * 256 + device)::INTEGER AS device")
        elif name == "devices":
            whole = "enum_code(host::lake_host)::INTEGER * 256"
            parts.append(f"list_transform(devices, lambda d: ({whole} + d)::INTEGER) AS devices")
        else:
            parts.append(f"{name}::{kind} AS {name}")
    if relation is None:
        nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in schema()[table])
        relation = f"(SELECT NULL::VARCHAR AS host, NULL::DATE AS day, {nulls} WHERE false)"
    return f"SELECT {', '.join(parts)} FROM {relation}"


def create_comments(con: duckdb.DuckDBPyConnection) -> None:
    """What each view and column means: from comments.sql, and from schema.sql where a view passes it on."""
    con.execute((HERE / COMMENT_FILE).read_text())
    have = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        " AND database_name = current_database() AND schema_name = 'main'"
    ).fetchall()
    known = _schema_comments()
    for view, column in have:
        if (text := known.get((view, column))) is not None:
            con.execute(f"COMMENT ON COLUMN {view}.{column} IS {quoted(text)}")


@cache
def _schema_comments() -> Mapping[tuple[str, str], str]:
    """{(view, column): comment} from schema.sql, read as text for the reason that `schema` is."""
    found = re.findall(r"^COMMENT ON COLUMN (\w+)\.(\w+) IS '(.*)';$", SCHEMA_SQL, re.MULTILINE)
    return {(PASSED_ON.get(t, t), c): text.replace("''", "'") for t, c, text in found}
