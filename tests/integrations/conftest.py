"""What do the integrations' tests share: a daemon, and a way to run an example beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from real_daemon import Daemon

ROOT = Path(__file__).parents[2]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon with simulated power."""
    sources = os.pathsep.join(str(ROOT / part) for part in ("client", "daemon", "pipelines", "analysis"))
    env = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": sources}
    made = Daemon(tmp_path, env)
    yield made.start(source="simulated")
    made.kill()


@pytest.fixture
def example(daemon: Daemon) -> Callable[..., str]:
    """Runs an example beside the daemon, in an empty folder; what it printed."""

    def run(name: str, *arguments: str, launcher: Sequence[str] = (sys.executable,), **env: str) -> str:
        folder = daemon.store.parent / "cwd"
        folder.mkdir(exist_ok=True)
        command = [*launcher, str(ROOT / "examples" / name), *arguments]
        done = subprocess.run(
            command,
            env=daemon.env | env,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        assert "energyd:" not in done.stderr  # nothing was ignored or refused
        return done.stdout

    return run
