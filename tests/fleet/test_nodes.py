"""Do ranks that mark against the daemons of different nodes become one run in the lake?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from energyd.store.read import open_lake
from real_daemon import Daemon, wait_for

RANK = """
import os, sys
os.environ["ENERGYD_ENDPOINT"], os.environ["ENERGYD_SPOOL"] = sys.argv[1 + int(os.environ["RANK"])].split("|")
import torch.distributed as dist
from energyd_client.integrations.nodes import shared_run
import time
dist.init_process_group("gloo")
with shared_run("kd", pipeline="kd") as run:
    with run.stage("rank") as stage:
        time.sleep(0.5)
        stage.count(label=100)
dist.destroy_process_group()
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Daemon]]:
    daemons = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        daemons.append(Daemon(tmp_path / name, {}).start(source="simulated"))
    yield daemons
    for daemon in daemons:
        assert daemon.process is not None
        if daemon.process.poll() is None:
            daemon.kill()


def test_ranks_of_torchrun_on_two_nodes_are_one_run_in_the_lake(nodes: list[Daemon], tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    places = [f"{d.endpoint}|{d.spool}" for d in nodes]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program),
         *places], env=nodes[0].env, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    final = "FROM stages WHERE state = 'final'"
    ids = {wait_for(lambda d=daemon: d.query(final))[0]["run_id"] for daemon in nodes}
    assert len(ids) == 1
    lake = tmp_path / "lake"
    lake.mkdir()
    for daemon in nodes:
        assert daemon.stop() == 0
        shipped = daemon.run("energyd", "ship", "--store", str(daemon.store), "--lake", str(lake))
        assert shipped.returncode == 0, shipped.stderr
    with open_lake(str(lake)) as reader:
        (run,) = reader.sql("FROM run_totals").dicts()
        parts = reader.sql("SELECT total_j FROM run_hosts").fetchall()
    assert (run["run"], run["status"], run["tokens"]) == ("kd", "ok", 200)
    assert len(run["hosts"]) == len(parts) == 2
    assert round(run["total_j"] * 1e6) == sum(round(j * 1e6) for (j,) in parts)


def test_alone_it_is_a_run_like_any_other(nodes: list[Daemon]) -> None:
    nodes[0].finish(
        "from energyd_client.integrations.nodes import shared_run\n"
        "with shared_run('solo', seed=1) as run:\n    with run.stage('s'): time.sleep(0.1)\n"
    )
    rows: list[dict[str, object]] = wait_for(
        lambda: nodes[0].query("SELECT name, labels FROM runs WHERE status = 'ok'")
    )
    assert [(r["name"], r["labels"]) for r in rows] == [("solo", {"seed": 1})]


def test_a_store_with_a_living_daemon_is_not_shipped_by_hand(nodes: list[Daemon], tmp_path: Path) -> None:
    done = nodes[0].run("energyd", "ship", "--store", str(nodes[0].store), "--lake", str(tmp_path))
    assert done.returncode == 1
    assert "a daemon writes to this store" in done.stderr
