"""What becomes of a store whose hot.duckdb, log or live files were flipped, cut or lost?"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from damaged import DAMAGES, Template, ask, costs_in, finished_run, reading, sealed_bytes
from energyd.store import Layout, hour_of_sealed
from energyd.store.load import load
from energyd.store.read import Reader
from energyd.store.salvage import open_hot
from real_daemon import Daemon, wait_for
from staged import status


@pytest.fixture
def damaged(template: Template, make_daemon: Callable[..., Daemon]) -> Callable[[], Daemon]:
    """Copies of the template, in order; their daemons end one before the next."""
    made: list[Daemon] = []

    def copy() -> Daemon:
        if made and made[-1].process is not None:
            made[-1].kill()
        made.append(template.copy(make_daemon()))
        return made[-1]

    return copy


def goes_on(daemon: Daemon, template: Template, *, untouched: set[str]) -> None:
    """It starts, samples, measures; what was not damaged is as it was, what is lost is NULL and says why."""
    daemon.start(source="simulated")
    before = status(daemon)["samples"]
    finished_run(daemon, "after")
    wait_for(lambda: status(daemon)["samples"] > before)
    assert sealed_bytes(daemon.store) == template.sealed
    with reading(daemon) as reader:
        holds(reader, template, untouched)


def holds(reader: Reader, template: Template, untouched: set[str]) -> None:
    """The store is who it was, no row is there twice, no cost is wrong, no silence without a gap."""
    assert reader.sql("SELECT DISTINCT host_id FROM raw_boots").fetchall() == [(template.host_id,)]
    names = dict(reader.sql("SELECT run_id, name FROM runs").fetchall())
    for run, was in template.runs.items():
        now = costs_in(reader, run)
        if names.get(run) in untouched:
            assert now == was
        known = {(row["stage"], row["device"]): row["energy_j"] for row in was}
        for row in now:
            if row["energy_j"] is None:
                assert row["reason"] or "pending" in row["flags"] or "open" in row["flags"], row
            elif "bridged" in row["flags"]:  # its samples were lost: an estimate that says so
                assert abs(row["energy_j"] - known[row["stage"], row["device"]]) <= 2 * row["u_total_j"], row
            else:
                assert row["energy_j"] == known[row["stage"], row["device"]]
    steps = (
        "(SELECT device, t_ns, lag(t_ns) OVER w AS t0, cum_uj - lag(cum_uj, 1, 0) OVER w AS uj"
        " FROM samples WINDOW w AS (PARTITION BY device ORDER BY t_ns))"
    )
    grown = reader.sql(f"SELECT count(*) = count(DISTINCT (device, t_ns)), bool_and(uj >= 0) FROM {steps}")
    assert grown.fetchall() == [(True, True)]
    twice = reader.sql(
        "SELECT client, seq FROM raw_markers WHERE seq IS NOT NULL GROUP BY ALL HAVING count(*) > 1"
    )
    assert twice.fetchall() == []
    unexplained = reader.sql(
        f"SELECT device, t0, t_ns FROM {steps} s WHERE t_ns - t0 > "
        "(SELECT min(max_step_ns) FROM devices d WHERE d.device = s.device)"
        " AND NOT EXISTS (FROM gaps g WHERE g.device = s.device AND g.t0_ns = t0 AND g.t1_ns = t_ns)"
    )
    assert unexplained.fetchall() == []


@pytest.mark.fault(
    "A damaged hot.duckdb",
    seen="`hot.duckdb.damaged-TIME`, the log and `energyd status` (DEGRADED) say what was wrong and what a "
    "new hot.duckdb holds; sampling goes on.",
    lost="Of the current hour what neither it nor the live files hold: a gap `store_damaged`. Energy that "
    "needs it is bridged by the hardware's counter or NULL.",
)
def test_a_damaged_hot_file_is_set_aside_and_the_day_goes_on(
    damaged: Callable[[], Daemon], template: Template
) -> None:
    daemon = damaged()
    DAMAGES["flip"](daemon.store / "hot.duckdb", 0.4)
    goes_on(daemon, template, untouched={"sealed"})
    asides = list(daemon.store.glob("hot.duckdb.damaged-*"))
    assert asides
    now = status(daemon)
    assert now["state"] == "degraded"
    assert asides[0].name.removesuffix(".wal") in now["reason"]
    assert "energyd recover" in now["reason"]
    assert f"renamed to {asides[0].name.removesuffix('.wal')}" in daemon.log.read_text()
    assert ask(daemon, "SELECT count(*) AS n FROM gaps WHERE reason = 'store_damaged'")[0]["n"] > 0
    assert daemon.stop() == 0
    daemon.start(source="simulated")
    assert status(daemon)["state"] == "ok"


@pytest.mark.fault("A damaged hot.duckdb")
def test_what_recover_has_mended_is_a_gap_that_says_so_at_the_next_start(
    damaged: Callable[[], Daemon],
) -> None:
    daemon = damaged()
    DAMAGES["flip"](daemon.store / "hot.duckdb", 0.4)
    assert daemon.run("energyd", "recover", "--store", str(daemon.store)).returncode == 4
    lost = "SELECT count(*) AS n FROM gaps WHERE reason = 'store_damaged'"
    before = ask(daemon, lost)[0]["n"]
    daemon.start(source="simulated")
    wait_for(lambda: ask(daemon, lost)[0]["n"] > before)
    daemon.stop()
    daemon.start(source="simulated")
    wait_for(lambda: ask(daemon, "SELECT count(*) AS n FROM gaps WHERE reason = 'daemon_down'")[0]["n"])


@pytest.mark.fault("A damaged hot.duckdb")
def test_a_hot_file_that_is_gone_begins_no_new_store(
    damaged: Callable[[], Daemon], template: Template
) -> None:
    daemon = damaged()
    (daemon.store / "hot.duckdb.wal").unlink()
    (daemon.store / "hot.duckdb").unlink()
    goes_on(daemon, template, untouched={"sealed", "live"})
    (row,) = ask(daemon, "SELECT max(cum_uj) AS most, min(cum_uj) AS least FROM samples WHERE device = 0")
    assert row["least"] == 0
    assert row["most"] > 0


@pytest.mark.fault("A damaged hot.duckdb")
def test_a_flipped_log_keeps_every_commit_before_the_flip(
    damaged: Callable[[], Daemon], template: Template
) -> None:
    daemon = damaged()
    DAMAGES["flip"](daemon.store / "hot.duckdb.wal", 0.9)
    goes_on(daemon, template, untouched={"sealed", "live"})
    assert list(daemon.store.glob("hot.duckdb.damaged-*"))


def damage_at_random(store: Path, rng: random.Random) -> str:
    """One file of the hour, or its log, harmed somehow; says how."""
    files = sorted([store / "hot.duckdb", store / "hot.duckdb.wal", *store.glob("live/*.parquet")])
    path = rng.choice([files[0], files[1], rng.choice(files)])
    kind, at = rng.choice(sorted(DAMAGES)), rng.random()
    DAMAGES[kind](path, at)
    return f"{kind} of {path.name} at {at:.3f}"


@pytest.mark.fault("A damaged hot.duckdb")
def test_of_any_harm_to_the_hours_files_what_is_left_makes_one_store(
    template: Template, tmp_path: Path
) -> None:
    newest = max(hour_of_sealed(path) for path in template.sealed)
    for seed in range(8):
        rng, layout = random.Random(seed), Layout(tmp_path / f"{seed}")
        shutil.copytree(template.store, layout.root)
        done = [damage_at_random(layout.root, rng) for _ in range(rng.choice([1, 1, 2]))]
        store, _ = open_hot(layout)
        loaded = load(layout, store, "boot", 0)
        kept = {row["name"] for row in [*loaded.runs, *store.fetch_dicts("runs_log")]}
        facts = (store.meta("host_id"), int(store.meta("hour") or 0) > newest, sealed_bytes(layout.root))
        grows = store.fetch(
            "SELECT count(*) FROM (SELECT t_ns - lag(t_ns, 1, 0) OVER w AS step, cum_uj - lag(cum_uj, 1, 0)"
            " OVER w AS uj FROM samples WINDOW w AS (PARTITION BY device ORDER BY t_ns)) "
            "WHERE step <= 0 OR uj < 0"
        )
        store.con.close()
        assert facts == (template.host_id, True, template.sealed), (seed, done)
        assert grows == [(0,)], (seed, done)
        assert len(loaded.devices) == 4, (seed, done)
        assert all(d.totals.cum_uj > 0 for d in loaded.devices.values()), (seed, done)
        if len(done) == 1:  # what a live file holds, no single damage takes
            assert "live" in kept, (seed, done)


def harm(damaged: Callable[[], Daemon], template: Template, seeds: range) -> None:
    for seed in seeds:
        daemon = damaged()
        rng = random.Random(seed)
        done = [damage_at_random(daemon.store, rng) for _ in range(rng.choice([1, 1, 2]))]
        try:
            goes_on(daemon, template, untouched={"sealed"})
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {done}\n{daemon.log.read_text()[-3000:]}") from error


@pytest.mark.long
@pytest.mark.parametrize("first", range(100, 200, 20))  # each has its own limit of time
@pytest.mark.fault("A damaged hot.duckdb")
def test_of_a_hundred_harms_a_daemon_survives_each(
    damaged: Callable[[], Daemon], template: Template, first: int
) -> None:
    harm(damaged, template, range(first, first + 20))
