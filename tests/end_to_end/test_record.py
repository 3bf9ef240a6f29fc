"""Is a recording a trace that a daemon plays, with the joules that there were?"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from energyd.sources import DeviceInfo, SensorInfo
from energyd.sources.simulated import energy_j
from energyd.sources.trace import load
from real_daemon import Daemon, wait_for

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

RECORD = [sys.executable, "-m", "energyd", "record"]


def recorded(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RECORD, *words], capture_output=True, text=True, timeout=60, check=False, **more)  # type: ignore[call-overload, no-any-return]


def test_a_recording_has_the_curves_joules_and_a_daemon_that_plays_it_has_them_too(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    folder = tmp_path / "trace"
    out = recorded(str(folder), "--source", "simulated", "--device", "1", "--seconds", "2.5")
    assert out.returncode == 0, out.stderr
    trace, about = load(folder), json.loads((folder / "recording.json").read_text())
    base, t_ns = about["boottime_ns"], trace.t_ns
    truth_j = energy_j("simulated:gpu-1", base + int(t_ns[0]), base + int(t_ns[-1]))
    steps_s, power_w = np.diff(t_ns) / 1e9, trace.power_mw / 1000
    # The square's corners lie on samples: each costs half a step at 500 W, 5 J, and there are three at most.
    assert float(np.sum(steps_s * (power_w[1:] + power_w[:-1]) / 2)) == pytest.approx(truth_j, abs=15)
    assert len(trace.counter_t_ns) >= 2
    assert about["device"]["uuid"] == "simulated:gpu-1"
    daemon = make_daemon().start("--speed", "10", source=f"replay:{folder}", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(timeout=60) == 0
    (played,) = daemon.query("SELECT count(*) AS n, (max(cum_uj) - min(cum_uj)) / 1e6 AS j FROM samples")
    assert played["n"] == len(t_ns)
    assert played["j"] == pytest.approx(truth_j, abs=15)


def test_ctrl_c_ends_a_recording_in_order_and_each_gpu_has_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    words = [*RECORD, str(folder), "--source", "simulated"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    wait_for((folder / "gpu2" / "ring.csv.gz").exists)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[1]
    assert process.returncode in (0, 1), out  # 1: less than two samples by then, and it says so
    assert sorted(one.name for one in folder.iterdir()) == ["gpu0", "gpu1", "gpu2"]
    for one in folder.iterdir():
        with gzip.open(one / "ring.csv.gz", "rt") as lines:
            assert lines.readline() == "t_ns,power_mw\n"


def test_what_nvml_gives_is_recorded_with_its_sensor_and_counter(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    out = recorded(str(folder), "--seconds", "2.5", env=fake_nvml.env)
    assert out.returncode == 0, out.stderr
    trace = load(folder)
    assert trace.sensor == "ring"
    assert len(trace.counter_t_ns) >= 2
    base = json.loads((folder / "recording.json").read_text())["boottime_ns"]
    truth_j = fake_nvml.energy_j(0, base + int(trace.t_ns[0]), base + int(trace.t_ns[-1]))
    steps_s, power_w = np.diff(trace.t_ns) / 1e9, trace.power_mw / 1000
    assert float(np.sum(steps_s * (power_w[1:] + power_w[:-1]) / 2)) == pytest.approx(truth_j, rel=0.02)


def test_a_recording_is_never_written_over_and_an_unknown_gpu_is_named(tmp_path: Path) -> None:
    (tmp_path / "counter.csv.gz").touch()
    out = recorded(str(tmp_path), "--source", "simulated", "--device", "0")
    assert out.returncode == 78
    assert "is there already" in out.stderr
    out = recorded(str(tmp_path / "new"), "--source", "simulated", "--device", "7")
    assert out.returncode == 78
    assert "there are: 0 (simulated:gpu-0)" in out.stderr


def test_power_that_only_the_average_sensor_gives_is_played_as_such(tmp_path: Path) -> None:
    from energyd.record import sensor_of

    device = DeviceInfo(
        uuid="GPU-1", domain="gpu", name="g", source="average", period_ns=10**8, max_step_ns=5 * 10**8,
        sensors=(SensorInfo(sensor="instant", state="absent"), SensorInfo(sensor="average", state="answers")),
    )  # fmt: skip
    assert sensor_of(device) == "average"
    with gzip.open(tmp_path / "polled.csv.gz", "wt") as file:
        file.write("t_ns,average_mw\n0,100\n100000000,200\n")
    assert load(tmp_path).sensor == "average"
