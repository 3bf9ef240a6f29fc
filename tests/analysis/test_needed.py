"""Does a reader make just what a question needs, and is every view there for whoever names it?"""

from __future__ import annotations

import re

import duckdb
import pytest

from analysis.energy_store import Store
from energyd.store import TABLES
from energyd.store.base import raw_view
from energyd.store.columns import SCHEMA_SQL, schema
from energyd.store.needed import HERE, VIEW_FILES, definitions, needed
from energyd.store.read import QueryMalformed, open_reader


def test_the_tables_read_from_the_text_of_the_schema_are_those_that_duckdb_makes_of_it() -> None:
    with duckdb.connect() as con:
        con.execute(SCHEMA_SQL)
        made = con.execute(
            "SELECT table_name, list((column_name, data_type) ORDER BY column_index) FROM duckdb_columns()"
            " WHERE NOT internal GROUP BY ALL"
        ).fetchall()
    assert schema() == dict(made)
    assert tuple(sorted(schema())) == tuple(sorted(TABLES))


def test_every_statement_of_the_view_files_is_a_definition() -> None:
    statements = sum(len(re.findall(r"^CREATE", (HERE / f).read_text(), re.MULTILINE)) for f in VIEW_FILES)
    assert len(definitions()) == statements > 40


def test_each_view_stands_on_what_is_made_for_it_and_on_nothing_else() -> None:
    views = [name for name, text in definitions().items() if text.startswith("CREATE VIEW")]
    with duckdb.connect() as con:
        for number, view in enumerate(views):
            con.execute(f"CREATE SCHEMA s{number}; USE s{number}")
            for name in needed(f"FROM {view}"):
                made = definitions().get(name)
                con.execute(made or raw_view(name.removeprefix("raw_"), []))
            con.execute(f"FROM {view}")  # macros are bound only now
    assert len(views) > 20


def test_a_question_of_runs_makes_no_relation_of_samples_and_a_list_of_tables_makes_all(store: Store) -> None:
    assert needed("SELECT name FROM Runs") == ["raw_runs_log", "runs"]
    assert "raw_samples" not in needed("FROM stage_totals")
    with open_reader(store.write()) as reader:
        reader.sql("FROM runs")
        there = {name for (name, *_) in reader.sql("SHOW TABLES").rows}
        assert {"samples", "run_totals", "energy_split_estimate", "stage_net"} <= there


@pytest.mark.parametrize(
    ("asked", "meant"), [("FROM stag_totals", "stage_totals"), ("SELECT energy_jj(0, 1, 2)", "energy_j")]
)
def test_a_misspelt_name_gets_its_hint_from_views_that_no_question_named(
    store: Store, asked: str, meant: str
) -> None:
    with open_reader(store.write()) as reader, pytest.raises(QueryMalformed, match=f'mean "{meant}"'):
        reader.sql(f"CREATE TABLE mine AS SELECT 1; {asked}")
