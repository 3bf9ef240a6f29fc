"""Daemons for end-to-end tests: real processes over fresh stores; none outlives its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from real_daemon import Daemon


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons over fresh stores; none outlives the test."""
    made: list[Daemon] = []

    def make(env: dict[str, str] | None = None) -> Daemon:
        folder = tmp_path / f"d{len(made)}"
        folder.mkdir()
        made.append(Daemon(folder, env or {}))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon not started yet."""
    return make_daemon()
