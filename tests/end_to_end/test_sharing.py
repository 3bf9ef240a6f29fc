"""Do programs that share GPUs get full and own energy, no joule twice, and a word of strangers?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from light_codecarbon.path import light
from real_daemon import Daemon, wait_for

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

# Says its pid, waits for a line, then does what it was told.
TOLD = """
import os, sys
print(os.getpid(), flush=True)
input()
with energy.run({run!r}) as run:
{body}
print(run.run_id)
"""


UNTIL_EOF = "import sys; sys.stdin.read()"


def program(daemon: Daemon, run: str, body: str) -> tuple[subprocess.Popen[str], int]:
    """A client that waits to be told, and its pid."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    code = TOLD.format(run=run, body=lines)
    command = [sys.executable, "-c", "import energyd_client as energy, time\n" + code]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=daemon.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def done(process: subprocess.Popen[str]) -> str:
    """The run id that it printed at its end."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    return out.strip()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that is no client: a child of the test."""
    with subprocess.Popen([sys.executable, "-c", UNTIL_EOF], stdin=subprocess.PIPE) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Bench:
    """What the store says beside what the fake's curve says."""

    def __init__(self, daemon: Daemon, fake: FakeNvml) -> None:
        self.daemon, self.fake = daemon, fake
        self.offset = int(daemon.query("SELECT offset_ns FROM boots LIMIT 1")[0]["offset_ns"])
        rows = daemon.query("SELECT device, uuid FROM devices WHERE domain = 'gpu'")
        self.gpus = {fake.uuid(k): k for k in range(4)}
        self.index = {r["device"]: self.gpus[r["uuid"]] for r in rows}
        self.device = {index: device for device, index in self.index.items()}

    def row(self, run_id: str, stage: str, gpu: int) -> dict[str, Any]:
        where = f"run_id = '{run_id}' AND stage = '{stage}' AND device = {self.device[gpu]}"
        (row,) = self.daemon.query(f"FROM stage_energy WHERE {where}")
        return row

    def truth_j(self, gpu: int, *windows: tuple[int, int]) -> float:
        """The curve's integral over the union of windows in store time."""
        total, end = 0.0, 0
        for t0, t1 in sorted(windows):
            begin = max(t0, end)
            if t1 > begin:
                total += self.fake.energy_j(gpu, begin - self.offset, t1 - self.offset)
                end = t1
        return total


def window(row: dict[str, Any]) -> tuple[int, int]:
    return row["t0_ns"], row["t1_ns"]


def shared(a: dict[str, Any], b: dict[str, Any]) -> tuple[int, int]:
    return max(a["t0_ns"], b["t0_ns"]), min(a["t1_ns"], b["t1_ns"])


# Windows of a second and more; the fake's ring is a mean of 20 ms on a curve of up to 640 W, so an edge on a
# flank may miss some J.
EDGE_J = 15


