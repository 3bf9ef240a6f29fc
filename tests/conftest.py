"""What do tests of every room share?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_nvml.build import FakeNvml, build
from made_once import made_once

TRACES = Path(__file__).parent / "traces"


@pytest.fixture(scope="session")
def fake_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the fake libnvidia-ml.so.1."""
    library: Path | None = made_once(tmp_path_factory, "fake_nvml", build)
    if library is None:
        pytest.skip("gcc missing")
    return library


@pytest.fixture
def fake_nvml(fake_nvml_library: Path, tmp_path: Path) -> FakeNvml:
    """A machine with one fake H100: `.env`, `.control(text)`, `.play(knots)`, `.energy_j(device, t0, t1)`."""
    return FakeNvml(fake_nvml_library, tmp_path)


@pytest.fixture
def traces() -> Path:
    """Folder of the recorded traces."""
    return TRACES
