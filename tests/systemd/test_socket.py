"""Where systemd holds the socket: is nobody refused while the daemon starts, dies or is replaced?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import INSIDE, Machine

from energyd.activation import handed_over
from energyd.config import ConfigError
from real_daemon import wait_for

Boot = Callable[..., Machine]
PROGRAM = "import energyd_client as energy\nwith energy.run('{name}'), energy.stage('s'): pass\n"
KNOCKS = """import os, socket, sys, time
there, until = sys.argv[1:]
refused = tried = 0
while not os.path.exists(until):
    knock = socket.socket(socket.AF_UNIX)
    tried += 1
    try:
        knock.connect(there)
    except OSError:
        refused += 1
    knock.close()
    time.sleep(0.01)
print(tried, refused)
"""


def stored(machine: Machine, name: str) -> bool:
    sql = (
        f"SELECT 1 FROM stages JOIN runs USING (run_id) WHERE runs.name = '{name}' AND stages.state = 'final'"
    )
    return machine.show("ActiveState") == "active" and bool(machine.query(sql))


def program(machine: Machine, name: str) -> None:
    out = machine.python("-W", "error", "-c", PROGRAM.format(name=name), user="nobody", group="energyd")
    assert out.returncode == 0, machine.told()
    # It may end before the daemon is there; then it says that its markers are kept.
    assert out.stderr == "" or "markers are kept and sent when it answers" in out.stderr


@pytest.mark.fault(
    "The service is restarted or upgraded while programs begin (`install-service --socket`)",
    seen="Nothing: systemd holds the socket, so who comes waits for the next daemon.",
    lost="As when it is killed; no marker.",
)
def test_the_first_program_starts_the_daemon_and_no_restart_or_kill_refuses_anybody(boot: Boot) -> None:
    machine = boot(unit=True, socket=True)
    assert machine.systemctl("start", "energyd.socket").returncode == 0, machine.told()
    assert machine.main_pid() == 0
    program(machine, "starts it")
    wait_for(lambda: stored(machine, "starts it"), 40)
    first = machine.main_pid()
    assert first != 0
    there, over = "/run/energyd/energyd.sock", INSIDE / "log" / "over"
    inode = machine.inside("stat", "-c", "%i %a %U %G", there).stdout
    assert inode.split()[1:] == ["770", "energyd", "energyd"]

    knocking = subprocess.Popen(
        ["nsenter", "--target", str(machine.pid1), "--mount", "--net", machine.interpreter, "-c", KNOCKS,
         there, str(over)],
        env={**os.environ, **machine.python_environment}, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    assert machine.systemctl("restart", "energyd.service").returncode == 0, machine.told()
    second = machine.main_pid()
    assert second not in (0, first)
    machine.inside("kill", "-KILL", str(second))
    program(machine, "comes while it is dead")
    wait_for(lambda: stored(machine, "comes while it is dead"), 40)
    assert machine.main_pid() not in (0, second)
    machine.inside("touch", str(over))
    tried, refused = knocking.communicate(timeout=30)[0].split()
    assert int(tried) > 50
    assert int(refused) == 0
    assert machine.inside("stat", "-c", "%i %a %U %G", there).stdout == inode

    assert machine.systemctl("stop", "energyd.socket", "energyd.service").returncode == 0
    assert machine.inside("ls", there).returncode != 0  # nobody is sent to a socket that nobody holds


def activated(listener: socket.socket, path: Path, fds: int = 1) -> str:
    """What a process says that finds `listener` at descriptor 3, as systemd would hand it over."""
    code = f"""if True:
        import os, sys
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{fds}', LISTEN_FDNAMES='energyd.socket')
        from pathlib import Path
        from energyd.activation import handed_over
        from energyd.config import ConfigError
        try:
            fd = handed_over(Path({str(path)!r}))
            print(fd, os.get_inheritable(fd), os.get_blocking(fd), [x for x in os.environ if 'LISTEN' in x])
        except ConfigError as error:
            print(error)"""
    fd = listener.fileno()
    command = f'exec {sys.executable} -c "$CODE" 3<&{fd}'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "CODE": code}, pass_fds=[fd], capture_output=True,
        text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def test_what_systemd_hands_over_is_taken_once_and_only_if_it_is_our_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as deaf:
        ours.bind(str(tmp_path / "ours"))
        ours.listen()
        deaf.bind(str(tmp_path / "deaf"))
        assert activated(ours, tmp_path / "ours") == "3 False False []\n"
        for told in (activated(ours, tmp_path / "elsewhere"), activated(deaf, tmp_path / "deaf"),
                     activated(ours, tmp_path / "ours", fds=2)):  # fmt: skip
            assert "cure: one ListenStream=" in told
            assert len(told.strip().splitlines()) == 2


def test_without_systemd_or_with_what_was_meant_for_another_process_nothing_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert handed_over(tmp_path / "s") is None
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert handed_over(tmp_path / "s") is None
    assert "LISTEN_FDS" not in os.environ  # or a child could take another's descriptor for its own
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    with pytest.raises(ConfigError, match="0 sockets"):
        handed_over(tmp_path / "s")
