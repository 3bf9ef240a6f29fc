"""Which views and macros does a question name, and on what do those stand?

To make all of them takes 0.4 s of a core, most of it for binding views that are not asked (DuckDB binds a
view when it is made, and everything below it each time). A reader makes those that a question needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from energyd.store import TABLES

HERE: Final = Path(__file__).parent
VIEW_FILES: Final = (
    "views.sql", "macros.sql", "totals.sql", "sensors.sql", "sharing.sql", "net.sql", "starved.sql",
)  # fmt: skip
LAKE_FILES: Final = ("lake_macros.sql", *VIEW_FILES, "lake.sql")
_STATEMENT: Final = re.compile(r"^CREATE (?:VIEW|MACRO) (\w+).*?;$", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"--.*")
_OF_A_LAKE: Final = re.compile(r"/\*lake (.*?)\*/", re.DOTALL)
_STANDS_ON: Final = re.compile(r"(?:\bFROM|\bJOIN)\s+(\w+)|'(\w+)'|\b(\w+)\(")
"""How our own definitions name another: FROM it, JOIN it, integrate('it') or it(…)."""
_LISTS: Final = re.compile(r"\b(show|describe|information_schema|(duckdb|pg|sqlite)_\w+)\b", re.IGNORECASE)
"""In a question that may be about what there is, rather than about what is in it."""


@cache
def definitions(*, lake: bool = False) -> Mapping[str, str]:
    """{view or macro: the statement that makes it}, each after those that it stands on; those of a lake."""
    found: dict[str, str] = {}
    for file in LAKE_FILES if lake else VIEW_FILES:
        text = (HERE / file).read_text()
        if lake:  # which has more than 256 devices
            text = _OF_A_LAKE.sub(r"\1", text).replace("::UTINYINT", "::INTEGER")
        found |= {match[1]: match[0] for match in _STATEMENT.finditer(_COMMENT.sub("", text))}
    return found


def needed(query: str | None, *, lake: bool = False) -> list[str]:
    """What must be there before `query` is run: raw_ relations of tables, then views and macros in order.

    None: everything. Rather too much than too little: a word of the query counts wherever it stands.
    """
    raw, made = [f"raw_{table}" for table in TABLES], definitions(lake=lake)
    if query is None or _LISTS.search(query):
        return [*raw, *made]
    known = made.keys() | raw
    new = set(re.findall(r"\w+", query.lower())) & known
    found: set[str] = set()
    while new:
        found |= new
        below = {word for name in new for word in _words_below(made.get(name, ""))}
        new = (below & known) - found
    return [name for name in (*raw, *made) if name in found]


@cache
def _words_below(statement: str) -> frozenset[str]:
    return frozenset(word for words in _STANDS_ON.findall(statement) for word in words if word)
