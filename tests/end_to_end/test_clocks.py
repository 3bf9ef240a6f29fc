"""Do the wall clock, a suspend, another time namespace or a late scheduler ever cost a wrong joule?"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fake_clock.build import FakeClock, build
from light_codecarbon.path import light
from real_daemon import Daemon, wait_for
from staged import Staged, status

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml


@pytest.fixture(scope="session")
def fake_clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build(tmp_path_factory.mktemp("fake_clock"))
    if library is None:
        pytest.skip("gcc missing")
    return library


@pytest.fixture
def fake_clock(fake_clock_library: Path, tmp_path: Path) -> FakeClock:
    return FakeClock(fake_clock_library, tmp_path)


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, fake_clock: FakeClock) -> Daemon:
    """A daemon on two fake GPUs and fake clocks, with a counter read of each."""
    fake_nvml.control("devices 2\n")
    daemon = make_daemon(light({**fake_nvml.env, **fake_clock.env})).start()
    wait_for(lambda: daemon.query("SELECT count(DISTINCT device) AS n FROM counters")[0]["n"] == 2)
    return daemon


def gaps_are_over(daemon: Daemon, n: int) -> None:
    wait_for(lambda: status(daemon)["gaps"] >= n)


STEPS_S = {"five-ahead": 5.0, "five-back": -5.0, "little-ahead": 0.2, "little-back": -0.2}


@pytest.mark.fault(
    "The wall clock is set",
    seen="A gap `clock_step`, bridged.",
    lost="Nothing: edges and joules do not move.",
)
def test_a_set_wall_clock_is_a_bridged_gap_and_moves_no_edge(
    daemon: Daemon, fake_nvml: FakeNvml, fake_clock: FakeClock
) -> None:
    stage = Staged(daemon, *STEPS_S)
    for k, step_s in enumerate(STEPS_S.values(), 1):
        time.sleep(0.6)
        fake_clock.set(step_s)
        gaps_are_over(daemon, 2 * k)
        stage.next() if k < len(STEPS_S) else stage.end()
    costs = stage.costs(fake_nvml)
    assert len(costs) == 2 * len(STEPS_S)
    for (name, _), cost in costs.items():
        assert cost.no_wrong_joule(), cost
        assert cost.reasons == ["clock_step"], cost
        assert cost.row["energy_j"] is not None
        assert "bridged" in cost.row["flags"]
        assert 0 < cost.row["coverage"] < 1
        seconds = (cost.row["t1_ns"] - cost.row["t0_ns"]) / 1e9
        assert seconds == pytest.approx(stage.lasted_s[name], abs=0.15)
    daemon.stop()
    clocks = daemon.query("SELECT DISTINCT t_ns - boottime_ns AS offset_ns FROM clocks")
    assert clocks == daemon.query("SELECT DISTINCT offset_ns FROM boots")


@pytest.mark.fault(
    "Suspend",
    seen="A gap `suspend`.",
    lost="Samples of the night; energy is NULL where the counter began anew.",
)
def test_a_suspend_is_a_gap_that_a_counter_that_lived_on_bridges_and_one_that_began_anew_does_not(
    daemon: Daemon, fake_nvml: FakeNvml, fake_clock: FakeClock
) -> None:
    stage = Staged(daemon, "nap", "night")
    time.sleep(0.7)
    fake_clock.sleep(30)
    gaps_are_over(daemon, 2)
    stage.next()
    time.sleep(0.7)
    fake_nvml.control("devices 2\ncounter_reset device=1\n")
    fake_clock.sleep(30)
    gaps_are_over(daemon, 4)
    stage.end()
    costs = stage.costs(fake_nvml)
    for device in (0, 1):
        nap = costs["nap", device]
        assert nap.no_wrong_joule(), nap
        assert nap.reasons == ["suspend"]
        assert "bridged" in nap.row["flags"]
        assert nap.row["coverage"] < 0.2
        assert nap.row["t1_ns"] - nap.row["t0_ns"] > 30e9
    assert costs["night", 0].no_wrong_joule(), costs
    assert costs["night", 0].reasons == ["suspend"]
    assert costs["night", 0].row["energy_j"] > 30 * 120
    assert costs["night", 1].reasons == ["reset"]
    assert costs["night", 1].row["energy_j"] is None
    assert costs["night", 1].row["reason"]
    (night,) = daemon.query(f"FROM stage_totals WHERE run_id = '{stage.run_id}' AND stage = 'night'")
    assert (night["gpu_j"], night["total_j"]) == (None, None)
    assert night["reason"].startswith("gpu: ")
    (run,) = daemon.query(f"FROM run_totals WHERE run_id = '{stage.run_id}'")
    assert (run["gpu_j"], run["total_j"]) == (None, None)
    assert run["reason"]


def test_a_nap_shorter_than_the_ring_is_deep_is_no_gap(
    daemon: Daemon, fake_nvml: FakeNvml, fake_clock: FakeClock
) -> None:
    stage = Staged(daemon)
    time.sleep(0.5)
    fake_clock.sleep(1.5)
    time.sleep(0.5)
    stage.end()
    for cost in stage.costs(fake_nvml).values():
        assert cost.no_wrong_joule(), cost
        assert cost.reasons == []
        assert cost.row["coverage"] == 1


@pytest.mark.fault(
    "The daemon is not scheduled for seconds",
    seen="A bridged gap `overrun` beyond the ring's depth.",
    lost="Samples beyond the ring's depth.",
)
def test_a_daemon_that_is_not_scheduled_loses_nothing_within_the_ring_and_beyond_it_has_a_bridged_overrun(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    fake_nvml.control("devices 2\n")
    daemon = make_daemon(light(fake_nvml.env)).start()
    wait_for(lambda: daemon.query("SELECT count(DISTINCT device) AS n FROM counters")[0]["n"] == 2)
    stage = Staged(daemon, "short", "long")
    assert daemon.process is not None

    def stop_for(seconds: float) -> None:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        daemon.process.send_signal(signal.SIGCONT)

    stop_for(1.0)
    stage.next()
    time.sleep(0.7)
    stop_for(4.0)
    gaps_are_over(daemon, 2)
    stage.end(warned="no answer to our greeting")  # which the program saw, and was right
    costs = stage.costs(fake_nvml)
    for device in (0, 1):
        short, long = costs["short", device], costs["long", device]
        assert short.no_wrong_joule(), short
        assert short.reasons == []
        assert short.row["coverage"] == 1
        assert long.no_wrong_joule(), long
        assert long.reasons == ["overrun"]
        assert "bridged" in long.row["flags"]
        assert long.row["energy_j"] is not None


@pytest.mark.fault(
    "A program in a container",
    seen="In another time namespace its stages are placed by arrival and flagged "
    "`arrival_time`; in another pid and user namespace nothing changes.",
    lost="Nothing.",
)
@pytest.mark.parametrize("ahead_s", [5000, -20])  # one the daemon might tell by its being in the future
def test_a_program_in_another_time_namespace_is_placed_by_arrival_and_flagged(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, ahead_s: int
) -> None:
    elsewhere = ["unshare", "--time", f"--boottime={ahead_s}", "--fork"]
    unshare = shutil.which("unshare")
    tried = unshare and subprocess.run([*elsewhere, "true"], capture_output=True, text=True, check=False)
    if not tried or tried.returncode != 0:
        pytest.skip(f"no time namespace here: {tried.stderr.strip() if tried else 'unshare missing'}")
    daemon = make_daemon(light(fake_nvml.env)).start()
    code = (
        "import energyd_client as energy, time\n"
        "with energy.run('r') as run:\n"
        "    with run.stage('s'): time.sleep(1.5)\n"
        "assert energy.flush(10)\nprint(time.clock_gettime_ns(time.CLOCK_BOOTTIME))"
    )
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    out = subprocess.run(
        [*elsewhere, sys.executable, "-c", code],
        env=daemon.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    here_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert (out.returncode, out.stderr) == (0, "")
    assert int(out.stdout) == pytest.approx(here_ns + ahead_s * 1e9, abs=5e9)
    (stage,) = wait_for(lambda: daemon.query("FROM stages WHERE state = 'final'"), 60)
    assert "arrival_time" in stage["flags"]
    assert stage["doubt_ns"] >= 20_000_000
    (offset,) = {row["offset_ns"] for row in daemon.query("FROM boots")}
    t0, t1 = stage["t0_ns"] - offset, stage["t1_ns"] - offset
    assert began_ns < t0 < t1 <= here_ns
    assert t1 - t0 == pytest.approx(1.5e9, abs=0.5e9)
    (row,) = daemon.query("FROM stage_energy WHERE domain = 'gpu'")
    assert "arrival_time" in row["flags"]
    assert row["energy_j"] == pytest.approx(fake_nvml.energy_j(0, t0, t1), rel=0.05)
    wait_for(lambda: not list(daemon.spool.iterdir()))
