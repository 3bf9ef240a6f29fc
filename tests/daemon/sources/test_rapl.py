"""Does RAPL count every joule once?"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest

from energyd.ledger import Ledger
from energyd.sources import Break, Event, PowerSamples, rapl_zones
from energyd.sources import rapl as rapl_module
from energyd.sources.discover import discover
from energyd.sources.rapl import RaplSource
from energyd.sources.rapl_zones import Zone
from energyd.timeline import Timeline

RANGE_UJ = 65_712_999_613
S = 1_000_000_000
T0 = 1_000 * S


class Tree:
    """A powercap folder on a disk, and a clock that goes only when someone sleeps or the test says so."""

    def __init__(self, root: Path):
        self.root = root
        self.now_ns = T0
        self.asleep_ns = 0
        self.watts: dict[str, float] = {}  # what each counter counts while time passes
        self.copies: dict[str, str] = {}
        root.mkdir()

    def zone(
        self, number: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ, watts: float = 20.0
    ) -> Path:
        path = self.root / number
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.watts[number] = watts
        self.set(number, energy_uj)
        return path

    def mirror(self, number: str, name: str, of: str) -> Path:
        """A zone that shows another one's counter."""
        path = self.zone(number, name, self.get(of), watts=0)
        self.copies[number] = of
        return path

    def get(self, number: str) -> int:
        return int((self.root / number / "energy_uj").read_bytes())

    def set(self, number: str, energy_uj: int) -> None:
        (self.root / number / "energy_uj").write_text(f"{energy_uj}\n")

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * S)
        for number, watts in self.watts.items():
            if (self.root / number / "energy_uj").exists():
                whole = int((self.root / number / "max_energy_range_uj").read_text()) + 1
                self.set(number, (self.get(number) + int(watts * seconds * 1e6)) % whole)
        for number, of in self.copies.items():
            self.set(number, self.get(of))

    def opened(self, *set_to: int) -> RaplSource:
        """A source on this tree, its zones at these values at T0."""
        source = RaplSource(self.root)
        source.open()
        self.now_ns = T0
        for number, energy_uj in zip(self.watts, set_to, strict=False):
            self.set(number, energy_uj)
        return source


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path / "powercap")
    monkeypatch.setattr(rapl_zones, "now_ns", lambda: made.now_ns)
    monkeypatch.setattr(rapl_zones, "sleep", made.sleep)
    monkeypatch.setattr(rapl_module, "now_ns", lambda: made.now_ns)
    monkeypatch.setattr(rapl_module, "asleep_ns", lambda: made.asleep_ns)
    return made


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


def test_every_device_says_that_ten_percent_is_assumed_of_it(tree):
    server(tree)
    assert {info.accuracy for info in tree.opened().devices()} == {0.10}


