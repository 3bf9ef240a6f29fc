"""Measured for real, by daemon, client and store: is the same load called the same, and 3 % more called more?

The power is that of the fake driver, far above any CPU's, so that what this machine's CPU happens to do
(an estimate, most often) does not decide. Sampling, markers, store and energies are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from energyd.store.read import open_reader
from energyq.compare import compare
from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for

PAIRS = 20
MORE = 4
LOAD = """
import sys
from energyd_client import runs, stages
real, at = runs.now_ns, [0]
runs.now_ns = stages.now_ns = lambda: at[0]
def load(name, count):
    first = real()
    for i in range(count):
        at[0] = first + 400_000_000 * i
        while real() < at[0] + 400_000_000:
            time.sleep(0.01)
        with energy.run(f"{name}-{i:02}") as run, run.stage("train"):
            for _ in range(5):
                with run.stage("step"):
                    at[0] += 80_000_000
load(sys.argv[1], int(sys.argv[2]))
"""
"""Runs of five steps, stamped by an ideal schedule once they are over: a busy machine lengthens none."""


@pytest.fixture
def daemon(tmp_path: Path, fake_nvml: FakeNvml) -> Iterator[Daemon]:
    """A daemon over one GPU of about 20 kW with a ripple of 4 % every 170 ms."""
    fake_nvml.play([(0, 19.6e6), (85_000_000, 20.4e6), (170_000_000, 19.6e6)])
    fake_nvml.control("limit_mw 40000000\n")
    env = {key: fake_nvml.env[key] for key in ("LD_LIBRARY_PATH", "FAKE_NVML_CONTROL", "FAKE_NVML_TRACE")}
    daemon = Daemon(tmp_path, env).start()
    yield daemon
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.kill()


def ready(daemon: Daemon) -> bool:
    devices = daemon.status()["devices"]
    return {"gpu", "cpu"} <= {d["domain"] for d in devices} and all(d["last_t_ns"] for d in devices)


@pytest.mark.long
def test_twenty_pairs_of_one_load_are_called_the_same_and_three_percent_more_is_found(
    daemon: Daemon, fake_nvml: FakeNvml
) -> None:
    wait_for(lambda: ready(daemon), 60)
    daemon.finish(f"import sys; sys.argv[1:] = ['same', '{2 * PAIRS}']\n{LOAD}")
    fake_nvml.control("limit_mw 40000000\nscale ring 1.03\n")
    daemon.finish(f"import sys; sys.argv[1:] = ['more', '{MORE}']\n{LOAD}")
    assert daemon.stop() == 0
    with open_reader(daemon.store) as reader:
        same = [compare(reader, f"same-{2 * i:02}", f"same-{2 * i + 1:02}", 0.005) for i in range(PAIRS)]
        more = [compare(reader, f"same-{i:02}", f"more-{i:02}", 0.005) for i in range(MORE)]
    told = [(c.significant, c.ratio, c.ratio_low, c.ratio_high, c.basis) for c in [*same, *more]]
    assert {c.significant for c in [*same, *more]} <= {True, False}, told
    assert [c.significant for c in same].count(True) <= 3, told
    assert [c.significant for c in more].count(True) == MORE, told
    assert all(c.same_board for c in same), told
