"""Do the watcher's numbers read right?"""

from __future__ import annotations

import json
import time

import pytest

from energyd.top_cost import Cost
from energyd.top_state import TopState
from energyd.top_text import as_json, counts, duration, joules, line, per_token, scaled, watts
from energyd_client.protocol import Health

from .test_top_state import T0, S, device, health, samples, stage


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 J"), (0.0004, "400 µJ"), (0.0123, "12.3 mJ"), (0.99949, "999 mJ"),
        (0.9996, "1.00 J"), (9.996, "10.0 J"), (99.96, "100 J"), (999.6, "1.00 kJ"),
        (12_900, "12.9 kJ"), (1.24e6, "1.24 MJ"),
    ],
)  # fmt: skip
def test_energy_has_three_digits_and_the_prefix_that_fits(value: float, text: str) -> None:
    assert scaled(value, "J") == text


def test_unknown_is_a_dash_and_never_0() -> None:
    nothing = Cost(1.0, {}, None, {}, True)
    assert [watts(None), joules(None), counts(nothing), per_token(nothing)] == ["–"] * 4


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (99.96, "1m40s"), (723, "12m03s"), (11_040, "3h04m")]
)
def test_durations_stay_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("total_j", "n", "text"),
    [
        (14_300.0, 794_444, "0.0180 J/label"),
        (1.0, 5_500, "182 µJ/label"),
        (3.0, 1, "3.00 J/label"),
        (4e5, 1, "400 kJ/label"),
    ],
)
def test_joules_per_token_name_their_denominator(total_j: float, n: int, text: str) -> None:
    assert per_token(Cost(1.0, {}, total_j, {"label": n}, True)) == text


def test_a_bound_is_marked_as_one() -> None:
    cost = Cost(1.0, {}, 10.0, {"label": 5}, False)
    assert (counts(cost), per_token(cost)) == ("≥5", "≤2.00 J/label")


def told(n_devices: int = 2) -> TopState:
    state = TopState()
    gpu, cpu = device(0), device(1, "cpu", origin="estimated", power_limit_mw=None)
    state.take(health(0, devices=[gpu, cpu][:n_devices]), 0)
    state.take(samples(0, T0 + 11 * S, 12_000_000_000, 412_000), 11 * S)
    state.take(samples(1, T0 + 11 * S, 900_000_000, 61_000), 11 * S)
    state.take(stage("train", begin_uj={0: 0, 1: 0}, counts={"label": 716_667}), 11 * S)
    state.take(health(11 * S, 2, devices=[gpu, cpu][:n_devices]), 11 * S)
    return state


def test_a_line_names_devices_open_stages_and_their_cost() -> None:
    wall_s = time.mktime((2026, 5, 1, 12, 3, 10, 0, 0, -1))
    text = line(told(), 11 * S, wall_s, set())
    assert text == "12:03:10 gpu0 412 W  cpu 61 W (est)  train 10 s 12.9 kJ 0.0180 J/label"


def test_a_finished_stage_is_told_in_one_line_only() -> None:
    state, seen = told(), set()
    state.take(
        stage("train", n=2, state="final", status="error", t1_ns=T0 + 9 * S, energy_uj={0: 5_000_000}), 12 * S
    )
    assert "done train 8 s 5.00 J error" in line(state, 12 * S, 0, seen)
    assert "done" not in line(state, 12 * S, 0, seen)


def test_a_line_says_why_power_is_missing_and_that_the_daemon_is_silent() -> None:
    text = line(told(1), 21 * S, 0, set())
    assert "gpu0 – (no sample for 10.0 s)" in text
    assert "daemon silent for 10 s" in text


def test_a_line_names_domains_that_cannot_be_read_and_a_degraded_daemon() -> None:
    state = TopState()
    status = health(0).status | {"state": "degraded", "reason": "store is full", "devices": []}
    state.take(
        Health(1, status | {"domains": [{"domain": "gpu", "state": "absent", "reason": "no driver"}]}), 0
    )
    text = line(state, 0, 0, set())
    assert "gpu – (absent)" in text
    assert "daemon degraded: store is full" in text


def test_json_holds_numbers_with_units_in_the_keys_and_null_where_unknown() -> None:
    told_json = json.loads(json.dumps(as_json(told(), 11 * S)))
    gpu, cpu = told_json["devices"]
    assert gpu["power_w"] == 412.0
    assert gpu["share_of_limit"] == pytest.approx(412 / 700)
    assert cpu["limit_w"] is None
    assert cpu["share_of_limit"] is None
    (train,) = told_json["open_stages"]
    assert train["energy_j"] == {"gpu": 12_000.0, "cpu": 900.0}
    assert train["total_j"] == 12_900.0
    assert train["j_per"]["label"] == pytest.approx(0.018, rel=1e-3)
    assert told_json["power_w"] == 473.0
