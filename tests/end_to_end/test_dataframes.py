"""Do pandas and polars read a store while its daemon writes?"""

from __future__ import annotations

from pathlib import Path

import duckdb

from real_daemon import Daemon


def test_pandas_and_polars_read_a_store_whose_daemon_runs(daemon: Daemon, tmp_path: Path) -> None:
    import pandas as pd  # every worker collects this file, one runs it
    import polars as pl

    daemon.start(source="simulated")
    daemon.finish("with energy.run('kd') as run:\n    with run.stage('train'): time.sleep(0.5)\n")
    out = tmp_path / "out"
    done = daemon.run("energyq", "export", str(out), "--store", str(daemon.store))
    assert done.returncode == 0, done.stderr
    assert daemon.process is not None
    assert daemon.process.poll() is None
    by_pandas = pd.read_parquet(out / "samples.parquet")
    by_polars = pl.read_parquet(out / "samples.parquet")
    assert len(by_pandas) == by_polars.height > 10
    assert by_pandas["power_mw"].sum() == by_polars["power_mw"].sum() > 0
    assert list(pd.read_parquet(out / "runs.parquet")["name"]) == ["kd"]
    assert pl.read_parquet(out / "stages.parquet")["name"].to_list() == ["train"]
    with duckdb.connect(daemon.store / "energy.duckdb", read_only=True) as con:  # at most a minute old
        assert "total_j" in con.sql("FROM stage_totals").df().columns
        assert "power_mw" in con.sql("FROM samples").pl().columns
    assert daemon.stop() == 0
    with duckdb.connect(daemon.store / "energy.duckdb", read_only=True) as con:
        assert list(con.sql("FROM runs").df()["name"]) == ["kd"]
