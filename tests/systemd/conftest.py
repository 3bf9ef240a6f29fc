"""Fixtures for tests that need a real systemd."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine, why_not


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Start a systemd with the shipped unit on it; ends with the test."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    booted: list[Machine] = []

    def start(**more: Any) -> Machine:
        booted.append(Machine(tmp_path, **more))
        return booted[-1]

    yield start
    for each in booted:
        each.end()
