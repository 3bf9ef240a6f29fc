"""How are rows written that no query made? As those of a query are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from energyq.formats import chosen, write


@dataclass(frozen=True)
class Made:
    """Rows of ours, in the shape of a query's result."""

    columns: list[str]
    types: list[str]
    rows: Iterator[tuple[Any, ...]]


def write_rows(rows: list[dict[str, Any]], format_: str | None, output: Path | None) -> bool:
    """Write rows of equal keys; False, and nothing written, where a table for people is wanted instead."""
    kind = chosen(format_, output)
    if kind == "table" or (format_ is None and output is None):
        return False
    if kind == "parquet":
        raise click.UsageError("these rows are no query's: table, json, jsonl, csv or markdown")
    columns = list(rows[0]) if rows else []
    types = ["DOUBLE" if any(isinstance(r[c], float | int) for r in rows) else "VARCHAR" for c in columns]
    write(Made(columns, types, (tuple(r.values()) for r in rows)), format_, output)
    return True
