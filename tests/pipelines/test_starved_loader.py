"""Is a training whose loader lets the GPU wait called STARVED, and one that is fed not?

The GPU is the fake library's: it plays a curve by the clock, and the training keeps to that clock. So power
follows what the program does, as a real board's does; daemon, client, recipe and answers are the real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fake_nvml.build import FakeNvml
from real_daemon import Daemon

IDLE_W, BUSY_W = 100, 600
WAITS = 0.65  # s of each second that the slow loader takes; the GPU works in the rest of it
EDGES_S = (0, 1, 5, 6 + WAITS, 7, 7 + WAITS, 8, 8 + WAITS, 9, 10)  # idle, busy, idle, busy … from 0 on

STUDY = """
import os, sys, time

from importlib import import_module
from energyd_pipelines import loop, processes
from energyd_pipelines.cli import cli

sft = import_module("energyd_pipelines.recipes.sft")
begin = processes.begin
place = lambda *given: processes.Processes(0, 1, begin(*given).device, [0])  # work is "on" the fake GPU
import_module("energyd_pipelines.grid").proc.begin = place
current = None

def until(moment):  # of the curve's round
    time.sleep((moment - time.clock_gettime(time.CLOCK_BOOTTIME)) % 10)

def prerun(*given, then=sft.prerun):
    until(5.2 if slow() else 0.2)
    return then(*given)

def prepare_data(cell, stage, then=sft.prepare_data):
    then(cell, stage)
    until(6.0 if slow() else 1.1)

def slow():
    return current.seed == 1

def current_cell(self, then=import_module("energyd_pipelines.cell").Cell.begin):
    global current
    current = self
    return then(self)

def load(self, step, then=loop.Schedule.step):
    if slow():
        time.sleep({waits})  # the defect
    return then(self, step)

def train_step(*given, then=loop.train_step, **named):
    done = then(*given, **named)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    time.sleep(-now % 1 if slow() else 0.5)  # the GPU computes
    return done

import_module("energyd_pipelines.cell").Cell.begin = current_cell
sft.prerun, sft.prepare_data, loop.Schedule.step, loop.train_step = prerun, prepare_data, load, train_step
cli({words!r})
"""
WORDS = (
    "run", "quick", "pipelines=[sft]", "seeds=[0, 1]", "students=[{name: S, width: 16, layers: 1, heads: 2}]",
    "data.n=64", "data.n_eval=10", "train.batch=16", "train.steps=3", "train.group_steps=1",
    "prerun.idle_s=0.5",
)  # fmt: skip


def knots() -> list[tuple[int, float]]:
    """The curve as the library takes it, edges of 10 ms."""
    found = [(0, IDLE_W * 1000.0)]
    for i, edge in enumerate(EDGES_S[1:-1]):
        before, after = (IDLE_W, BUSY_W) if i % 2 == 0 else (BUSY_W, IDLE_W)
        found += [(int(edge * 1e9), before * 1000.0), (int(edge * 1e9) + 10_000_000, after * 1000.0)]
    return [*found, (10**10, IDLE_W * 1000.0)]


@pytest.mark.long  # program and curve meet by the clock, which busy neighbours may keep it from
def test_a_loader_that_lets_the_gpu_wait_is_caught_and_one_that_feeds_it_is_not(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    fake_nvml.play(knots())
    env = fake_nvml.env | {"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    daemon = Daemon(tmp_path, env).start()
    try:
        program = STUDY.format(waits=WAITS, words=list(WORDS))
        done = subprocess.run(
            [sys.executable, "-c", program], env=daemon.env, cwd=tmp_path, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        fed, slow = (line for line in done.stdout.splitlines() if line.startswith("sft-S"))
        assert "STARVED" not in fed
        assert "STARVED: 6" in slow
        told = daemon.run("energyq", "--store", str(daemon.store), "stages", "--format", "json")
        stored = [s for s in json.loads(told.stdout) if s["stage"] == "student.train"]
        results = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("runs/*/*/result.json"))]
    finally:
        daemon.kill()
    assert results[0]["starved_share"] < 0.25
    assert results[1]["starved_share"] == pytest.approx(WAITS, abs=0.12)
    (latest,) = stored  # of the latest run: SQL by the same definition, from the store's samples
    assert latest["starved_share"] == pytest.approx(results[1]["starved_share"], abs=0.03)
