"""What do tests of faults share? The daemons of the end-to-end tests, and a store to damage copies of."""

from __future__ import annotations

import pytest

from damaged import Template, make_template
from end_to_end.conftest import daemon, make_daemon  # noqa: F401 (fixtures)
from real_daemon import Daemon


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A store as a kill -9 left it, made once."""
    maker = Daemon(tmp_path_factory.mktemp("template"), {})
    try:
        return make_template(maker)
    finally:
        if maker.process is not None and maker.process.poll() is None:
            maker.kill()
