"""What do tests of the pipelines share? A daemon where energy matters, and a place where nobody measures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_daemon import Daemon

# Read by libgomp while torch is imported; a test's worker imports it long before the command's own line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run studies in, in this process, with the client switched off."""
    monkeypatch.setenv("ENERGYD_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running daemon: three GPUs of known curves and a CPU of 65 W. Its store is the module's."""
    daemon = Daemon(tmp_path_factory.mktemp("d"), {}).start(source="simulated")
    yield daemon
    daemon.kill()
