"""What does any DuckDB tool see of the store? energy.duckdb: views and macros, no data.

Written aside and renamed. It names files by their full path and at most a minute old; a moved store gets a
new catalogue at the next start of a daemon.

DuckDB 2.0 opens a database three times by its name and reads the headers in the second, the data in the
third (strace shows it): a tool that opens in the tenth of a millisecond of the rename may be told "No more
data remaining in MetadataReader". With the third open held back by strace, 3 of 8 opens failed so, none read
wrong rows; opening again cures it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import duckdb

from energyd.store import TABLES, Layout
from energyd.store.base import create_comments, create_views, parquet, quoted, raw_view, sealed_files
from energyd.store.columns import schema
from energyd.store.damage import damaged_among


def write_catalogue(store: Path, hour: int, live: Mapping[str, str]) -> dict[str, str]:
    """Write energy.duckdb over the sealed files of hours below `hour` and the live files.

    What is left out: damaged files, {path relative to the store: why}. One must not keep every tool from the
    others for as long as the daemon runs.

    `live`: {table: path relative to the store}. Raises duckdb.Error or OSError; the old catalogue is then
    still there.
    """
    store = store.absolute()
    sealed = sealed_files(store, hour)
    left_out: dict[str, str] = {}
    while True:
        try:
            _write(store, sealed, live)
        except duckdb.Error as error:
            found = damaged_among(store, (p for paths in sealed.values() for p in paths), error)
            if not found:
                raise
            left_out |= found
            sealed = {table: [p for p in paths if p not in found] for table, paths in sealed.items()}
        else:
            return left_out


def _write(store: Path, sealed: Mapping[str, list[str]], live: Mapping[str, str]) -> None:
    target = Layout(store).catalogue
    aside = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        aside.write_bytes(_empty())
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"ATTACH {quoted(aside)} AS energy")
            con.execute("USE energy")
            con.execute("BEGIN")
            for table in TABLES:
                relations = (
                    [parquet(store, sealed[table], same_columns=table == "samples")] if sealed[table] else []
                )
                if table in live:
                    relations.append(parquet(store, [live[table]]))
                if relations:
                    con.execute(raw_view(table, relations))
            con.execute("COMMIT")
            con.execute("USE memory")
            con.execute("DETACH energy")  # checkpoints: no log stays beside it
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@cache
def _empty() -> bytes:
    """The catalogue of an empty store. All but its `raw_` views is the same in each, and takes long to make.

    STORAGE_VERSION v1.2.0, since DuckDB 1.x refuses 2.0's own format.
    """
    with tempfile.TemporaryDirectory(prefix="energyd-") as folder:
        path = Path(folder) / "energy.duckdb"
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"ATTACH {quoted(path)} AS energy (STORAGE_VERSION 'v1.2.0')")
            con.execute("USE energy")
            con.execute("BEGIN")
            # Tables first, views last: those above are bound to what is below, again and again.
            for table, columns in schema().items():
                typed = ", ".join(f"{name} {kind}" for name, kind in columns)
                con.execute(f"CREATE TABLE raw_{table} ({typed})")
            create_views(con)
            for table in TABLES:
                con.execute(f"DROP TABLE raw_{table}")
                con.execute(raw_view(table, []))
            create_comments(con)
            con.execute("COMMIT")
            con.execute("USE memory")
            con.execute("DETACH energy")
        return path.read_bytes()
