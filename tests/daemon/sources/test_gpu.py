"""Does GpuSource tell the truth about a GPU, and survive what drivers do?"""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest

from energyd.sources import Changed, Condition, CounterRead

UUID = "GPU-fa4e0000-0000-4000-8000-{:012x}".format
SECOND = 1_000_000_000


def integral_j(t_ns: np.ndarray, power_mw: np.ndarray) -> float:
    return float(np.sum(np.diff(t_ns) * (power_mw[1:] + power_mw[:-1]) / 2)) / 1e12


def test_the_ring_gives_every_sample_and_its_integral_is_the_curves(fake_nvml, drive):
    fake_nvml.control("devices 2\njitter_ms 8\n")
    out = drive(seconds=6)
    assert [info.source for info in out.devices] == ["ring", "ring"]
    assert [info.index for info in out.devices] == [0, 1]
    for device, info in enumerate(out.devices):
        assert info.depth == 119
        assert info.period_ns == pytest.approx(20_000_000, rel=0.1)
        assert info.power_limit_mw == 700_000
        t_ns, power_mw = out.samples(UUID(device))
        assert np.diff(t_ns).max() < 40_000_000
        assert t_ns[0] < out.opened_ns - 1.5 * SECOND  # what the ring held before is there too
        truth_j = fake_nvml.energy_j(device, int(t_ns[0]), int(t_ns[-1]))
        assert integral_j(t_ns, power_mw) == pytest.approx(truth_j, rel=0.005)
        assert out.breaks(UUID(device)) == []


def test_stamps_of_the_ring_lie_on_boottime_where_the_curve_has_its_edges(fake_nvml, drive):
    fake_nvml.play(
        [
            (0, 100_000),
            (999_000_000, 100_000),
            (SECOND, 500_000),
            (1_999_000_000, 500_000),
            (2 * SECOND, 100_000),
        ]
    )
    out = drive(seconds=4)
    t_ns, power_mw = out.samples(UUID(0))
    rises = t_ns[1:][(power_mw[1:] > 300_000) & (power_mw[:-1] < 300_000)]
    assert len(rises) >= 2
    # A sample shows the rise once most of its 20 ms lie behind it: in the middle of them, 0 to 20 ms late.
    late_ns = (rises - SECOND + SECOND) % (2 * SECOND) - SECOND
    assert late_ns.min() > -5_000_000
    assert late_ns.max() < 21_000_000


def test_values_that_come_as_64_bit_are_decoded_by_their_type(fake_nvml, drive):
    fake_nvml.control("wide\n")
    out = drive(seconds=1)
    _, power_mw = out.samples(UUID(0))
    assert power_mw.min() > 100_000
    assert power_mw.max() < 700_000


def test_without_a_ring_instant_power_is_polled_at_its_measured_period(fake_nvml, drive):
    fake_nvml.control("missing ring\n")
    out = drive(seconds=5)
    info = out.devices[0]
    assert (info.source, info.depth) == ("instant", None)
    assert info.period_ns == pytest.approx(100_000_000, rel=0.25)
    assert info.max_step_ns >= 500_000_000
    assert out.interval_s == pytest.approx(info.period_ns / 1e9)
    assert "ring" in out.domains[0].reason
    t_ns, power_mw = out.samples(UUID(0))
    truth_j = fake_nvml.energy_j(0, int(t_ns[0]), int(t_ns[-1]))
    assert integral_j(t_ns, power_mw) == pytest.approx(truth_j, rel=0.1)


def test_without_ring_and_instant_the_average_is_used_and_its_lag_taken_off(fake_nvml, drive):
    fake_nvml.play(
        [
            (0, 100_000),
            (2 * SECOND, 100_000),
            (2 * SECOND + 1, 600_000),
            (4 * SECOND, 600_000),
            (4 * SECOND + 1, 100_000),
        ]
    )
    fake_nvml.control("missing ring\nmissing instant\n")
    out = drive(seconds=6)
    info = out.devices[0]
    assert info.source == "average"
    assert info.lag_ns >= 500_000_000
    t_ns, power_mw = out.samples(UUID(0))
    crossings = t_ns[1:][(power_mw[1:] >= 350_000) & (power_mw[:-1] < 350_000)]
    assert len(crossings) >= 1
    late_ns = (crossings - 2 * SECOND + 2 * SECOND) % (4 * SECOND) - 2 * SECOND
    assert np.abs(late_ns).max() < 160_000_000


