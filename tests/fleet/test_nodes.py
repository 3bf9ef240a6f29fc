"""Do ranks that mark against the daemons of different nodes become one run in the lake?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from energyd.store.read import open_lake
from fleet.conftest import PATHS, ROOT
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


def in_lake(nodes: list[Daemon], lake: Path) -> dict[str, object]:
    """Stop both daemons and ship what they hold; the one run of all that there is, with its parts."""
    lake.mkdir()
    for daemon in nodes:
        wait_for(lambda d=daemon: d.query("FROM stages WHERE state = 'final'"))
        assert daemon.stop() == 0
        shipped = daemon.run("energyd", "ship", "--store", str(daemon.store), "--lake", str(lake))
        assert shipped.returncode == 0, shipped.stderr
    with open_lake(str(lake)) as reader:
        (run,) = reader.sql("FROM run_totals").dicts()
        parts = reader.sql("SELECT n_stages, total_j FROM run_hosts ORDER BY host").fetchall()
    assert len(run["hosts"]) == len(parts) == 2
    assert round(run["total_j"] * 1e6) == sum(round(j * 1e6) for _, j in parts)
    return run | {"n_each": [n for n, _ in parts]}


def test_tasks_of_ray_mark_against_the_daemons_of_their_nodes_and_are_one_run(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    """The example itself, where daemons listen where clients look by themselves: the node says where."""
    driver = (
        "import ray_tasks\n"
        "ray_tasks.PASSED_ON = ('ENERGYD_RUN_ID',)\n"
        "assert ray_tasks.main(4) > 0\n"
    )
    paths = os.pathsep.join([PATHS, str(ROOT / "examples"), str(ROOT / "tests" / "fleet" / "stub_ray")])
    envs = [{**d.env, "PYTHONPATH": paths} for d in nodes]
    done = subprocess.run(
        [sys.executable, "-c", driver], env=envs[0] | {"FAKE_RAY_NODES": json.dumps(envs)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = in_lake(nodes, tmp_path / "lake")
    assert (run["run"], run["status"], run["n_stages"], run["n_each"]) == ("ray-demo", "ok", 4, [2, 2])


def test_the_job_script_of_slurm_makes_one_run_of_its_tasks_on_two_nodes(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    job = tmp_path / "job"
    job.mkdir()
    (job / "train.py").write_text(
        "import energyd_client as energy, time\n"
        "with energy.run('train'), energy.stage('rank') as stage:\n"
        "    time.sleep(0.3); stage.count(label=10)\n"
    )
    srun = job / "srun"  # hands its own environment to a task on each node, as Slurm's does
    lines = [f"env {' '.join(f'{k}={d.env[k]}' for k in ('ENERGYD_ENDPOINT', 'ENERGYD_SPOOL'))} \"$@\" &"
             for d in nodes]  # fmt: skip
    srun.write_text("\n".join(["#!/bin/bash", *lines, "wait -n && wait -n", ""]))
    srun.chmod(0o755)
    env = nodes[0].env | {
        "PATH": f"{job}:{os.environ['PATH']}", "PYTHONPATH": PATHS, "ENERGYD_PYTHON": sys.executable,
        "SLURM_JOB_ID": "77", "SLURM_CLUSTER_NAME": "c1", "SLURM_RESTART_COUNT": "1",
        "ENERGYD_STAGE_ID": "of-the-prolog",
    }  # fmt: skip
    script = ROOT / "deploy" / "slurm" / "job.sh"
    done = subprocess.run(
        ["bash", str(script)], cwd=job, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    run = in_lake(nodes, tmp_path / "lake")
    assert (run["run_id"], run["tokens"], run["n_each"]) == ("slurm-c1-77-1", 20, [1, 1])


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
    run = in_lake(nodes, tmp_path / "lake")
    assert (run["run"], run["status"], run["tokens"]) == ("kd", "ok", 200)


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
