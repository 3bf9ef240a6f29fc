"""How do Python rows become DuckDB columns? Types come from schema.sql, the only home of tables."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

SCHEMA_SQL = (Path(__file__).parent / "schema.sql").read_text()
_LIST_MARK = "\x1f"
_TAKES_MASKS = int(duckdb.__version__.split(".")[0]) >= 2
"""DuckDB 1.5 reads a masked array's hidden values as if they were not masked: NULL would be 0."""
_INTS = {"UTINYINT", "SMALLINT", "INTEGER", "BIGINT"}


@cache
def schema() -> dict[str, list[tuple[str, str]]]:
    """{table: [(column, type), …]} in the order of schema.sql.

    Read from its text, which has one table a line: a DuckDB of its own, to be asked what it made of that
    text, takes longer than most answers (100 ms of a core).
    """
    return {
        table: [(name, kind) for name, _, kind in (column.partition(" ") for column in columns.split(", "))]
        for table, columns in re.findall(r"^CREATE TABLE (\w+) \((.*)\);$", SCHEMA_SQL, re.MULTILINE)
    }


def to_numpy(columns: list[tuple[str, str]], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows as a dict of numpy columns, which DuckDB scans far faster than parameters (4 µs a row)."""
    import numpy as np  # a fifth of what `energyq` takes to start; a store without a daemon needs none

    out: dict[str, Any] = {}
    for i, (name, kind) in enumerate(columns):
        values = [r[i] for r in rows]
        if kind in _INTS or kind == "DOUBLE":
            dtype = np.float64 if kind == "DOUBLE" else np.int64
            mask = [v is None for v in values]
            if any(mask) and not _TAKES_MASKS:
                out[name] = np.array(values, dtype=object)
                continue
            plain = np.array([0 if v is None else v for v in values], dtype)
            out[name] = np.ma.masked_array(plain, mask) if any(mask) else plain
        elif kind.endswith("[]"):  # a mark before each value: an empty list is not a list of one empty text
            texts = [None if v is None else "".join(f"{_LIST_MARK}{each}" for each in v) for v in values]
            out[name] = np.array(texts, dtype=object)
        else:
            out[name] = np.array(values, dtype=object)
    return out


def inserted(columns: list[tuple[str, str]]) -> str:
    """The SELECT list of `to_numpy`'s columns for INSERT, which casts to the table's types by itself.

    Told to cast each column, DuckDB takes a fifth longer for 34 energies (3.7 ms, not 3.0), to plan that.
    """
    return ", ".join(f"{_expression(name, kind)} AS {name}" for name, kind in columns)


def casts(columns: list[tuple[str, str]]) -> str:
    """The same where there is no table to say the types."""
    return ", ".join(f"({_expression(name, kind)})::{kind} AS {name}" for name, kind in columns)


def _expression(name: str, kind: str) -> str:
    return f"string_split({name}::VARCHAR, '{_LIST_MARK}')[2:]" if kind.endswith("[]") else name