def test_a_polled_value_that_never_changes_gets_the_assumed_period_and_the_domain_says_so(fake_nvml, drive):
    fake_nvml.play([(0, 200_000), (SECOND, 200_000)])
    fake_nvml.control("missing ring\n")
    out = drive(seconds=0.3)
    assert out.devices[0].period_ns == 100_000_000
    assert UUID(0) in out.domains[0].reason
    assert "assumed" in out.domains[0].reason


def test_counter_and_conditions_come_once_a_second_and_the_counter_is_the_integral(fake_nvml, drive):
    fake_nvml.control("devices 2\npids 1 4321 99\ntemperature 66\nthrottle 4\nmig 1 1\n")
    out = drive(seconds=4.5)
    reads = [e for e in out.events if isinstance(e, CounterRead)]
    first, turns = reads[:2], reads[2:]
    assert {read.uuid for read in first} == {UUID(0), UUID(1)}
    assert 3 <= len(turns) <= 6
    assert all(a.uuid != b.uuid for a, b in pairwise(turns))
    mine = [read for read in reads if read.uuid == UUID(0)]
    a, b = mine[0], mine[-1]
    truth_j = fake_nvml.energy_j(0, a.t_ns, b.t_ns)
    assert (b.energy_mj - a.energy_mj) / 1000 == pytest.approx(truth_j, abs=2 * 0.1 * 640)
    conditions = [e for e in out.events if isinstance(e, Condition) and e.uuid == UUID(1)]
    assert 4 <= len(conditions) <= 6
    assert conditions[0].pids == frozenset({4321, 99})
    assert (conditions[0].temperature_c, conditions[0].throttle_bits) == (66, 4)
    assert [info.mig for info in out.devices] == [False, True]


def test_conditions_that_the_driver_refuses_are_none_and_never_zero(fake_nvml, drive):
    fake_nvml.control(
        "missing temperature\nmissing clock\nmissing limit\nmissing throttle\nmissing counter\n"
    )
    out = drive(seconds=1.2)
    condition = next(e for e in out.events if isinstance(e, Condition))
    assert condition.temperature_c is None
    assert condition.sm_clock_mhz is None
    assert condition.power_limit_mw is None
    assert condition.throttle_bits is None
    assert out.devices[0].power_limit_mw is None
    assert not [e for e in out.events if isinstance(e, CounterRead)]
    assert len(out.samples(UUID(0))[0]) > 10


@pytest.mark.parametrize("code", [15, 999])
def test_an_error_on_one_gpu_is_a_break_there_while_the_other_goes_on_and_it_comes_back(
    fake_nvml, drive, code
):
    fake_nvml.control("devices 2\n")
    out = drive(steps=[(0.6, f"devices 2\nerror * {code} device=1\n"), (4.0, "devices 2\n")], seconds=1)
    assert out.breaks(UUID(0)) == []
    assert np.diff(out.samples(UUID(0))[0]).max() < 100_000_000
    breaks = out.breaks(UUID(1))
    assert breaks[0].reason.startswith("lost")
    assert str(code) in breaks[0].reason
    assert not any(b.counter_reset for b in breaks)
    t_ns, _ = out.samples(UUID(1))
    assert t_ns[-1] > out.steps_ns[-1]
    assert any(
        isinstance(e, CounterRead) and e.uuid == UUID(1) and e.t_ns > out.steps_ns[-1] for e in out.events
    )


def test_a_single_failed_call_loses_nothing_because_the_ring_still_has_it(fake_nvml, drive):
    out = drive(steps=[(0.7, "error nvmlDeviceGetSamples 999\n"), (1.3, "")], seconds=1)
    assert out.breaks(UUID(0)) == []
    assert np.diff(out.samples(UUID(0))[0]).max() < 100_000_000


def test_isolated_refusals_and_zero_watts_of_a_polled_field_are_dropped_not_integrated(fake_nvml, drive):
    fake_nvml.control("missing ring\nzero instant 7\nfield 186 3 every=9\n")
    out = drive(seconds=4)
    _, power_mw = out.samples(UUID(0))
    assert out.devices[0].source == "instant"
    assert power_mw.min() > 100_000
    assert len(power_mw) > 15
    assert out.breaks(UUID(0)) == []


def test_zero_watts_in_the_ring_are_dropped_and_values_above_the_limit_are_kept(fake_nvml, drive):
    fake_nvml.play([(0, 939_000), (SECOND, 939_000)])
    fake_nvml.control("zero ring 10\n")
    out = drive(seconds=1)
    t_ns, power_mw = out.samples(UUID(0))
    assert set(power_mw) == {939_000}
    assert np.diff(t_ns).max() == pytest.approx(40_000_000, rel=0.01)


