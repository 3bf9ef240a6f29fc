"""Is a run of several ranks on two GPUs charged for each GPU once, whoever names what and whoever dies?"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from .conftest import EDGE_J, Bench, by_gpu

LAUNCH = """
with energy.run("ranks") as run:
    print(run.run_id, flush=True)
    ranks = []
    for k, code in enumerate({codes!r}):
        env = {{**os.environ, "RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": "2"}}
        ranks.append(subprocess.Popen([sys.executable, "-c", {head!r} + code], env=env))
        print(ranks[-1].pid, flush=True)
    codes = [rank.wait() for rank in ranks]
print(*codes, flush=True)
"""

HEAD = """
import energyd_client as energy, os, time
rank = int(os.environ["RANK"])
"""


def launch(*codes: str) -> str:
    """A program that runs each code as a rank of one run, and prints the run, their pids, their exits."""
    return LAUNCH.format(codes=codes, head=HEAD)


TRAIN = """
with energy.stage(f"train {rank}", devices=[rank]) as stage:
    for _ in range(4):
        with energy.stage("step", devices=f"cuda:{rank}") as step:
            time.sleep(0.2 + 0.1 * rank)
            step.count(positions=100 + rank)
    stage.count(positions=7)
if rank == 0:
    with energy.stage("solo", devices=[0]): time.sleep(0.6)
"""


def test_two_ranks_are_one_run_charged_for_each_gpu_over_the_union_of_its_intervals(bench: Bench) -> None:
    run_id, *_ = bench.done(bench.start(launch(TRAIN, TRAIN)))
    rows = bench.rows(run_id)
    top = {row["stage"]: row for row in rows if row["parent_id"] is None}
    assert {name: row["gpu"] for name, row in top.items()} == {"train 0": 0, "train 1": 1, "solo": 0}
    assert len(rows) == 3 + 8  # on one GPU each: a stage on one is not charged for the other
    for row in rows:
        assert row["energy_j"] == pytest.approx(row["truth_j"], rel=1e-3, abs=EDGE_J)
        assert (row["overlap_s"], row["exclusive_j"], row["flags"]) == (0, row["energy_j"], [])
    (total,) = bench.totals(run_id)
    assert total["gpu_j"] == pytest.approx(bench.truth_j(by_gpu(rows)), rel=2e-3)
    assert total["gpu_j"] == pytest.approx(sum(row["energy_j"] for row in top.values()), abs=1e-3)
    assert total["tokens"] == 4 * 100 + 4 * 101 + 2 * 7
    assert (total["status"], total["n_stages"]) == ("ok", 11)


def test_a_stage_around_ranks_that_names_one_gpu_leaves_the_other_to_the_rank_that_is_on_it(
    bench: Bench,
) -> None:
    code = """
with energy.run("around") as run, run.stage("train", devices=[0]):
    with run.stage("own", devices=[0]): time.sleep(0.3)
    env = {**os.environ, "LOCAL_RANK": "1"}
    other = "import energyd_client as energy, time\\nwith energy.stage('other', devices=[1]): time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", other], env=env, check=True)
