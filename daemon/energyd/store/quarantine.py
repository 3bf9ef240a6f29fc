"""Which rows can no column of the store take? Set aside with the reason, so that the others get in."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import duckdb

from energyd.store import Layout
from energyd.store.columns import casts, schema, to_numpy

log = logging.getLogger("energyd")

QUARANTINE: Final = "quarantine.jsonl"
"""In the store's folder, a line a row: t_ns of the commit, table, row and why."""

UNCONVERTIBLE: Final = (
    duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException,
    OverflowError, TypeError, ValueError, IndexError,
)  # fmt: skip
"""What numpy and DuckDB raise of a value that does not fit its column, and never of a full disk."""

SHAPES: Final = {"open_runs": "runs_log", "open_stages": "stages_log"}
"""Tables of hot.duckdb with another's columns."""

Rows = list[tuple[Any, ...]]


def quarantine(layout: Layout, tables: Mapping[str, Rows], why: str, now_ns: int) -> dict[str, set[int]]:
    """Write every row that cannot be converted to the file; which they are: {table: indices}. Raises OSError.

    Tried in a database of its own: what is wrong with the store's must not be blamed on a row.
    """
    found: dict[str, set[int]] = {}
    reason = (why.splitlines() or [""])[0]
    with duckdb.connect(config={"threads": 1}) as con:
        for table, rows in tables.items():
            if bad := _bad(con, schema()[SHAPES.get(table, table)], rows):
                found[table] = bad
    for table, bad in found.items():
        facts = {"t_ns": now_ns, "table": table, "why": reason}
        lines = [
            json.dumps({**facts, "row": [repr(v) for v in tables[table][i]]}) + "\n" for i in sorted(bad)
        ]
        fd = os.open(layout.root / QUARANTINE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        with os.fdopen(fd, "w") as file:
            file.writelines(lines)
        log.error("store: %d rows of %s are in %s: %s", len(bad), table, QUARANTINE, reason)
    return found


def _bad(con: duckdb.DuckDBPyConnection, columns: list[tuple[str, str]], rows: Rows) -> set[int]:
    """Which rows fail; by halves, as most are good."""
    if not rows or _fits(con, columns, rows):
        return set()
    if len(rows) == 1:
        return {0}
    half = len(rows) // 2
    behind = _bad(con, columns, rows[half:])
    return _bad(con, columns, rows[:half]) | {half + i for i in behind}


def _fits(con: duckdb.DuckDBPyConnection, columns: list[tuple[str, str]], rows: Rows) -> bool:
    try:
        fresh = to_numpy(columns, rows)  # noqa: F841 (DuckDB reads the local variable by its name)
        con.execute(f"CREATE OR REPLACE TABLE tried AS SELECT {casts(columns)} FROM fresh")
    except UNCONVERTIBLE:
        return False
    return True
