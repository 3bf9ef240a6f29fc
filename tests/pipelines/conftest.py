"""What do tests of the pipelines share? A place where nobody measures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read by libgomp while torch is imported; a test's worker imports it long before the command's own line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run studies in, in this process, with the client switched off."""
    monkeypatch.setenv("ENERGYD_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path
