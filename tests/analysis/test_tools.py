"""Do the tools that people have read the store as it stands: DuckDB's shell, pandas, polars?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from analysis.energy_store import HOUR, MS, T0, S, Store
from energyd.store.catalogue import write_catalogue
from energyq.commands import run


@pytest.fixture
def root(store: Store) -> Path:
    """A sealed hour with a stage of 1,000 J, and its catalogue."""
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 30 * S, 20 * MS), lambda t: 100_000)
    store.run("r1", "kd", hour=HOUR, labels='{"pipeline": "kd", "student": "1B"}')
    store.stage("r1", "s1", "student.train", T0 + S, T0 + 11 * S, hour=HOUR, counts={"label": 100})
    root = store.write(HOUR + 1)
    live = store.live(["devices", "domains"], T0)  # these stay in the daemon's own file
    write_catalogue(root, HOUR + 1, live)
    return root


def test_duckdbs_own_shell_opens_the_catalogue_with_its_views_and_macros(root: Path) -> None:
    query = f"SELECT stage, total_j, energy_j(0, {T0 + S}, {T0 + 2 * S}) AS second_j FROM stage_totals"
    done = subprocess.run(
        [sys.executable, "-m", "duckdb_cli", "-readonly", "-json", str(root / "energy.duckdb"), "-c", query],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"stage": "student.train", "total_j": 1000.0, "second_j": 100.0}]


def test_pandas_and_polars_read_through_the_catalogue(root: Path) -> None:
    import pandas as pd  # every worker collects this file, one runs it

    with duckdb.connect(root / "energy.duckdb", read_only=True) as con:
        frame = con.sql("FROM stage_totals").df()
        assert list(frame["total_j"]) == [1000.0]
        assert pd.isna(frame["cpu_j"][0])  # absent, never 0
        table = con.sql("SELECT device, t_ns, power_mw / 1e3 AS power_w FROM samples").pl()
    assert table.shape == (1_500, 3)
    assert table["power_w"].unique().to_list() == [100.0]


def test_pandas_and_polars_read_the_sealed_files_and_an_export(root: Path, tmp_path: Path) -> None:
    import pandas as pd
    import polars as pl

    sealed = pl.scan_parquet(root / "sealed" / "samples" / "**" / "*.parquet").collect()
    assert sealed["power_mw"].sum() == 150_000_000
    frame = pd.read_parquet(root / "sealed" / "stages_log")
    assert list(frame["name"]) == ["student.train"]
    out = tmp_path / "out"
    assert run(["export", str(out), "--store", str(root)]) == 0
    assert list(pd.read_parquet(out / "stage_energy.parquet")["energy_j"]) == [1000.0]
    assert pl.read_parquet(out / "run_totals.parquet")["total_j"].to_list() == [1000.0]
