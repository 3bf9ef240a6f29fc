"""Does a program's stage cost what the machine's power says, through every real process in between?"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from real_daemon import Daemon, wait_for

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

NESTED = """
with energy.run("train-1b", pipeline="sft", seed=3) as run:
    with run.stage("prerun"):
        time.sleep(0.6)
    with run.stage("train") as stage:
        for _ in range(2):
            with run.stage("step"):
                time.sleep(0.4)
            stage.count(label=512, positions=1024)
    run.metric("exact_match", 0.5, n=10)
print(run.run_id)
"""


def of_stage(daemon: Daemon, run_id: str, stage: str, domain: str = "gpu") -> list[dict[str, Any]]:
    where = f"run_id = '{run_id}' AND stage = '{stage}' AND domain = '{domain}'"
    return daemon.query(f"FROM stage_energy WHERE {where} ORDER BY t0_ns")


def offset_ns(daemon: Daemon) -> int:
    return int(daemon.query("SELECT offset_ns FROM boots LIMIT 1")[0]["offset_ns"])


def test_a_stage_on_nvml_costs_the_curves_own_integral_and_the_counter_agrees(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    daemon = make_daemon(fake_nvml.env).start()
    run_id = daemon.finish(NESTED.replace("0.4", "1.2")).strip()
    assert daemon.stop() == 0
    (train,) = of_stage(daemon, run_id, "train")
    offset = offset_ns(daemon)
    truth_j = fake_nvml.energy_j(0, train["t0_ns"] - offset, train["t1_ns"] - offset)
    assert train["source"] == "ring"
    assert train["energy_j"] == pytest.approx(truth_j, rel=0.01)
    # The counter steps every 100 ms, and each of the two reads may be that old at up to 640 W.
    assert train["counter_j"] == pytest.approx(truth_j, abs=130)
    assert train["coverage"] == 1
    assert train["n_samples"] == pytest.approx(120, abs=3)
    steps = of_stage(daemon, run_id, "step")
    assert len(steps) == 2
    left = train["energy_j"] - sum(s["energy_j"] for s in steps)
    assert train["self_j"] == pytest.approx(left, abs=1e-3)
    totals = daemon.query(f"FROM stage_totals WHERE run_id = '{run_id}' AND stage = 'train'")[0]
    assert totals["tokens"] == 1024
    assert totals["token_unit"] == "label"
    assert daemon.run("energyq", "--store", str(daemon.store), "verify").returncode == 0


def test_rows_of_simulated_power_say_so_and_equal_the_closed_form(daemon: Daemon) -> None:
    from energyd.sources.simulated import SimulatedSource

    daemon.start(source="simulated")
    run_id = daemon.finish(NESTED).strip()
    daemon.stop()
    offset = offset_ns(daemon)
    curves = SimulatedSource()
    rows = daemon.query(f"FROM stage_energy JOIN devices USING (device) WHERE run_id = '{run_id}'")
    assert len(rows) >= 3 * 4
    for row in rows:
        assert "simulated" in row["flags"]
        exact_j = curves.energy_j(row["uuid"], row["t0_ns"] - offset, row["t1_ns"] - offset)
        # A square wave's flank is drawn one sample wide (20 ms): at most one flank per edge is cut in two.
        step_j = 20e-3 / 2 * 500 * 2 if "square" in row["name"] else 0.05
        assert row["energy_j"] == pytest.approx(exact_j, rel=2e-3, abs=step_j)


def test_a_program_that_began_before_the_daemon_is_stored_when_it_comes(daemon: Daemon) -> None:
    process = daemon.program(
        "with energy.run('early') as run:\n"
        "    with run.stage('first'): time.sleep(0.1)\n"
        "    time.sleep(4)\n"
        "    with run.stage('second'): time.sleep(0.5)\n"
        "print(run.run_id)"
    )
    daemon.start(source="simulated")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    daemon.stop()
    rows = daemon.query(f"FROM stage_totals WHERE run_id = '{out.strip()}' ORDER BY t0_ns")
    assert [r["stage"] for r in rows] == ["first", "second"]
    assert rows[1]["gpu_j"] > 0


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_stage_survives_the_daemons_death_and_its_energy_covers_the_hole(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    daemon = make_daemon(fake_nvml.env).start()
    enough = tmp_path / "enough"
    process = daemon.program(
        "import os\n"
        "with energy.run('long') as run:\n"
        "    with run.stage('train') as stage:\n"
        "        for k in range(16):\n"
        "            stage.count(label=1)\n"
        "            time.sleep(0.3)\n"
        f"        while not os.path.exists({str(enough)!r}): time.sleep(0.05)\n"
        "print(run.run_id, energy.flush(10))"
    )
    # Both edges must lie outside the hole: inside it nobody knows how its energy is spread, and how long
    # a daemon takes to start is a matter of load.
    gpu = "FROM stages s, samples x JOIN devices d USING (device) WHERE d.domain = 'gpu'"
    wait_for(lambda: daemon.query(f"SELECT count(*) AS n {gpu} AND x.t_ns > s.t0_ns")[0]["n"])
    wait_for(lambda: daemon.query("SELECT count(*) AS n FROM counters")[0]["n"] > 1)
    daemon.kill()
    time.sleep(3.5)  # longer than the ring is deep (2.4 s), so that samples are really lost
    daemon.start()
    behind = "FROM gaps g JOIN devices d USING (device) WHERE d.domain = 'gpu'"
    wait_for(lambda: daemon.query(f"SELECT count(*) AS n {behind}")[0]["n"], 40)
    enough.touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    run_id, flushed = out.split()
    assert flushed == "True"
    daemon.stop()
    (row,) = of_stage(daemon, run_id, "train")
    offset = offset_ns(daemon)
    truth_j = fake_nvml.energy_j(0, row["t0_ns"] - offset, row["t1_ns"] - offset)
    assert row["flags"] == ["bridged"]
    assert row["coverage"] < 1
    # The counter steps every 100 ms, so each end of the hole is known to about 60 J.
    assert row["energy_j"] == pytest.approx(truth_j, abs=130)
    assert row["energy_j"] == pytest.approx(truth_j, abs=row["u_total_j"])
    # The CPU's estimate comes once a second or so: whether 3.5 s are a gap for it is a matter of load.
    (gap,) = daemon.query("SELECT g.* FROM gaps g JOIN devices d USING (device) WHERE d.domain = 'gpu'")
    assert gap["reason"] == "daemon_down"
    hole_j = fake_nvml.energy_j(0, gap["t0_ns"] - offset, gap["t1_ns"] - offset)
    assert gap["bridged_uj"] / 1e6 == pytest.approx(hole_j, abs=130)
    counted = daemon.query(f"SELECT counts->>'label' AS n FROM stages WHERE run_id = '{run_id}'")
    assert counted == [{"n": "16"}]


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_run_that_ends_without_the_daemon_is_charged_to_an_estimate_that_takes_seconds_to_start(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()  # no GPU, no RAPL: CodeCarbon alone
    cpu = "samples x JOIN devices d USING (device) WHERE d.source = 'codecarbon'"
    wait_for(lambda: daemon.query(f"SELECT count(*) AS n FROM {cpu}")[0]["n"] > 1, 60)
    down = tmp_path / "down"
    process = daemon.program(
        "import os\n"
        "with energy.run('long') as run:\n"
        "    with run.stage('train'):\n"
        f"        while not os.path.exists({str(down)!r}): time.sleep(0.02)\n"
        "print(run.run_id)"
    )
    begun = "FROM stages s, samples x WHERE x.t_ns > s.t0_ns"
    wait_for(lambda: daemon.query(f"SELECT count(*) AS n {begun}")[0]["n"], 60)
    daemon.kill()
    down.touch()
    out, _ = process.communicate(timeout=60)  # its end waits in its spool
    daemon.start()
    of_run = f"WHERE run_id = '{out.strip()}'"
    wait_for(lambda: daemon.query(f"FROM stages {of_run} AND state = 'final'"), 60)
    (row,) = daemon.query(f"FROM stage_totals {of_run}")
    (energy,) = of_stage(daemon, out.strip(), "train", "cpu")
    assert (energy["energy_j"], energy["reason"]) == (None, "gap_without_counter")
    assert (row["total_j"], row["cpu_j"]) == (None, None)
    assert row["reason"] == "cpu: gap_without_counter"
    (gap,) = daemon.query("SELECT g.* FROM gaps g JOIN devices d USING (device) WHERE d.domain = 'cpu'")
    assert (gap["reason"], gap["bridged_uj"]) == ("daemon_down", None)
    assert gap["t0_ns"] < row["t1_ns"] < gap["t1_ns"]


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_killed_program_leaves_aborted_stages_and_all_its_markers(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    process = daemon.program(
        "import os, signal\n"
        "with energy.run('doomed') as run:\n"
        "    with run.stage('train') as stage:\n"
        "        time.sleep(0.7)\n"
        "        for k in range(100): stage.count(label=1)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    (row,) = wait_for(lambda: daemon.query("FROM stages WHERE status = 'aborted' AND state = 'final'"))
    assert 0.7e9 < row["t1_ns"] - row["t0_ns"] < 3e9
    assert daemon.query("SELECT count(*) AS n FROM markers WHERE kind = 'count'") == [{"n": 100}]
    assert daemon.query("SELECT status FROM runs") == [{"status": "aborted"}]
    wait_for(lambda: not list(daemon.spool.iterdir()))
    daemon.stop()


def test_child_processes_join_the_run_and_their_stages_are_children(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    run_id = daemon.finish(
        "import os, subprocess, sys\n"
        "child = '''import energyd_client as energy, time\n"
        "with energy.run('ignored', rank=1) as run:\n"
        "    with run.stage('worker') as s:\n"
        "        time.sleep(0.3); s.count(label=5)\n'''\n"
        "with energy.run('parent') as run:\n"
        "    with run.stage('train') as stage:\n"
        "        subprocess.run([sys.executable, '-c', child], check=True)\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            with run.stage('forked'): time.sleep(0.2)\n"
        "            energy.flush(5); os._exit(0)\n"
        "        os.waitpid(pid, 0)\n"
        "        stage.count(label=1)\n"
        "print(run.run_id)"
    ).strip()
    daemon.stop()
    rows = {r["stage"]: r for r in daemon.query(f"FROM stage_totals WHERE run_id = '{run_id}'")}
    assert set(rows) == {"train", "worker", "forked"}
    assert rows["worker"]["parent_id"] == rows["forked"]["parent_id"] == rows["train"]["stage_id"]
    assert rows["train"]["tokens"] == 6
    assert {r["status"] for r in rows.values()} == {"ok"}
    assert daemon.query("SELECT count(*) AS n FROM runs") == [{"n": 1}]


def test_every_window_of_the_recorded_square_waves_has_the_files_own_energy(
    daemon: Daemon, traces: Any
) -> None:
    import gzip
    import json

    import numpy as np

    folder = traces / "h100_square_waves"
    daemon.start("--speed", "40", source=f"replay:{folder}", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(timeout=60) == 0
    with gzip.open(folder / "ring.csv.gz", "rt") as file:
        t, p = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.int64, unpack=True)
    windows = json.loads((folder / "windows.json").read_text())
    rows = {r["stage"]: r for r in daemon.query("FROM stage_energy")}
    assert len(windows) == len(rows) >= 6
    for window in windows:
        t0, t1 = window["begin_ns"], window["end_ns"]
        inside = t[(t > t0) & (t < t1)]
        grid = np.concatenate(([t0], inside, [t1]))
        numpy_j = float(np.trapezoid(np.interp(grid, t, p), grid)) / 1e12
        row = rows[window["name"]]
        assert row["energy_j"] == pytest.approx(numpy_j, rel=1e-3)
        assert row["energy_j"] == pytest.approx(window["counter_j"], rel=1e-2)
        assert row["t1_ns"] - row["t0_ns"] == t1 - t0
        assert "replayed" in row["flags"]
    assert daemon.run("energyq", "--store", str(daemon.store), "verify").returncode == 0
