"""What do tests of faults share? The daemons of the end-to-end tests, and a store to damage copies of."""

from __future__ import annotations

from pathlib import Path

import pytest

from damaged import Template, make_template
from end_to_end.conftest import daemon, make_daemon  # noqa: F401 (fixtures)
from made_once import made_once
from real_daemon import Daemon


def _left_behind(folder: Path) -> Template:
    maker = Daemon(folder, {})
    try:
        return make_template(maker)
    finally:
        if maker.process is not None and maker.process.poll() is None:
            maker.kill()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A store as a kill -9 left it."""
    made: Template = made_once(tmp_path_factory, "template", _left_behind)
    return made
