"""Is this SQL a question, and what does DuckDB's refusal of it mean to who asks?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import duckdb

from energyd.store.read_errors import QueryFailed, QueryMalformed, ReadError, StoreForbidden, StoreUnreadable

ALLOWED: Final = {"SELECT", "EXPLAIN", "MULTI", "CREATE"}
"""Kinds of statement that ask, or (CREATE) stay in the reader's own memory; MULTI is PIVOT."""
ASKS: Final = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*(explain\s*(analyze\b|\([^)]*\))?\s*)?"
    r"(select|from|with|values|table|pivot|unpivot|describe|summarize|show|create|\()",
    re.IGNORECASE | re.DOTALL,
)
"""How such a statement begins: EXPLAIN ANALYZE runs what it explains, and a COPY of a PIVOT is a MULTI."""


def only_questions(con: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    """The statements of a question. One that could write a file, attach one or load code is refused.

    A question must be safe to paste. By kind of statement, since DuckDB's `enable_external_access`
    would forbid reading the store as well. Raises QueryMalformed, duckdb.Error.
    """
    statements = con.extract_statements(query)
    for statement in statements:
        kind = str(statement.type).rpartition(".")[2]
        if kind not in ALLOWED or not ASKS.match(statement.query):
            raise QueryMalformed(
                f"only questions are run, and this is none: {statement.query.strip()[:60]}\n"
                "  cure: a SELECT; its rows go to a file by -o FILE"
            )
    return statements


def vanished(error: duckdb.Error) -> bool:
    """Whether DuckDB missed a file that was there when the list was made."""
    return isinstance(error, duckdb.IOException) and (
        "No such file" in str(error) or "No files found" in str(error)
    )


def explained(error: duckdb.Error, store: Path | str, *, opening: bool = False) -> ReadError:
    """DuckDB's error as one of ours; its own first lines say best where the SQL is wrong."""
    text = str(error).strip()
    if isinstance(error, duckdb.IOException) and "Permission denied" in text:
        return StoreForbidden(text.partition('"')[2].partition('"')[0] or store)
    if opening or vanished(error):
        return StoreUnreadable(store, text.splitlines()[0])
    if isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)):
        return QueryMalformed(_short(text))
    return QueryFailed(_short(text))


def _short(text: str) -> str:
    """Message, line and caret; without DuckDB's blank lines."""
    return "\n".join([line for line in text.splitlines() if line.strip()][:4])
