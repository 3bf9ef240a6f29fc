"""Does the daemon ask for a fresh process only where one comes, and helps?"""

from __future__ import annotations

from pathlib import Path

import pytest

from energyd.restarting import Freshness
from energyd.sources import DomainInfo

MEASURED = DomainInfo(domain="gpu", state="measured", source="ring")
ABSENT = DomainInfo(domain="gpu", state="absent", reason="NVIDIA driver not loaded (NVML 9 from nvmlInit)")
LEFT = DomainInfo(domain="gpu", state="unreadable", reason="versions differ (NVML 18 from nvmlInit)")
BARE = "Character devices:\n  1 mem\n"


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    path = tmp_path / "devices"
    path.write_text(BARE)
    return path


@pytest.mark.parametrize("name", ["nvidia", "nvidia-frontend"])
def test_a_driver_loaded_after_the_start_needs_a_fresh_process(devices: Path, name: str) -> None:
    freshness = Freshness(devices)
    assert freshness.lost([ABSENT]) is None
    devices.write_text(f"{BARE}195 {name}\n")
    assert "was loaded" in (freshness.lost([ABSENT]) or "")


def test_a_driver_that_was_there_at_the_start_needs_none(devices: Path) -> None:
    devices.write_text(f"{BARE}195 nvidia\n")
    assert Freshness(devices).lost([ABSENT]) is None


def test_a_library_left_behind_needs_one_only_if_it_has_worked(devices: Path) -> None:
    freshness = Freshness(devices)
    assert freshness.lost([LEFT]) is None
    assert freshness.lost([MEASURED]) is None
    assert "upgraded" in (freshness.lost([LEFT]) or "")


def test_nobody_is_asked_where_nobody_starts_us_again(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    freshness = Freshness(devices)
    assert freshness.lost([MEASURED]) is None
    devices.write_text(f"{BARE}195 nvidia\n")
    assert freshness.lost([LEFT]) is None