def test_two_programs_on_one_gpu_have_full_and_own_energy_by_the_curve_and_sums_count_nothing_twice(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    daemon = make_daemon(light(fake_nvml.env)).start()
    one, _ = program(
        daemon,
        "one",
        """
with run.stage("train"):
    with run.stage("step"): time.sleep(1.2)
    time.sleep(1.3)
""",
    )
    two, _ = program(
        daemon,
        "two",
        """
import threading
def rank(wait_s, for_s):
    time.sleep(wait_s)
    with run.stage(f"rank-{wait_s}"): time.sleep(for_s)
ranks = [threading.Thread(target=rank, args=a) for a in ((0.0, 2.0), (0.8, 2.2))]
for t in ranks: t.start()
for t in ranks: t.join()
""",
    )
    go(one)
    wait_for(lambda: daemon.status()["open_stages"] >= 2)
    go(two)
    run_1, run_2 = done(one), done(two)
    assert daemon.stop() == 0
    bench = Bench(daemon, fake_nvml)
    train, step = bench.row(run_1, "train", 0), bench.row(run_1, "step", 0)
    first, second = bench.row(run_2, "rank-0.0", 0), bench.row(run_2, "rank-0.8", 0)

    for row in (train, step, first, second):
        assert row["energy_j"] == pytest.approx(bench.truth_j(0, window(row)), abs=EDGE_J)
    # What overlaps `train` is the union of both ranks' stages, once.
    common = [shared(train, first), shared(train, second)]
    assert train["overlap_s"] == pytest.approx(_length_s(*common), abs=1e-6)
    assert train["overlap_s"] > 1
    alone_j = bench.truth_j(0, window(train)) - bench.truth_j(0, *common)
    assert train["exclusive_j"] == pytest.approx(alone_j, abs=2 * EDGE_J)
    # Both of the other program's stages overlap `train`, and each other.
    for mine, other in ((first, second), (second, first)):
        strangers = [shared(mine, train), shared(mine, other)]
        assert mine["overlap_s"] == pytest.approx(_length_s(*strangers), abs=1e-6)
        alone_j = bench.truth_j(0, window(mine)) - bench.truth_j(0, *strangers)
        assert mine["exclusive_j"] == pytest.approx(alone_j, abs=2 * EDGE_J)
        assert "shared_gpu" in mine["flags"]
    assert "shared_gpu" in train["flags"]

    totals = {r["run_id"]: r for r in daemon.query("FROM run_totals")}
    assert totals[run_1]["gpu_j"] == pytest.approx(train["energy_j"], abs=1e-3)
    union_j = bench.truth_j(0, window(first), window(second))
    assert totals[run_2]["gpu_j"] == pytest.approx(union_j, abs=EDGE_J)
    assert totals[run_2]["gpu_j"] < first["energy_j"] + second["energy_j"] - 50
    assert totals[run_2]["staged_s"] == pytest.approx(_length_s(window(first), window(second)), abs=1e-6)
    assert daemon.run("energyq", "--store", str(daemon.store), "verify").returncode == 0


def _length_s(*windows: tuple[int, int]) -> float:
    total, end = 0, 0
    for t0, t1 in sorted(windows):
        total += max(t1 - max(t0, end), 0)
        end = max(end, t1)
    return total / 1e9


def test_two_programs_on_two_gpus_of_which_one_is_shared_are_charged_by_gpu(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    fake_nvml.control("devices 2\n")
    daemon = make_daemon(light(fake_nvml.env)).start()
    one, _ = program(daemon, "one", 'with run.stage("both", devices=[0, 1]): time.sleep(2.4)')
    two, _ = program(daemon, "two", 'with run.stage("second", devices=[1]): time.sleep(1.0)')
    go(one)
    wait_for(lambda: daemon.status()["open_stages"] == 1)
    go(two)
    run_1, run_2 = done(one), done(two)
    assert daemon.stop() == 0
    bench = Bench(daemon, fake_nvml)
    on_0, on_1 = bench.row(run_1, "both", 0), bench.row(run_1, "both", 1)
    second = bench.row(run_2, "second", 1)
    assert daemon.query(f"FROM stage_energy WHERE run_id = '{run_2}' AND domain = 'gpu'") == [second]
    for gpu, row in ((0, on_0), (1, on_1), (1, second)):
        assert row["energy_j"] == pytest.approx(bench.truth_j(gpu, window(row)), abs=EDGE_J)
    assert (on_0["overlap_s"], on_0["exclusive_j"]) == (0, on_0["energy_j"])
    assert "shared_gpu" not in on_0["flags"]
    inside = shared(on_1, second)
    assert on_1["overlap_s"] == second["overlap_s"] == pytest.approx(_length_s(inside), abs=1e-6)
    alone_j = bench.truth_j(1, window(on_1)) - bench.truth_j(1, inside)
    assert on_1["exclusive_j"] == pytest.approx(alone_j, abs=2 * EDGE_J)
    assert "shared_gpu" in on_1["flags"]
    assert "shared_gpu" in second["flags"]
    totals = {r["run_id"]: r for r in daemon.query("FROM run_totals")}
    assert totals[run_1]["gpu_j"] == pytest.approx(on_0["energy_j"] + on_1["energy_j"], abs=1e-3)
    assert totals[run_2]["gpu_j"] == pytest.approx(second["energy_j"], abs=1e-3)


def test_a_stage_on_a_mig_instance_has_the_whole_gpus_energy_and_says_so(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    fake_nvml.control("mig 0 1\n")
    daemon = make_daemon(light(fake_nvml.env)).start()
    mig = f"MIG-{fake_nvml.uuid(0)}/1/0"
    process, _ = program(daemon, "slice", f'with run.stage("train", devices=["{mig}"]): time.sleep(1.5)')
    go(process)
    run_id = done(process)
    assert daemon.stop() == 0
    bench = Bench(daemon, fake_nvml)
    row = bench.row(run_id, "train", 0)
    assert "mig" in row["flags"]
    assert row["energy_j"] == pytest.approx(bench.truth_j(0, window(row)), abs=EDGE_J)


def listed(daemon: Daemon, seconds: float = 1.3) -> None:
    """Wait until NVML's list, read once a second, has been read anew."""
    later = time.time_ns() + int(seconds * 1e9)  # the newest in the store may be seconds old
    wait_for(lambda: (daemon.query("SELECT max(t_ns) AS t FROM conditions")[0]["t"] or 0) > later)


def test_a_foreign_process_on_the_gpu_flags_the_stage_and_its_energy_is_split_only_as_an_estimate(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, stranger: subprocess.Popen[bytes]
) -> None:
    daemon = make_daemon(light(fake_nvml.env)).start()
    process, pid = program(
        daemon,
        "run",
        """
with run.stage("alone"): time.sleep(1.5)
input()
with run.stage("shared"): time.sleep(2.5)
""",
    )
    fake_nvml.control(f"pids 0 {pid}\nbusy 0 {pid} 60\n")
    listed(daemon)
    go(process)
    wait_for(lambda: daemon.query("FROM stages WHERE name = 'alone' AND state = 'final'"), 60)
    fake_nvml.control(f"pids 0 {pid} {stranger.pid}\nbusy 0 {pid} 60 {stranger.pid} 20 4294967295 37100\n")
    listed(daemon)
    go(process)
    run_id = done(process)
    assert daemon.stop() == 0
    bench = Bench(daemon, fake_nvml)
    alone, both = bench.row(run_id, "alone", 0), bench.row(run_id, "shared", 0)
    assert "shared_gpu" not in alone["flags"]
    assert both["flags"] == ["shared_gpu"]
    # A stranger has no stage: nothing is known of its share, so full and exclusive energy are the same.
    assert both["exclusive_j"] == both["energy_j"]
    assert both["energy_j"] == pytest.approx(bench.truth_j(0, window(both)), abs=EDGE_J)
    used = daemon.query("SELECT pid, sm_percent, count(*) AS n FROM shares GROUP BY ALL ORDER BY ALL")
    assert {(r["pid"], r["sm_percent"]) for r in used} == {(pid, 60), (stranger.pid, 20)}
    within = daemon.query(f"FROM shares WHERE t_ns BETWEEN {both['t0_ns']} AND {both['t1_ns']}")
    (split,) = daemon.query("FROM energy_split_estimate")
    assert (split["stage_id"], split["pid"], split["n"]) == (both["stage_id"], pid, len(within))
    assert split["n"] >= 2
    assert split["sm_share"] == pytest.approx(0.75)
    assert split["estimate_j"] == pytest.approx(both["energy_j"] * 0.75)
    assert daemon.query(f"SELECT gpu_j FROM stage_totals WHERE stage_id = '{both['stage_id']}'") == [
        {"gpu_j": both["energy_j"]}
    ]


def test_the_runs_own_child_and_a_process_that_cannot_be_seen_flag_nothing(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    daemon = make_daemon(light(fake_nvml.env)).start()
    process, pid = program(
        daemon,
        "run",
        """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(worker.pid, flush=True)
input()
with run.stage("train"): time.sleep(2.2)
worker.communicate()
""",
    )
    go(process)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    fake_nvml.control(f"pids 0 {pid} {worker} {gone.pid}\nbusy 0 {pid} 50 {worker} 30\n")
    listed(daemon)
    go(process)
    run_id = done(process)
    assert daemon.stop() == 0
    row = Bench(daemon, fake_nvml).row(run_id, "train", 0)
    assert row["flags"] == []
    assert {r["pid"] for r in daemon.query("FROM shares")} == {pid, worker}
    assert daemon.query("FROM energy_split_estimate") == []


def test_a_foreign_process_is_remembered_by_a_stage_that_outlives_the_daemon(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, stranger: subprocess.Popen[bytes]
) -> None:
    daemon = make_daemon(light(fake_nvml.env)).start()
    process, pid = program(
        daemon,
        "run",
        """
with run.stage("train"): input()
""",
    )
    fake_nvml.control(f"pids 0 {pid} {stranger.pid}\n")
    go(process)
    wait_for(lambda: daemon.status()["open_stages"] == 1)
    listed(daemon)
    daemon.kill()  # the list was stored together with what it told of the stage
    fake_nvml.control(f"pids 0 {pid}\n")
    daemon.start()
    wait_for(lambda: daemon.status()["clients"] == 1)
    listed(daemon)
    go(process)
    out, _ = process.communicate(timeout=60)  # it says on stderr that the daemon was away
    run_id = out.strip()
    assert daemon.stop() == 0
    assert "shared_gpu" in Bench(daemon, fake_nvml).row(run_id, "train", 0)["flags"]


def test_a_gpu_with_mig_tells_no_utilisation_and_is_not_asked_again(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml, stranger: subprocess.Popen[bytes]
) -> None:
    daemon = make_daemon(light(fake_nvml.env))
    process, pid = program(daemon, "run", 'with run.stage("train"): time.sleep(2.2)')
    fake_nvml.control(f"mig 0 1\npids 0 {pid} {stranger.pid}\nbusy 0 {pid} 50 {stranger.pid} 30\n")
    daemon.start()
    go(process)
    run_id = done(process)
    assert daemon.stop() == 0
    assert daemon.query("FROM shares") == []
    flags = Bench(daemon, fake_nvml).row(run_id, "train", 0)["flags"]
    assert {"mig", "shared_gpu"} <= set(flags)
    (split,) = daemon.query("FROM energy_split_estimate")
    assert (split["sm_share"], split["estimate_j"], split["n"]) == (None, None, 0)