def test_the_first_step_gives_a_sample_at_both_its_ends_and_energies_are_the_counters(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    assert source.read() == []
    tree.now_ns += S
    tree.set("intel-rapl:0", 51_000_000)
    (first,) = source.read()
    assert first.t_ns.tolist() == [T0, T0 + S]
    assert first.power_mw.tolist() == [50_000, 50_000]
    assert first.energy_uj.tolist() == [0, 50_000_000]
    tree.now_ns += 2 * S
    tree.set("intel-rapl:0", 251_000_000)
    (second,) = source.read()
    assert second.t_ns.tolist() == [T0 + 3 * S]
    assert second.power_mw.tolist() == [100_000]
    assert second.energy_uj.tolist() == [200_000_000]


def test_a_counter_that_wraps_is_unwrapped_with_its_own_range(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(RANGE_UJ - 999_999)
    source.read()
    tree.now_ns += S
    tree.set("intel-rapl:0", 2_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 3_000_000]


def test_a_hundred_wraps_at_one_read_a_second_lose_no_joule(tree):
    tree.zone("intel-rapl:0", "package-0", 1, range_uj=4_000_999_999, watts=900.0)  # wraps every 4.4 s
    source = tree.opened(3_999_000_000)
    source.read()
    counted_uj = 0
    for _ in range(450):
        tree.sleep(1)
        (event,) = source.read()
        counted_uj += int(event.energy_uj.sum())
    assert counted_uj == 450 * 900_000_000


def test_a_silence_in_which_it_may_have_wrapped_twice_is_a_break_and_not_a_guess(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(5_000_000)
    source.read()
    tree.now_ns += 40 * S  # at 2 kW, 65.7 kJ are counted in 33 s
    tree.set("intel-rapl:0", 7_000_000)
    (event,) = source.read()
    assert isinstance(event, Break)
    tree.now_ns += S
    tree.set("intel-rapl:0", 8_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 1_000_000]


def test_the_allowed_gap_is_never_longer_than_the_time_in_which_a_counter_may_wrap(tree):
    tree.zone("intel-rapl:0", "package-0", 1, range_uj=6_000_000_000)
    (info,) = tree.opened().devices()
    assert info.max_step_ns == 3 * S


def test_a_counter_too_small_to_be_read_once_a_second_is_unreadable_with_the_reason(tree):
    tree.zone("intel-rapl:0", "package-0", 1, range_uj=3_000_000_000)
    tree.zone("intel-rapl:1", "package-1", 1, range_uj=0)
    source = tree.opened()
    assert source.devices() == []
    assert source.domains()[0].state == "unreadable"
    assert "too small" in source.domains()[0].reason


@pytest.mark.parametrize("after_uj", [0, 12_000_000, 39_999_999_999])
def test_a_counter_set_back_without_a_wrap_is_a_gap_and_no_joule(tree, after_uj):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(40_000_000_000)  # 25.7 kJ below its wrap: more than a second can hold
    source.read()
    tree.sleep(1)
    source.read()
    tree.now_ns += S
    tree.set("intel-rapl:0", after_uj)
    (event,) = source.read()
    assert isinstance(event, Break)
    assert (event.reason, event.counter_reset) == ("reset", True)
    tree.sleep(1)
    (event,) = source.read()
    assert event.t_ns.tolist() == [T0 + 2 * S, T0 + 3 * S]
    assert event.energy_uj.tolist() == [0, 20_000_000]


def test_a_value_that_jumps_further_than_any_processor_goes_is_a_gap_and_no_joule(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    tree.now_ns += S
    tree.set("intel-rapl:0", 9_000_000_000)
    (event,) = source.read()
    assert isinstance(event, Break)
    assert event.reason == "reset"


def test_a_suspend_is_a_gap_even_where_the_counter_looks_as_if_it_had_gone_on(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    tree.sleep(1)
    source.read()
    tree.sleep(3)
    tree.asleep_ns += 2 * S
    (event,) = source.read()
    assert isinstance(event, Break)
    assert (event.reason, event.counter_reset) == ("suspend", True)
    tree.sleep(1)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 20_000_000]


def test_a_suspend_shows_as_boottime_that_monotonic_did_not_count():
    a = rapl_module.asleep_ns()
    time.sleep(0.01)
    assert rapl_module.asleep_ns() == pytest.approx(a, abs=1_000_000)


def test_a_counter_that_stands_still_is_unreadable_and_never_0_w(tree):
    tree.zone("intel-rapl:0", "package-0", 123_456, watts=0)
    source = tree.opened()
    assert source.devices() == []
    assert source.domains()[0].state == "unreadable"
    assert "does not move" in source.domains()[0].reason


def test_a_counter_that_stops_in_mid_run_becomes_a_gap_and_never_0_w(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    tree.sleep(1)
    source.read()
    tree.watts["intel-rapl:0"] = 0
    events: list[Event] = []
    for _ in range(8):
        tree.sleep(1)
        events += source.read()
    assert events
    assert all(isinstance(event, Break) and "does not move" in event.reason for event in events)


def test_a_last_read_just_after_another_has_its_energy_and_keeps_the_power(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    tree.sleep(1)
    source.read()
    tree.now_ns += 500_000
    (event,) = source.read()
    assert (event.power_mw.tolist(), event.energy_uj.tolist()) == ([20_000], [0])
    tree.now_ns += 500_000
    tree.set("intel-rapl:0", tree.get("intel-rapl:0") + 40_000)  # two updates at once
    (event,) = source.read()
    assert (event.power_mw.tolist(), event.energy_uj.tolist()) == ([20_000], [40_000])


def test_mirrored_dies_count_once_and_the_domain_says_so(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", 123_456_789)
    tree.mirror("intel-rapl:1", "package-0-die-1", "intel-rapl:0")
    tree.mirror("intel-rapl:2", "package-0-die-2", "intel-rapl:0")
    tree.zone("intel-rapl:3", "package-1-die-0", 777_000_000)
    source = tree.opened()
    assert [info.uuid for info in source.devices()] == ["rapl:package-0-die-0", "rapl:package-1-die-0"]
    assert "2 counter" in source.domains()[0].reason


def test_mirrored_dies_are_seen_through_a_wrap(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", RANGE_UJ - 3_000_000, watts=100)
    tree.mirror("intel-rapl:1", "package-0-die-1", "intel-rapl:0")
    assert [info.uuid for info in tree.opened().devices()] == ["rapl:package-0-die-0"]


def test_a_mirror_read_a_moment_later_under_load_still_counts_once(tree, monkeypatch):
    tree.zone("intel-rapl:0", "package-0-die-0", 5_000_000, watts=300)
    tree.mirror("intel-rapl:1", "package-0-die-1", "intel-rapl:0")
    real = Zone.read

    def slow_read(zone: Zone) -> tuple[int, int]:
        tree.sleep(0.0005)
        return real(zone)

    monkeypatch.setattr(Zone, "read", slow_read)
    assert [info.uuid for info in tree.opened().devices()] == ["rapl:package-0-die-0"]


def test_two_idle_sockets_with_equal_counters_and_equal_powers_are_two(tree):
    tree.zone("intel-rapl:0", "package-0", 9_000_000)
    tree.zone("intel-rapl:1", "package-1", 9_000_000)
    source = tree.opened()
    assert [info.uuid for info in source.devices()] == ["rapl:package-0", "rapl:package-1"]
    assert source.domains()[0].reason is None


def test_two_dies_of_one_package_that_are_equal_once_are_two(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", 9_000_000, watts=50)
    tree.zone("intel-rapl:1", "package-0-die-1", 9_000_000, watts=53)
    assert len(tree.opened().devices()) == 2
    tree.set("intel-rapl:1", tree.get("intel-rapl:0") - 800_000)  # they meet in the middle of the looks
    assert len(tree.opened().devices()) == 2


def test_which_dies_are_mirrors_is_decided_once_and_not_changed_while_it_runs(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", 9_000_000)
    tree.mirror("intel-rapl:1", "package-0-die-1", "intel-rapl:0")
    source = tree.opened()
    before = list(source.devices())
    tree.copies.clear()
    tree.watts["intel-rapl:1"] = 70
    for _ in range(5):
        tree.sleep(1)
        assert {event.uuid for event in source.read()} <= {"rapl:package-0-die-0"}
    assert source.devices() == before


def test_a_failed_read_within_the_allowed_gap_costs_no_joule(tree):
    path = tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    tree.now_ns += S
    tree.set("intel-rapl:0", 2_000_000)
    source.read()
    (path / "energy_uj").unlink()
    tree.now_ns += S
    assert source.read() == []
    tree.now_ns += S
    tree.set("intel-rapl:0", 9_000_000)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [7_000_000]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA, errno.ENODEV, errno.EACCES])
def test_a_zone_that_fails_for_long_is_a_break_with_the_kernels_word_and_begins_anew(tree, monkeypatch, code):
    tree.zone("intel-rapl:0", "package-0", 1)
    tree.zone("intel-rapl:1", "package-1", 1)
    source = tree.opened(1_000_000, 1_000_000)
    source.read()
    with monkeypatch.context() as patch:
        fail(patch, code, "intel-rapl:0")
        tree.sleep(6)
        events = source.read()
    (broken,) = [event for event in events if isinstance(event, Break)]
    assert broken.uuid == "rapl:package-0"
    assert broken.reason.startswith("lost")
    assert os.strerror(code) in broken.reason
    (healthy,) = [event for event in events if isinstance(event, PowerSamples)]  # the other one goes on
    assert healthy.energy_uj.tolist() == [0, 120_000_000]
    tree.sleep(1)
    assert {event.uuid for event in source.read()} == {"rapl:package-1"}
    tree.sleep(1)
    event = next(event for event in source.read() if event.uuid == "rapl:package-0")
    assert isinstance(event, PowerSamples)
    assert event.energy_uj.tolist() == [0, 20_000_000]


def test_a_zone_that_vanishes_is_a_break_and_one_that_comes_back_begins_anew(tree):
    path = tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    path.rename(path.with_name("gone"))
    tree.now_ns += 6 * S
    (event,) = source.read()
    assert isinstance(event, Break)
    path.with_name("gone").rename(path)
    tree.sleep(1)
    assert source.read() == []
    tree.sleep(1)
    (event,) = source.read()
    assert event.energy_uj.tolist() == [0, 20_000_000]


def test_a_number_that_comes_back_as_another_zone_is_not_taken_for_the_old_one(tree):
    path = tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened(1_000_000)
    source.read()
    (path / "energy_uj").unlink()
    tree.now_ns += 6 * S
    source.read()
    (path / "name").write_text("package-1\n")
    tree.set("intel-rapl:0", 500_000_000)
    events: list[Event] = []
    for _ in range(3):
        tree.sleep(1)
        events += source.read()
    assert events
    assert all(isinstance(event, Break) and "no longer package-0" in event.reason for event in events)


def test_a_zone_that_appears_in_mid_run_does_not_change_what_a_total_is_made_of(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    source = tree.opened()
    source.read()
    tree.zone("intel-rapl:1", "package-1", 1)
    tree.sleep(1)
    assert {event.uuid for event in source.read()} == {"rapl:package-0"}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_befalls_a_counter_every_step_that_is_no_hole_has_its_true_energy(tree, monkeypatch, seed):
    """Random load, wraps, silences, failures, resets and suspends, from the file to the running integral."""
    random = np.random.default_rng(seed)
    tree.zone("intel-rapl:0", "package-0", 1, range_uj=30_000_000_000)  # wraps every 30 to 300 s
    source = tree.opened(int(random.integers(1, 30_000_000_000)))
    ledger = Ledger(Timeline("boot", 0), {}, "daemon_down")
    ledger.declare(source.devices(), source.domains(), 0)
    truth_t, truth_uj, spent_uj = [], [], 0
    for _ in range(400):
        tree.watts["intel-rapl:0"] = float(random.integers(100, 1000))
        before = tree.get("intel-rapl:0")
        seconds = float(random.choice([1, 1, 1, 1, 1.5, 4, 7, 14]))
        tree.sleep(seconds)
        spent_uj += (tree.get("intel-rapl:0") - before) % 30_000_000_001
        fate = random.integers(0, 40)
        if fate == 0:
            tree.set("intel-rapl:0", 1_000_000)
            if not 15_000_000_000 < before < 18_000_000_000:  # where its value does not tell
                tree.asleep_ns += S
        with monkeypatch.context() as patch:
            if fate in (1, 2):
                fail(patch, errno.EIO)
            events = source.read()
        truth_t.append(tree.now_ns)
        truth_uj.append(spent_uj)
        for event in events:
            take = ledger.samples_in if isinstance(event, PowerSamples) else ledger.break_in
            take(*((event, 0) if isinstance(event, PowerSamples) else (event,)))
    t_ns, power_mw, cum_uj = ledger.logs[0].after(None)
    true_uj = np.interp(t_ns, truth_t, truth_uj)
    holes = {row[2] for row in ledger.rows["gaps"] if row[4] is None}
    solid = ~np.isin(t_ns[1:], list(holes))
    assert np.diff(cum_uj)[solid] == pytest.approx(np.diff(true_uj)[solid], abs=2)
    assert holes  # it did befall
    assert solid.mean() > 0.8
    assert power_mw.min() > 0


def fail(monkeypatch: pytest.MonkeyPatch, code: int, *numbers: str) -> None:
    """Reading energy_uj of these zones (of all) fails. Root reads everything, so it has to be acted."""
    real = Path.read_text

    def read_text(self: Path, *args, **kwargs) -> str:
        if self.name == "energy_uj" and (not numbers or self.parent.name in numbers):
            raise OSError(code, os.strerror(code), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)


def test_counters_for_root_only_are_unreadable_which_is_not_absent(tree, monkeypatch):
    server(tree)
    fail(monkeypatch, errno.EACCES)
    source = RaplSource(tree.root)
    source.open()
    assert source.devices() == []
    assert source.read() == []
    assert [info.state for info in source.domains()] == ["unreadable", "unreadable"]
    assert "root only" in source.domains()[0].reason
    assert "run energyd as a service" in source.domains()[0].reason


def test_a_domain_of_which_one_counter_is_refused_is_unreadable_and_not_too_small(tree, monkeypatch):
    server(tree)
    fail(monkeypatch, errno.EACCES, "intel-rapl:1")
    source = RaplSource(tree.root)
    source.open()
    assert {info.domain for info in source.devices()} == {"dram"}
    assert [info.state for info in source.domains()] == ["unreadable", "measured"]
    assert "intel-rapl:1" in source.domains()[0].reason


def test_auto_takes_rapl_where_it_can_be_read(tree):
    server(tree)
    assert [source.name for source in discover("auto", powercap=tree.root)] == ["nvml", "rapl"]


def test_auto_takes_codecarbon_where_rapl_is_refused_and_keeps_the_reason(tree, monkeypatch):
    server(tree)
    fail(monkeypatch, errno.EACCES)
    _, source = discover("auto", powercap=tree.root)
    assert source.name == "codecarbon"
    cpu, dram = source.domains()
    assert (cpu.state, dram.state) == ("unreadable", "unreadable")  # until CodeCarbon answers for the CPU
    assert "root only" in cpu.reason
    assert "root only" in dram.reason


def test_a_processor_without_memory_counter_has_dram_absent_with_the_reason(tree):
    tree.zone("intel-rapl:0", "package-0", 1)
    cpu, dram = tree.opened().domains()
    assert (cpu.state, dram.state) == ("measured", "absent")
    assert "dram" in dram.reason


def test_powers_fit_the_stores_types(tree):
    tree.zone("intel-rapl:0", "package-0", 0)
    source = tree.opened()
    source.read()
    tree.sleep(1)
    (event,) = [*source.read()]
    assert event.t_ns.dtype == np.int64
    assert event.power_mw.dtype == np.int32
    assert event.energy_uj.dtype == np.int64
