"""Does a running daemon tidy an old store while it samples and answers?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from energyd.energy import Appended
from energyd.store import DAY_FILE, HOUR_NS, THIN_FILE, Layout
from energyd.store.columns import schema
from energyd.store.write import Batch, HotStore
from real_daemon import Daemon, wait_for

S = 1_000_000_000


def an_old_store(daemon: Daemon, days: int) -> int:
    """Sealed hours of so many days, sampled at 50 Hz for a minute an hour; the first day's number."""
    daemon.store.mkdir()
    store = HotStore(Layout(daemon.store))
    today = time.time_ns() // (24 * HOUR_NS)
    first = (today - days) * 24
    store.hour(first)
    facts = {
        "device": 7, "t_ns": first * HOUR_NS, "uuid": "GPU-old", "domain": "gpu", "name": "old",
        "source": "ring", "origin": "measured", "period_ns": 20_000_000, "max_step_ns": 100_000_000,
    }  # fmt: skip
    store.commit(Batch(rows={"devices": [tuple(facts.get(c) for c, _ in schema()["devices"])]}))
    for hour in range(first, first + 24 * days, 6):
        t = hour * HOUR_NS + np.arange(3_000) * 20_000_000
        added = Appended(t, np.full(3_000, 100_000, np.int32), np.arange(3_000) * 2_000)
        store.commit(Batch(samples=[(7, added)]))
        store.seal(hour, hour + 6)
    store.con.execute(f"UPDATE meta SET v = '{today * 24 + 1}' WHERE k = 'hour'")
    store.close()
    return today - days


def day_files(store: Path) -> list[str]:
    return sorted(p.name for p in (store / "sealed" / "samples").glob("*/*.parquet"))


def test_a_daemon_compacts_and_thins_old_days_while_readers_see_one_truth(daemon: Daemon) -> None:
    an_old_store(daemon, 3)
    assert len(day_files(daemon.store)) == 12
    # The two days before yesterday are older than 36 h; yesterday may be, by the hour of this test.
    daemon.start("--keep-raw", "36h", source="simulated")
    wanted = {THIN_FILE, DAY_FILE}

    def tidy() -> Any:
        days: dict[str, set[str]] = {}
        for path in (daemon.store / "sealed" / "samples").glob("*/*.parquet"):
            days.setdefault(path.parent.name, set()).add(path.name)
        answer = daemon.query("SELECT count(*) AS n, count(DISTINCT t_ns) AS d FROM samples WHERE device = 7")
        assert answer[0]["n"] == answer[0]["d"]  # never twice, whatever lies there at the moment
        return (
            len(days) == 3 and all(names & wanted for names in days.values()) and answer[0]["n"] < 12 * 3_000
        )

    wait_for(tidy, 60)
    (row,) = daemon.query("SELECT count(DISTINCT t_ns // 1000000000) AS s FROM samples WHERE device = 7")
    assert row["s"] == 12 * 60  # each second that had samples has one
    wait_for(lambda: _catalogue_agrees(daemon), 60)
    assert daemon.stop() == 0
    assert "ERROR" not in daemon.log.read_text()
    daemon.start(source="simulated")
    (row,) = daemon.query("SELECT count(DISTINCT t_ns // 1000000000) AS s FROM samples WHERE device = 7")
    assert row["s"] == 12 * 60
    assert daemon.stop() == 0


def _catalogue_agrees(daemon: Daemon) -> bool:
    """A plain DuckDB tool reads the same files."""
    (plain,) = daemon.plain("SELECT count(*) FROM samples WHERE device = 7")
    return bool(plain == daemon.query("SELECT count(*) AS n FROM samples WHERE device = 7")[0]["n"])
