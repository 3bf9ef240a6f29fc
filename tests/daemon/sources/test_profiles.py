"""Does each kind of GPU in profiles.md get the source, the periods and the flags that it should?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyd.attribution import Known, charge
from energyd.sources import CounterRead, DeviceInfo, SensorInfo
from fake_nvml.build import FakeNvml
from light_codecarbon.path import light
from real_daemon import Daemon, wait_for

SENSORS = ("ring", "instant", "average", "counter")
HALF_A_SECOND = 500_000_000
ALWAYS_MOVING = [(0, 200_000.0), (350_000_000, 600_000.0), (700_000_000, 200_000.0)]


def profiles() -> dict[str, dict[str, str]]:
    """{profile: {column: cell}} of the table."""
    lines = (Path(__file__).with_name("profiles.md")).read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    heads = rows[0]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows[2:]}


PROFILES = profiles()


def script(profile: dict[str, str]) -> str:
    return "".join(f"{order.strip()}\n" for order in profile["script"].split(";"))


def sensor(info: DeviceInfo, name: str) -> SensorInfo:
    return next(s for s in info.sensors if s.sensor == name)


def within_ms(value_ns: int | None, span: str) -> bool:
    """Whether a time lies in `20-40`; with an empty span, whether there is none."""
    if not span:
        return value_ns is None
    low, high = (float(end) for end in span.split("-"))
    return value_ns is not None and low * 1e6 <= value_ns <= high * 1e6


@pytest.mark.parametrize("name", PROFILES)
def test_a_gpu_gets_the_source_states_periods_and_flags_of_its_profile(
    fake_nvml: FakeNvml, drive: Callable[..., Any], name: str
) -> None:
    wanted = PROFILES[name]
    fake_nvml.play(ALWAYS_MOVING)
    fake_nvml.control(script(wanted))
    out = drive(seconds=0.3, deadline_s=5.0 if wanted["source"] else 0.3)
    if not wanted["source"]:
        assert out.devices == []
        assert out.domains[0].state == "unreadable"
        assert wanted["says"] in out.domains[0].reason
        return
    info = out.devices[0]
    assert info.source == wanted["source"]
    assert {s.sensor: s.state for s in info.sensors} == {s: wanted[s] for s in SENSORS}
    assert within_ms(sensor(info, info.source).period_ns, wanted["period"]), info
    assert within_ms(sensor(info, "counter").period_ns, wanted["step"]), info
    said = [out.domains[0].reason, *(s.reason for s in info.sensors)]
    assert any(wanted["says"] in reason for reason in said if reason), said
    assert out.domains[0].state == "measured"
    assert len(out.samples(info.uuid)[0]) > 0
    assert any(isinstance(e, CounterRead) for e in out.events) == (wanted["counter"] == "answers")
    _, flags = charge(None, None, [Known(0, info.uuid, "gpu", info.name, info.index, info.mig)])
    assert flags == set(wanted["flags"].split())
    # Derived, not measured: the lag follows from the period, for the average with half its 1 s window.
    assert info.lag_ns == info.period_ns // 2 + (HALF_A_SECOND if info.source == "average" else 0)
    assert sensor(info, info.source).lag_ns == info.lag_ns
    assert info.accuracy == 0.05


def test_every_sensor_that_answers_has_the_cost_of_its_calls(
    fake_nvml: FakeNvml, drive: Callable[..., Any]
) -> None:
    fake_nvml.control("delay_ms 3 nvmlDeviceGetTotalEnergyConsumption\n")
    info = drive(seconds=0.1).devices[0]
    assert 3_000 < sensor(info, "counter").call_us < 12_000
    for each in info.sensors:
        assert 0 < each.call_us <= each.call_max_us
    assert sensor(info, "ring").depth == 119


def test_a_counter_that_says_a_fifth_less_than_the_ring_is_found_out_by_the_probe(
    fake_nvml: FakeNvml, drive: Callable[..., Any]
) -> None:
    fake_nvml.play([(0, 300_000), (1_000_000_000, 300_000)])
    fake_nvml.control("scale counter 0.8\n")
    counter = sensor(drive(seconds=0.1).devices[0], "counter")
    assert counter.agreement == pytest.approx(0.25, abs=0.1)
    assert "to within" in counter.reason


def test_at_idle_the_counters_step_is_told_and_a_flat_polled_value_gives_no_period(
    fake_nvml: FakeNvml, drive: Callable[..., Any]
) -> None:
    fake_nvml.play([(0, 120_000), (1_000_000_000, 120_000)])
    info = drive(seconds=0.1).devices[0]
    assert sensor(info, "ring").period_ns == pytest.approx(20_000_000, rel=0.05)
    assert sensor(info, "counter").period_ns == pytest.approx(100_000_000, rel=0.1)
    assert sensor(info, "counter").agreement == pytest.approx(0, abs=0.1)
    assert sensor(info, "instant").period_ns is None
    assert "too seldom" in sensor(info, "instant").reason


def test_a_counter_that_steps_faster_than_it_is_read_gets_no_period_instead_of_a_wrong_one(
    fake_nvml: FakeNvml, drive: Callable[..., Any]
) -> None:
    fake_nvml.play(ALWAYS_MOVING)
    fake_nvml.control("counter_period_ms 10\n")
    counter = sensor(drive(seconds=0.1).devices[0], "counter")
    assert counter.period_ns is None
    assert "too rarely" in counter.reason


def test_eight_dear_counters_share_the_probe_and_most_of_their_steps_are_still_told(
    fake_nvml: FakeNvml, drive: Callable[..., Any]
) -> None:
    fake_nvml.play([(0, 120_000), (1_000_000_000, 120_000)])
    fake_nvml.control("devices 8\nahead_ms 900\ndelay_ms 3 nvmlDeviceGetTotalEnergyConsumption\n")
    out = drive(seconds=0.1)
    assert len(out.devices) == 8
    periods = [sensor(info, "counter").period_ns for info in out.devices]
    told = [p for p in periods if p is not None]
    assert len(told) >= 4
    assert all(p == pytest.approx(100_000_000, rel=0.2) for p in told)


@pytest.mark.parametrize(
    "name",
    [
        "instant and average, with counter (A100-like: no field 185)",
        "MIG: power stays the whole GPU's",
    ],
)
def test_a_running_daemon_keeps_the_profile_in_its_store(
    fake_nvml: FakeNvml, tmp_path: Path, name: str
) -> None:
    wanted = PROFILES[name]
    fake_nvml.play(ALWAYS_MOVING)
    fake_nvml.control(script(wanted))
    daemon = Daemon(tmp_path, light(fake_nvml.env)).start()
    try:
        sql = "FROM sensors SELECT sensor, state, period_ns, lag_ns, call_us, reason"
        rows = wait_for(lambda: daemon.query(sql))
        assert {row["sensor"]: row["state"] for row in rows} == {s: wanted[s] for s in SENSORS}
        chosen = next(row for row in rows if row["sensor"] == wanted["source"])
        assert within_ms(chosen["period_ns"], wanted["period"])
        assert chosen["call_us"] > 0
        device = daemon.query("FROM devices SELECT source, lag_ns, accuracy WHERE domain = 'gpu'")[0]
        assert device == {"source": wanted["source"], "lag_ns": chosen["lag_ns"], "accuracy": 0.05}
        daemon.finish("with energy.run('r') as run:\n    with run.stage('s'):\n        time.sleep(0.3)\n")
        energy = "FROM stage_energy SELECT flags WHERE stage = 's' AND domain = 'gpu'"
        stage = wait_for(lambda: daemon.query(f"{energy} AND energy_j IS NOT NULL"))[0]
        assert ("mig" in stage["flags"]) == (wanted["flags"] == "mig")
    finally:
        daemon.kill()
