"""Does RAPL count every joule once?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from energyd.sources import Break, PowerSamples
from energyd.sources import rapl as rapl_module
from energyd.sources.discover import discover
from energyd.sources.rapl import RaplSource

RANGE_UJ = 65_712_999_613


class Tree:
    """A powercap folder on a disk."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir()

    def zone(self, number: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
        path = self.root / number
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        return path

    def set(self, number: str, energy_uj: int) -> None:
        (self.root / number / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "powercap")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The zones' clock, set by the test: [now_ns]."""
    now = [1_000_000_000_000]
    monkeypatch.setattr("energyd.sources.rapl_zones.now_ns", lambda: now[0])
    monkeypatch.setattr(rapl_module, "now_ns", lambda: now[0])
    return now


def server(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    tree.zone("intel-rapl:0:0", "core", 500_000)
    tree.zone("intel-rapl:0:1", "dram", 70_000)
    tree.zone("intel-rapl:1", "package-1", 9_000_000)
    tree.zone("intel-rapl:1:0", "dram", 80_000)
    tree.zone("intel-rapl:2", "psys", 99_000_000)
    tree.zone("intel-rapl-mmio:0", "package-0", 1_000_000)


def test_packages_are_cpu_and_their_memory_dram_and_overlapping_zones_are_left_out(tree):
    server(tree)
    source = RaplSource(tree.root)
    source.open()
    assert {(info.uuid, info.domain) for info in source.devices()} == {
        ("rapl:package-0", "cpu"),
        ("rapl:package-1", "cpu"),
        ("rapl:package-0:dram", "dram"),
        ("rapl:package-1:dram", "dram"),
    }
    assert [(info.domain, info.state) for info in source.domains()] == [
        ("cpu", "measured"),
        ("dram", "measured"),
    ]


def test_zones_nested_in_folders_are_found_as_well_as_the_flat_ones(tree):
    tree.zone("intel-rapl/intel-rapl:0", "package-0", 1)
    tree.zone("intel-rapl/intel-rapl:0/intel-rapl:0:0", "dram", 2)
    (tree.root / "intel-rapl:0").symlink_to(tree.root / "intel-rapl/intel-rapl:0")
    source = RaplSource(tree.root)
    source.open()
    assert {info.uuid for info in source.devices()} == {"rapl:package-0", "rapl:package-0:dram"}


def test_the_first_step_gives_a_sample_at_both_its_ends_and_energies_are_the_counters(tree, clock):
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    source = RaplSource(tree.root)
    source.open()
    assert source.read() == []
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 51_000_000)
    (first,) = source.read()
    assert first.t_ns.tolist() == [1_000_000_000_000, 1_001_000_000_000]
    assert first.power_mw.tolist() == [50_000, 50_000]
    assert first.energy_uj.tolist() == [0, 50_000_000]
    clock[0] += 2_000_000_000
    tree.set("intel-rapl:0", 251_000_000)
    (second,) = source.read()
    assert second.t_ns.tolist() == [1_003_000_000_000]
    assert second.power_mw.tolist() == [100_000]
    assert second.energy_uj.tolist() == [200_000_000]


def test_a_counter_that_wraps_is_unwrapped_with_its_own_range(tree, clock):
    tree.zone("intel-rapl:0", "package-0", RANGE_UJ - 999_999)
    source = RaplSource(tree.root)
    source.open()
    source.read()
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 2_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 3_000_000]


def test_a_silence_in_which_it_may_have_wrapped_twice_is_a_break_and_not_a_guess(tree, clock):
    tree.zone("intel-rapl:0", "package-0", 5_000_000)
    source = RaplSource(tree.root)
    source.open()
    source.read()
    clock[0] += 300 * 1_000_000_000
    tree.set("intel-rapl:0", 7_000_000)
    (event,) = source.read()
    assert isinstance(event, Break)
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 8_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 1_000_000]


def test_mirrored_dies_count_once_and_the_domain_says_so(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", 123_456_789)
    tree.zone("intel-rapl:1", "package-0-die-1", 123_456_789)
    tree.zone("intel-rapl:2", "package-1-die-0", 777_000_000)
    source = RaplSource(tree.root)
    source.open()
    assert [info.uuid for info in source.devices()] == ["rapl:package-0-die-0", "rapl:package-1-die-0"]
    assert "1 counter" in source.domains()[0].reason


def test_a_failed_read_within_the_allowed_gap_costs_no_joule(tree, clock):
    path = tree.zone("intel-rapl:0", "package-0", 1_000_000)
    source = RaplSource(tree.root)
    source.open()
    source.read()
    clock[0] += 1_000_000_000
    source.read()
    (path / "energy_uj").unlink()
    clock[0] += 1_000_000_000
    assert source.read() == []
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 9_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [8_000_000]


def test_a_zone_that_stays_away_is_a_break_and_begins_anew_when_it_is_back(tree, clock):
    path = tree.zone("intel-rapl:0", "package-0", 1_000_000)
    source = RaplSource(tree.root)
    source.open()
    source.read()
    (path / "energy_uj").unlink()
    clock[0] += 6_000_000_000
    (event,) = source.read()
    assert isinstance(event, Break)
    assert event.reason.startswith("lost")
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 9_000_000)
    assert source.read() == []
    clock[0] += 1_000_000_000
    tree.set("intel-rapl:0", 10_000_000)
    (event,) = source.read()
    assert isinstance(event, PowerSamples)
    assert event.energy_uj.tolist() == [0, 1_000_000]


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything: the kernel's refusal has to be acted."""
    real = Path.read_text

    def read_text(self: Path, *args, **kwargs) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)


def test_counters_for_root_only_are_unreadable_which_is_not_absent(tree, monkeypatch):
    server(tree)
    refuse(monkeypatch)
    source = RaplSource(tree.root)
    source.open()
    assert source.devices() == []
    assert [info.state for info in source.domains()] == ["unreadable", "unreadable"]
    assert "root only" in source.domains()[0].reason


def test_auto_takes_rapl_where_it_can_be_read(tree):
    server(tree)
    assert [source.name for source in discover("auto", powercap=tree.root)] == ["nvml", "rapl"]


def test_auto_takes_codecarbon_where_rapl_is_refused_and_keeps_the_reason(tree, monkeypatch):
    server(tree)
    refuse(monkeypatch)
    _, cpu = discover("auto", powercap=tree.root)
    assert cpu.name == "codecarbon"
    assert "root only" in cpu.domains()[1].reason


def test_a_processor_without_memory_counter_has_dram_absent_with_the_reason(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = RaplSource(tree.root)
    source.open()
    cpu, dram = source.domains()
    assert (cpu.state, dram.state) == ("measured", "absent")
    assert "dram" in dram.reason


def test_powers_fit_the_stores_types(tree, clock):
    tree.zone("intel-rapl:0", "package-0", 0)
    source = RaplSource(tree.root)
    source.open()
    source.read()
    clock[0] += 1_000_000_000
    (event,) = [*source.read()]
    assert event.t_ns.dtype == np.int64
    assert event.power_mw.dtype == np.int32
    assert event.energy_uj.dtype == np.int64
