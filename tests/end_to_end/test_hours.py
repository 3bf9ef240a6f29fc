"""Is an hour that ends sealed once, nothing lost or doubled, while programs and readers go on?"""

from __future__ import annotations

import time

import duckdb
import pytest

from energyd.store import HOUR_NS, Layout
from energyd.store.columns import schema
from energyd.store.write import Batch, HotStore
from energyd_client import clock
from real_daemon import Daemon, wait_for


@pytest.fixture
def late_in_the_hour(daemon: Daemon) -> Daemon:
    """A store whose time, fixed at an earlier start in this boot, stands 6 s before an hour's end."""
    daemon.store.mkdir()
    store = HotStore(Layout(daemon.store))
    end = (time.time_ns() // HOUR_NS + 1) * HOUR_NS
    offset = end - 6_000_000_000 - clock.now_ns()
    facts = {"boot_id": clock.boot_id(), "t_ns": end - 6_000_000_000, "offset_ns": offset, "version": "0"}
    row = tuple(facts.get(column) for column, _ in schema()["boots"])
    store.hour(end // HOUR_NS - 1)
    store.commit(Batch(rows={"boots": [row]}))
    store.close()
    return daemon


def test_a_stage_over_the_hours_end_is_whole_and_no_sample_is_lost_or_doubled(
    late_in_the_hour: Daemon,
) -> None:
    daemon = late_in_the_hour.start(source="simulated")
    began = daemon.status()["now_ns"]
    end = (began // HOUR_NS + 1) * HOUR_NS
    assert end - began < 7_000_000_000
    process = daemon.program(
        "with energy.run('r') as run:\n"
        "    with run.stage('before'): time.sleep(0.5)\n"
        "    with run.stage('over') as s:\n"
        "        for _ in range(28): time.sleep(0.5); s.count(label=1)\n"
    )
    wait_for(lambda: daemon.query("SELECT count(*) AS n FROM samples")[0]["n"] > 200)
    sealed = wait_for(lambda: list((daemon.store / "sealed" / "samples").glob("*/*.parquet")), 30)
    while process.poll() is None:  # readers see every sample once, through the switch too
        (seen,) = daemon.query("SELECT count(*) AS n, count(DISTINCT (device, t_ns)) AS d FROM samples")
        assert seen["n"] == seen["d"]
    process.communicate()
    assert process.returncode == 0
    wait_for(lambda: daemon.query("FROM stages WHERE name = 'over' AND state = 'final'"))
    assert daemon.stop() == 0

    with duckdb.connect() as con:
        inside = con.execute("SELECT min(t_ns), max(t_ns) FROM read_parquet(?)", [str(sealed[0])]).fetchone()
    assert inside is not None
    assert inside[1] < end <= inside[1] + 30_000_000
    steps = daemon.query(
        "SELECT device, count(*) AS n, (max(t_ns) - min(t_ns)) / 20e6 + 1 AS expected"
        " FROM samples GROUP BY device"
    )
    assert len(steps) == 4
    assert all(row["n"] == row["expected"] for row in steps)
    assert daemon.query("FROM gaps") == []
    (over,) = daemon.query("FROM stage_totals WHERE stage = 'over'")
    assert over["t0_ns"] < end < over["t1_ns"]
    assert over["tokens"] == 28
    assert over["coverage"] == 1
    done = daemon.run("energyq", "--store", str(daemon.store), "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert daemon.query("SELECT count(*) AS n FROM devices") == [{"n": 4}]

    # And after one more start the sealed hour is still there, once.
    before = daemon.query("SELECT count(*) AS n FROM samples")
    daemon.start(source="simulated")
    assert daemon.query("SELECT count(*) AS n FROM samples")[0]["n"] >= before[0]["n"]
    (seen,) = daemon.query("SELECT count(*) AS n, count(DISTINCT (device, t_ns)) AS d FROM samples")
    assert seen["n"] == seen["d"]
    assert daemon.stop() == 0
