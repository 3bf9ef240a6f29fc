"""Does plain DuckDB, which knows nothing of energyd, see the store through energy.duckdb?"""

from __future__ import annotations

import duckdb
import pytest

from analysis.energy_store import HOUR, T0, S, Store
from energyd.store import HOUR_NS
from energyd.store.catalogue import write_catalogue
from energyd.store.read import open_reader


@pytest.fixture
def filled(store: Store) -> Store:
    store.device(0, max_step_ns=3 * S, period_ns=S)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 2 * HOUR_NS + 1_800 * S, S), lambda t: 100_000 + t // S % 7)
    store.run("r1", hour=HOUR)
    store.stage("r1", "s1", "train", T0 + S // 2, T0 + HOUR_NS + 11 * S, hour=HOUR + 1, counts={"label": 4})
    store.stage("r1", "s2", "later", T0 + 2 * HOUR_NS + S, T0 + 2 * HOUR_NS + 11 * S)
    return store


def test_views_and_macros_answer_the_same_as_the_reader(filled: Store) -> None:
    root = filled.write(HOUR + 2)
    tables = ["samples", "stages_log", "energies", "devices", "domains"]
    write_catalogue(root, HOUR + 2, filled.live(tables, T0 + 3 * HOUR_NS))
    queries = [
        "SELECT count(*), max(cum_uj) FROM samples",
        "FROM stage_totals ORDER BY stage_id",
        "FROM run_totals",
        f"SELECT energy_j(0, {T0 + HOUR_NS - 7}, {T0 + 2 * HOUR_NS + 3 * S})",
        "WITH w AS (SELECT device, t0_ns, t1_ns FROM stage_energy) FROM integrate('w') ORDER BY ALL",
    ]
    with duckdb.connect(root / "energy.duckdb", read_only=True) as con, open_reader(root) as reader:
        for query in queries:
            found = con.execute(query).fetchall()
            assert found == reader.sql(query).fetchall()
            assert found


def test_a_catalogue_of_an_empty_store_has_every_view_and_no_rows(store: Store) -> None:
    store.root.mkdir()
    write_catalogue(store.root, HOUR, {})
    with duckdb.connect(store.root / "energy.duckdb", read_only=True) as con:
        for view in ("samples", "stage_energy", "stage_totals", "run_totals", "gaps", "artifact_uses"):
            assert con.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
        assert con.execute("SELECT energy_j(0, 1, 2)").fetchall() == [(None,)]


def test_the_catalogue_holds_no_data_and_is_of_a_format_that_duckdb_1_x_reads(filled: Store) -> None:
    root = filled.write(HOUR + 2)
    write_catalogue(root, HOUR + 2, {})
    with duckdb.connect(root / "energy.duckdb", read_only=True) as con:
        assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
        [(tags,)] = con.execute(
            "SELECT tags FROM duckdb_databases() WHERE database_name = 'energy'"
        ).fetchall()
    assert "v1.2" in str(tags)


def test_an_unfinished_seal_is_not_in_the_catalogue(filled: Store) -> None:
    root = filled.write(HOUR + 1, stale_seal=True)
    write_catalogue(root, HOUR + 1, {})
    with duckdb.connect(root / "energy.duckdb", read_only=True) as con:
        assert con.execute("SELECT max(t_ns) FROM samples").fetchall() == [(T0 + HOUR_NS - S,)]


def test_a_tool_that_has_the_old_catalogue_open_is_not_disturbed_by_the_new_one(filled: Store) -> None:
    root = filled.write(HOUR + 2)
    write_catalogue(root, HOUR + 1, {})
    with duckdb.connect(root / "energy.duckdb", read_only=True) as con:
        before = con.execute("SELECT count(*) FROM samples").fetchall()
        write_catalogue(root, HOUR + 2, {})
        assert con.execute("SELECT count(*) FROM samples").fetchall() == before
    assert [p.name for p in root.glob("energy.duckdb*")] == ["energy.duckdb"]


def test_views_and_columns_carry_their_meaning_into_any_tool(filled: Store) -> None:
    root = filled.write(HOUR + 2)
    write_catalogue(root, HOUR + 2, {})
    with duckdb.connect(root / "energy.duckdb", read_only=True) as con:
        found = con.execute(
            "SELECT comment FROM duckdb_columns()"
            " WHERE table_name = 'stage_totals' AND column_name = 'total_j'"
        ).fetchall()
    assert found[0][0].startswith("J, gpu + cpu")
