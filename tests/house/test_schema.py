"""Does every table and column say what it holds, and in which unit?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from energyd.store.catalogue import write_catalogue

STORE = Path(__file__).parents[2] / "daemon" / "energyd" / "store"
UNITS = {
    "_ns": "ns", "_mw": "mW", "_uj": "µJ", "_mj": "mJ", "_c": "°C", "_mhz": "MHz",
    "_bytes": "bytes", "_us": "µs", "_percent": "%", "_bits": "bit", "_j": "J", "_w": "W", "_s": "s",
}  # fmt: skip
NUMBERS = {
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "DOUBLE",
    "FLOAT",
}
# Numbers that count or name things, and so have no unit: their comments say what they are.
UNITLESS = {
    "device", "depth", "seq", "uid", "gid", "pid", "n", "n_samples", "value", "coverage", "segment",
    "accuracy", "agreement",
}  # fmt: skip


@pytest.fixture
def schema() -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables, in memory."""
    connection = duckdb.connect()
    connection.execute((STORE / "schema.sql").read_text())
    yield connection
    connection.close()


def test_every_table_has_a_comment(schema: duckdb.DuckDBPyConnection) -> None:
    rows = schema.execute(
        "SELECT table_name FROM duckdb_tables() WHERE coalesce(comment, '') = ''"
    ).fetchall()
    assert rows == []


def test_the_catalogue_passes_on_the_comments_that_duckdb_reads_in_the_schema(
    schema: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    """The catalogue takes them from the text; an apostrophe is two there."""
    write_catalogue(tmp_path, 1, {})
    mine = "SELECT column_name, comment FROM duckdb_columns() WHERE NOT internal AND table_name = $1"
    with duckdb.connect(str(tmp_path / "energy.duckdb"), read_only=True) as catalogue:
        for name in ("samples", "gaps", "counters"):
            wanted = dict(schema.execute(mine, [name]).fetchall())
            told = dict(catalogue.execute(mine, [name]).fetchall())
            assert wanted == {column: told[column] for column in wanted}


def test_every_column_has_a_comment(schema: duckdb.DuckDBPyConnection) -> None:
    rows = schema.execute(
        "SELECT table_name, column_name FROM duckdb_columns() "
        "WHERE NOT internal AND coalesce(comment, '') = ''"
    ).fetchall()
    assert rows == []
    assert schema.execute("SELECT count(*) FROM duckdb_columns() WHERE NOT internal").fetchone()[0] > 80


def test_every_number_has_its_unit_in_its_name_and_the_same_one_in_its_comment(
    schema: duckdb.DuckDBPyConnection,
) -> None:
    wrong = []
    rows = schema.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
    ).fetchall()
    for table, column, data_type, comment in rows:
        if data_type not in NUMBERS or column in UNITLESS:
            continue
        suffix = next((s for s in sorted(UNITS, key=len, reverse=True) if column.endswith(s)), None)
        if suffix is None:
            wrong.append(f"{table}.{column}: no unit in its name")
        elif not re.match(rf"{re.escape(UNITS[suffix])}(?!\w)", comment):
            wrong.append(
                f"{table}.{column}: the comment begins with another unit than {UNITS[suffix]}: {comment}"
            )
    assert wrong == []


def test_no_view_is_named_like_a_table_that_it_would_hide(schema: duckdb.DuckDBPyConnection) -> None:
    views = STORE / "views.sql"
    named = re.findall(r"CREATE\s+(?:OR\s+REPLACE\s+)?VIEW\s+(\w+)", views.read_text(), re.IGNORECASE)
    assert "stage_energy" in named
    assert len(named) == len(set(named))