print(run.run_id)
"""
    (run_id,) = bench.done(bench.start(code))
    rows = bench.rows(run_id)
    assert [(row["stage"], row["gpu"]) for row in rows] == [("train", 0), ("own", 0), ("other", 1)]
    (total,) = bench.totals(run_id)
    assert total["gpu_j"] == pytest.approx(bench.truth_j(by_gpu(rows)), rel=2e-3, abs=EDGE_J)
    assert total["gpu_j"] == pytest.approx(rows[0]["energy_j"] + rows[2]["energy_j"], abs=1e-3)


def test_ranks_that_name_each_others_gpus_have_full_and_own_energy_and_the_run_has_each_joule_once(
    bench: Bench,
) -> None:
    wide = 'with energy.stage("wide", devices=[0, 1]): time.sleep(1.0)'
    narrow = 'time.sleep(0.4)\nwith energy.stage("narrow", devices=[1]): time.sleep(1.0)'
    run_id, *_ = bench.done(bench.start(launch(wide, narrow)))
    found = {(row["stage"], row["gpu"]): row for row in bench.rows(run_id)}
    assert set(found) == {("wide", 0), ("wide", 1), ("narrow", 1)}
    wide_1, narrow_1 = found["wide", 1], found["narrow", 1]
    both = max(wide_1["t0_ns"], narrow_1["t0_ns"]), min(wide_1["t1_ns"], narrow_1["t1_ns"])
    shared_j = bench.truth_j({1: [both]})
    assert shared_j > 50
    for row in (wide_1, narrow_1):
        assert row["energy_j"] == pytest.approx(row["truth_j"], rel=1e-3, abs=EDGE_J)
        assert row["overlap_s"] == pytest.approx((both[1] - both[0]) / 1e9, abs=1e-6)
        assert row["exclusive_j"] == pytest.approx(row["truth_j"] - shared_j, abs=2 * EDGE_J)
    assert found["wide", 0]["overlap_s"] == 0
    (total,) = bench.totals(run_id)
    assert total["gpu_j"] == pytest.approx(bench.truth_j(by_gpu(list(found.values()))), rel=2e-3)


def test_a_rank_that_dies_is_charged_until_its_death_and_the_other_one_goes_on(bench: Bench) -> None:
    lives = 'with energy.stage("lives", devices=[0]): time.sleep(2.0)'
    dies = (
        'with energy.stage("dies", devices=[1]) as stage:\n    stage.count(positions=5)\n    time.sleep(60)'
    )
    process = bench.start(launch(lives, dies))
    assert process.stdout is not None
    run_id, _, pid = (process.stdout.readline().strip() for _ in range(3))
    row = _wait_for_stage(bench, run_id, "dies")
    os.kill(int(pid), signal.SIGKILL)
    assert bench.done(process) == ["0", "-9"]
    rows = {row["stage"]: row for row in bench.rows(run_id)}
    assert {name: row["gpu"] for name, row in rows.items()} == {"lives": 0, "dies": 1}
    assert "aborted" in rows["dies"]["flags"]
    assert rows["dies"]["t0_ns"] == row["t0_ns"]
    assert rows["dies"]["t1_ns"] < rows["lives"]["t1_ns"]
    for row in rows.values():
        assert row["energy_j"] == pytest.approx(row["truth_j"], rel=1e-3, abs=EDGE_J)
    (total,) = bench.totals(run_id)
    assert total["gpu_j"] == pytest.approx(sum(row["energy_j"] for row in rows.values()), abs=1e-3)
    assert total["status"] == "ok"  # of who began the run, and ended it
    assert bench.daemon.query(f"SELECT name, status FROM stages WHERE run_id = '{run_id}' ORDER BY name") == [
        {"name": "dies", "status": "aborted"}, {"name": "lives", "status": "ok"},
    ]  # fmt: skip


def _wait_for_stage(bench: Bench, run_id: str, name: str) -> dict[str, Any]:
    from real_daemon import wait_for

    def stored() -> list[dict[str, Any]]:
        return bench.daemon.query(
            f"FROM stages WHERE run_id = '{run_id}' AND name = '{name}' AND counts IS NOT NULL"
        )

    found: list[dict[str, Any]] = wait_for(stored)
    return found[0]


def test_ranks_heard_before_and_without_the_process_that_opens_the_run_are_one_run(bench: Bench) -> None:
    """A launcher hands on an id (ENERGYD_RUN_ID); rank 1 has spoken and is gone before rank 0 begins."""
    joined = (
        'with energy.run("rank") as run, run.stage(f"rank {k}", devices=[k]) as stage:\n    time.sleep(0.4)\n'
    )
    env = {"ENERGYD_RUN_ID": "handed-on"}
    for k in (1, 0):
        bench.done(bench.start(f"k = {k}\n{joined}    stage.count(positions={k + 1})", **env))
    rows = bench.rows("handed-on")
    assert [(row["stage"], row["gpu"]) for row in rows] == [("rank 1", 1), ("rank 0", 0)]
    (total,) = bench.totals("handed-on")
    assert total["gpu_j"] == pytest.approx(sum(row["truth_j"] for row in rows), rel=2e-3, abs=2 * EDGE_J)
    assert total["tokens"] == 3
    assert total["t1_ns"] >= max(row["t1_ns"] for row in rows)