def test_a_sensor_that_reads_nothing_but_zero_is_a_break(fake_nvml, drive):
    out = drive(steps=[(0.5, "zero ring 1\n"), (4.0, "")], seconds=0.6)
    assert any(b.reason.startswith("lost") for b in out.breaks(UUID(0)))


def test_a_drain_that_comes_too_late_is_a_break_called_overrun(fake_nvml, drive):
    # 20 samples of 20 ms: after a read that took 0.7 s the ring has forgotten the rest.
    fake_nvml.control("depth 20\n")
    out = drive(
        interval_s=0.2,
        steps=[(0.7, "depth 20\ndelay_ms 700 nvmlDeviceGetTemperature\n"), (2.6, "depth 20\n")],
        seconds=0.5,
    )
    assert "overrun" in {b.reason for b in out.breaks(UUID(0))}


def test_an_interval_longer_than_the_ring_is_refused_with_the_longest_that_is_safe(fake_nvml, drive):
    out = drive(interval_s=2.2)
    assert "--interval 2.2" in out.error
    assert "--interval 1.9 or less" in out.error
    assert len(out.error.splitlines()) <= 3


def test_a_young_ring_that_still_grows_is_watched_before_its_depth_is_believed(fake_nvml, drive):
    fake_nvml.control("young_ms 300\n")
    out = drive(seconds=0.6)
    info = out.devices[0]
    assert info.source == "ring"
    assert 50 <= info.depth <= 119


def test_a_counter_that_goes_back_is_a_break_that_forbids_bridging(fake_nvml, drive):
    out = drive(steps=[(0.6, "counter_reset\n")], seconds=2)
    resets = [b for b in out.breaks(UUID(0)) if b.counter_reset]
    assert [b.reason for b in resets] == ["reset"]


def test_a_machine_without_the_nvml_library_has_the_domain_absent_with_the_reason(drive):
    out = drive(env=dict(os.environ), deadline_s=0.3)
    assert out.devices == []
    assert out.domains[0].state == "absent"
    assert "libnvidia-ml" in out.domains[0].reason


@pytest.mark.parametrize(
    ("script", "state", "word"),
    [
        ("devices 0", "absent", "no GPU"),
        ("error nvmlInitWithFlags 9", "absent", "driver"),
        ("error nvmlInitWithFlags 4", "unreadable", "permission"),
        ("error nvmlInitWithFlags 18", "unreadable", "versions differ"),
        ("error * 999", "unreadable", "999"),
        ("missing ring\nmissing instant\nmissing average", "unreadable", "not supported"),
    ],
)
def test_what_keeps_nvml_from_working_is_told_in_words(fake_nvml, drive, script, state, word):
    fake_nvml.control(script)
    out = drive(deadline_s=0.2)
    assert out.devices == []
    assert out.domains[0].state == state
    assert word in out.domains[0].reason


def test_a_driver_that_comes_later_is_found_and_announced(fake_nvml, drive):
    fake_nvml.control("error nvmlInitWithFlags 9\n")
    out = drive(steps=[(0.5, "")], seconds=3.5)
    assert out.first["domains"][0].state == "absent"
    assert any(isinstance(e, Changed) for e in out.events)
    assert out.domains[0].state == "measured"
    assert len(out.samples(UUID(0))[0]) > 10


def test_a_gpu_that_fails_at_the_start_joins_later_without_disturbing_the_others(fake_nvml, drive):
    fake_nvml.control("devices 2\nerror * 15 device=1\n")
    out = drive(steps=[(0.5, "devices 2\n")], seconds=3.5)
    assert [info.uuid for info in out.first["devices"]] == [UUID(0)]
    assert "GPU 1" in out.first["domains"][0].reason
    assert [info.uuid for info in out.devices] == [UUID(0), UUID(1)]
    assert out.breaks(UUID(0)) == []


def test_nvml_shut_down_by_someone_else_is_started_again(fake_nvml, drive):
    out = drive(steps=[(0.6, "error nvmlDeviceGetSamples 1\n"), (1.2, "")], seconds=1)
    assert np.diff(out.samples(UUID(0))[0]).max() < 100_000_000


def test_a_ring_that_the_driver_gives_up_is_replaced_by_the_next_best_source(fake_nvml, drive):
    out = drive(steps=[(0.5, "missing ring\n")], seconds=2, interval_s=0.2)
    assert out.first["devices"][0].source == "ring"
    assert out.devices[0].source == "instant"
    assert any(isinstance(e, Changed) for e in out.events)


def test_eight_gpus_are_probed_together_in_the_time_of_one(fake_nvml, drive):
    fake_nvml.control("devices 8\nmissing ring\n")
    out = drive(seconds=0.3)
    assert len(out.devices) == 8
    assert {info.source for info in out.devices} == {"instant"}
