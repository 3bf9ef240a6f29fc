"""How do a query's rows become a file that outlives a power cut?

Apart from `write`, which loads numpy: of a child that makes a day's file or ships one, a third of its start.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from energyd.store.base import quoted


def copy_parquet(
    con: duckdb.DuckDBPyConnection, query: str, path: Path, row_group: int | None = None
) -> None:
    """Write a query's rows as Parquet: V2 pages and zstd take 8 bytes a sample where DuckDB takes 12.

    `row_group`: rows between two zone maps, else DuckDB's own number.
    """
    size = "" if row_group is None else f", ROW_GROUP_SIZE {row_group}"
    con.execute(
        f"COPY ({query}) TO {quoted(path)} (FORMAT parquet, PARQUET_VERSION V2, COMPRESSION zstd{size})"
    )
    path.chmod(0o640)


def sync(path: Path) -> None:
    """Make a file's or folder's content durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
