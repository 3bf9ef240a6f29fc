"""Does `energyd run` measure any command without getting in its way?"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from real_daemon import Daemon, wait_for

RUN = [sys.executable, "-m", "energyd", "run"]
JOINING = "import energyd_client as energy, time\nwith energy.stage('inner'): time.sleep(0.2)"
COUNTING = """
import pathlib, signal, sys
signals = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
seen = pathlib.Path(sys.argv[1])
seen.touch()
while True:
    got = signal.Signals(signal.sigwait(signals)).name
    seen.write_text(seen.read_text() + got + " ")
    if got == "SIGUSR1":
        sys.exit(3)
"""


def lonely(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which no daemon runs."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("ENERGYD_")}
    return ours | {"ENERGYD_ENDPOINT": f"ipc://{tmp_path / 'nobody.sock'}", "TMPDIR": str(tmp_path)}


def measured(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], env=env, capture_output=True, text=True, timeout=100, check=False)


def test_the_bill_is_the_stores_own_figure_and_the_programs_inside_join_the_run(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start(source="simulated")
    bill_path = tmp_path / "bill.json"
    inside = f'{sys.executable} -c "{JOINING}"; exit 7'
    out = measured(
        daemon.env, "--name", "job", "-l", "student=1B", "--idle", "0.5", "--json", str(bill_path),
        "--", "sh", "-c", inside,
    )  # fmt: skip
    assert out.returncode == 7, out.stderr
    assert out.stdout == ""
    said = json.loads(bill_path.read_text())
    (row,) = daemon.query(
        "SELECT *, (SELECT sum(n.net_j) FROM stage_net n WHERE n.stage_id = t.stage_id) AS net_j,"
        " (SELECT labels FROM runs) AS labels, (SELECT list(path ORDER BY path) FROM stages) AS paths"
        f" FROM stage_totals t WHERE stage_id = '{said['stage_id']}'"
    )
    for key in (
        "total_j",
        "u_random_j",
        "u_total_j",
        "estimated_share",
        "coverage",
        "seconds",
        "mean_w",
        "net_j",
    ):
        assert said[key] == pytest.approx(row[key]), key
    parts = {part["domain"]: part["energy_j"] for part in said["parts"]}
    assert (parts["gpu"], parts["cpu"]) == pytest.approx((row["gpu_j"], row["cpu_j"]))
    assert (row["run"], row["status"], row["labels"]) == ("job", "error", {"student": "1B", "exit_code": 7})
    assert row["paths"] == ["prerun", "sh", "sh/inner"]
    assert "exit 7" in out.stderr
    assert said["run_id"] in out.stderr


def test_a_signal_sent_to_the_wrapper_reaches_the_command_and_its_death_is_128_and_the_signal(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start(source="simulated")
    flag = tmp_path / "up"
    process = subprocess.Popen(
        [*RUN, "--", "sh", "-c", f"touch {flag}; exec sleep 60"], env=daemon.env, stderr=subprocess.PIPE
    )
    wait_for(flag.exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"total" in err
    assert measured(daemon.env, "-q", "--", "sh", "-c", "kill -KILL $$").returncode == 128 + signal.SIGKILL


def test_ctrl_c_on_the_terminal_reaches_the_command_once_and_the_bill_is_still_told(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start(source="simulated")
    seen = tmp_path / "seen"
    (tmp_path / "counting.py").write_text(COUNTING)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(RUN[0], [*RUN, "--", sys.executable, str(tmp_path / "counting.py"), str(seen)], daemon.env)
    try:
        wait_for(seen.exists)
        # Held while the command takes it, so that a second one could not be lost in the first.
        os.kill(pid, signal.SIGSTOP)
        os.write(terminal, b"\x03")
        wait_for(seen.read_text)
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGUSR1)  # behind what else the wrapper would pass on
        told = b""
        while True:
            try:
                more = os.read(terminal, 4096)
            except OSError:  # the terminal's last user has gone
                break
            if not more:
                break
            told += more
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 3
    assert seen.read_text().split() == ["SIGINT", "SIGUSR1"]
    assert b"exit 3" in told
    assert b"total" in told


def test_without_a_daemon_a_private_one_measures_ends_with_the_command_and_leaves_its_store(
    tmp_path: Path,
) -> None:
    store = tmp_path / "kept"
    out = measured(lonely(tmp_path), "--source", "simulated", "--store", str(store), "--", "sleep", "0.5")
    assert out.returncode == 0, out.stderr
    assert f"kept in {store}" in out.stderr
    assert (store / "lock").read_text() == ""
    asked = [sys.executable, "-m", "energyq", "--store", str(store), "--format", "json", "FROM run_totals"]
    (row,) = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=60).stdout)
    assert (row["run"], row["status"]) == ("sleep", "ok")
    assert row["total_j"] > 0


def test_what_a_command_leaves_running_is_measured_to_its_end_by_the_private_daemon(tmp_path: Path) -> None:
    store, up, go = tmp_path / "kept", tmp_path / "up", tmp_path / "go"
    staying = "import energyd_client as energy, pathlib, time\n"
    staying += f"with energy.stage('stays'):\n energy.flush(30)\n pathlib.Path('{up}').touch()\n"
    staying += f" while not pathlib.Path('{go}').exists(): time.sleep(0.02)\n"
    (tmp_path / "staying.py").write_text(staying)
    script = (
        f"{sys.executable} {tmp_path}/staying.py >/dev/null 2>&1 & while ! test -e {up}; do sleep 0.05; done"
    )
    out = measured(
        lonely(tmp_path), "--source", "simulated", "--store", str(store), "--", "sh", "-c", script
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "programs that it left running are measured until they end" in out.stderr
    go.touch()
    wait_for(lambda: (store / "lock").read_text() == "", timeout_s=60)
    asked = [sys.executable, "-m", "energyq", "--store", str(store), "--format", "json"]
    sql = "SELECT status, state FROM stages WHERE name = 'stays'"
    done = subprocess.run([*asked, sql], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [{"status": "ok", "state": "final"}]


@pytest.mark.fault(
    "kill -9 of `energyd run`",
    seen="Run and stage are `aborted`; a private daemon ends once nothing is open. The command goes on.",
    lost="What the command takes from then on, but for stages of its own programs.",
)
def test_kill_9_of_the_wrapper_ends_the_run_aborted_and_then_the_private_daemon(tmp_path: Path) -> None:
    store, up = tmp_path / "kept", tmp_path / "up"
    words = [
        "--source",
        "simulated",
        "--store",
        str(store),
        "--",
        "sh",
        "-c",
        f"echo $$ > {up}; exec sleep 60",
    ]
    process = subprocess.Popen([*RUN, *words], env=lonely(tmp_path), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: up.exists() and up.read_text())
        asked = [sys.executable, "-m", "energyq", "--store", str(store), "--format", "json"]

        def told(sql: str) -> Any:
            done = subprocess.run([*asked, sql], capture_output=True, check=False, timeout=60)
            return json.loads(done.stdout) if done.returncode == 0 else []

        wait_for(lambda: told("SELECT 1 FROM stages WHERE name = 'sh'"))
        process.kill()
        process.wait()
        wait_for(lambda: (store / "lock").read_text() == "", timeout_s=60)
        assert told("SELECT status FROM runs") == [{"status": "aborted"}]
        assert told("SELECT status, state FROM stages") == [{"status": "aborted", "state": "final"}]
    finally:
        os.kill(int(up.read_text()), signal.SIGKILL)  # what is measured lives on, as under any wrapper


def test_a_command_that_is_not_there_is_127_and_begins_nothing(tmp_path: Path) -> None:
    store = tmp_path / "never"
    out = measured(lonely(tmp_path), "--store", str(store), "--", "no-such-command")
    assert (out.returncode, out.stderr) == (127, "energyd: no-such-command: command not found\n")
    assert not store.exists()
    plain = tmp_path / "plain.txt"
    plain.touch()
    assert measured(lonely(tmp_path), "--", str(plain)).returncode == 126


def test_where_no_daemon_can_be_started_the_command_runs_and_the_bill_says_why_there_is_none(
    tmp_path: Path,
) -> None:
    bill_path = tmp_path / "bill.json"
    (tmp_path / "file").touch()
    out = measured(
        lonely(tmp_path), "--store", str(tmp_path / "file" / "s"), "--json", str(bill_path), "--",
        "sh", "-c", "echo done; exit 5",
    )  # fmt: skip
    assert (out.returncode, out.stdout) == (5, "done\n")
    said = json.loads(bill_path.read_text())
    assert said["total_j"] is None
    assert {part["energy_j"] for part in said["parts"]} == {None}
    assert "no daemon" in said["reason"]
    assert "unmeasured" in out.stderr


@pytest.mark.parametrize(
    ("command", "name"),
    [("python3.11 -u a/train.py", "train"), ("python -m torch.run x.py", "torch.run"), ("make all", "make")],
)
def test_a_run_is_named_after_the_script_or_the_program(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from energyd.measured import name_of

    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/train.py").touch()
    assert name_of(command.split()) == name
