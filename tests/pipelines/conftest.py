"""One real daemon over the simulated machine, for tests in which energy matters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from real_daemon import Daemon


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running daemon: three GPUs of known curves and a CPU of 65 W. Its store is the module's."""
    daemon = Daemon(tmp_path_factory.mktemp("d"), {}).start(source="simulated")
    yield daemon
    daemon.kill()
