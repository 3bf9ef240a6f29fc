"""Can a daemon be watched from another machine by those whose key it allows, and be told nothing by them?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

from energyd.config import ConfigError, resolve
from energyd.peers import credentials
from energyd_client import curve
from energyd_client import protocol as p
from energyd_client.errors import DaemonRefused, KeyRefused
from energyd_client.request import ask
from real_daemon import Daemon, wait_for


def two_free_ports() -> int:
    """The first of two ports next to each other."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def keys(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "energyd", "keys", *arguments],
        env={**os.environ, "ENERGYD_KEYS": str(folder)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keys of somebody on another machine."""
    folder = tmp_path / "away"
    monkeypatch.setenv("ENERGYD_KEYS", str(folder))
    return folder


def test_who_is_allowed_may_ask_and_watch_and_nobody_else_hears_a_word(daemon: Daemon, away: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{two_free_ports()}"
    daemon.start("--listen", endpoint, source="simulated")
    with pytest.raises(KeyRefused, match="not known here"):
        ask(endpoint, p.AskStatus(0), 5)

    theirs = keys("daemon", "--store", str(daemon.store), folder=away).stdout.strip()
    ours = keys("show", folder=away).stdout.strip()
    assert keys("trust", "127.0.0.1", theirs, folder=away).returncode == 0
    with pytest.raises(KeyRefused, match="does not allow your key"):
        ask(endpoint, p.AskStatus(0), 3)
    wait_for(lambda: f"refused 127.0.0.1 with key {ours}" in daemon.log.read_text())

    assert keys("allow", "--store", str(daemon.store), ours, "ada", folder=away).returncode == 0
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reload: " in daemon.log.read_text())
    assert ask(endpoint, p.AskStatus(0), 10)["pid"] == daemon.process.pid
    daemon.env["ENERGYD_ENDPOINT"], daemon.env["ENERGYD_KEYS"] = endpoint, str(away)
    seen = daemon.run("energyd", "top", "--once")
    assert seen.returncode == 0, seen.stderr
    assert "simulated" in seen.stdout.lower()

    # Watching is all: what is said counts for somebody on that machine.
    with pytest.raises(DaemonRefused, match="forbidden"):
        ask(endpoint, p.AskRelease(0, 60), 10)
    assert told(endpoint, p.Hello(p.VERSION, "c", 1, 2, "boot", 3, "0")) == "forbidden"
    assert told(endpoint, p.RunBegin(1, 1, "r", "stranger")) == "hello_first"
    # A connection without CURVE gets nothing, not even a refusal.
    assert told(endpoint, p.AskStatus(1), plain=True) is None
    assert daemon.stop() == 0


def told(endpoint: str, message: Any, plain: bool = False) -> str | None:
    """The code with which a message is refused over the network; None without an answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 0
        if not plain:
            curve.secure(link, endpoint)
        link.connect(endpoint)
        link.send(p.pack(message))
        if not link.poll(1_000 if plain else 10_000):
            return None
        answer = p.unpack(link.recv_multipart()[-1])
        return answer.code if isinstance(answer, p.Refusal) else answer.TYPE


def test_a_program_told_to_mark_over_tcp_says_once_why_it_is_not_measured(daemon: Daemon) -> None:
    daemon.env["ENERGYD_ENDPOINT"] = "tcp://127.0.0.1:7411"
    program = daemon.program("with energy.run('far'), energy.stage('s'): print('done')")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, "done\n")
    assert err.count("never over TCP") == 1


def test_secret_keys_are_for_their_owner_alone(tmp_path: Path, away: Path, daemon: Daemon) -> None:
    assert keys("show", folder=away).returncode == 0
    assert keys("daemon", "--store", str(daemon.store), folder=away).returncode == 0
    secrets = [away / "own.secret", daemon.store / "keys" / "daemon.secret"]
    assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600, 0o600]
    assert keys("show", folder=away).stdout == keys("show", folder=away).stdout
    for path in secrets:
        path.chmod(0o640)
    out = keys("show", folder=away)
    assert (out.returncode, out.stdout) == (5, "")
    assert f"chmod 600 {secrets[0]}" in out.stderr
    out = daemon.run(
        "energyd", "start", "--foreground", "--store", str(daemon.store), "--listen", "tcp://127.0.0.1:7411"
    )
    assert out.returncode == 78
    assert "may be read by others" in out.stderr


def test_a_port_that_is_taken_ends_the_start_with_its_name(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        where = ["--store", str(daemon.store), "--listen", endpoint]
        out = daemon.run("energyd", "start", "--foreground", "--source", "simulated", *where)
    assert out.returncode == 78
    assert f"cannot listen on {endpoint}: Address already in use" in out.stderr


@pytest.mark.parametrize(
    "wrong", ["tcp://*", "10.0.0.1:7411", "tcp://10.0.0.1", "tcp://h:0", "tcp://h:65535", "ipc:///x"]
)
def test_what_cannot_be_listened_on_is_refused_with_an_example(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tcp://127\.0\.0\.1:7411"):
        resolve(store=tmp_path, listen=wrong)


@pytest.mark.parametrize("address", ["fd00::5:0:0:77", "::1", "10.0.0.7", ""])
def test_no_network_address_can_pass_for_a_uid(address: str) -> None:
    assert credentials(address) == (None, None, None)
    assert credentials("localhost:1000:100:4711") == (1000, 100, 4711)
