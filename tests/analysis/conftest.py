"""What do tests of the query side share?"""

from __future__ import annotations

import contextlib
import os
import pickle
import pty
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import in_process
from analysis.energy_store import Store

ROOT = Path(__file__).parents[2]
FAKE_DAEMON = Path(__file__).with_name("fake_daemon.py")
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("client", "daemon", "pipelines", "analysis")),
    "NO_COLOR": "1",
}


def on_terminal(command: list[str], env: dict[str, str], columns: int | None = None) -> str:
    """What a command prints on a terminal (of so many columns); it must exit 0."""
    master, slave = pty.openpty()
    if columns is not None:
        termios.tcsetwinsize(slave, (40, columns))
    with subprocess.Popen(command, stdout=slave, env=env) as process:
        os.close(slave)
        text = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
            while piece := os.read(master, 4096):
                text += piece
    os.close(master)
    assert process.returncode == 0
    return text.decode()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store to fill and write."""
    return Store(tmp_path / "store")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`daemon(root, body, …)` starts a process that holds the store and answers so; returns its endpoint."""
    running = []
    sockets = tempfile.mkdtemp(prefix="eq")  # the name of a Unix socket has 107 bytes at most

    def start(root: Path, *bodies: dict[str, Any], mode: str = "answer") -> str:
        endpoint = f"ipc://{sockets}/d{len(running)}"
        answers = tmp_path / "answers"
        answers.write_bytes(pickle.dumps(list(bodies) or [{}]))
        process = subprocess.Popen(
            [sys.executable, FAKE_DAEMON, root, endpoint, answers, mode],
            stdout=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return endpoint

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
    for file in Path(sockets).iterdir():
        file.unlink()
    Path(sockets).rmdir()


@pytest.fixture
def energyq() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`energyq("runs", …)` in a pipe and without colours, with its output captured."""

    def call(*args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return in_process.energyq(*args, stdin=stdin, env={"NO_COLOR": "1"} | env)

    return call
