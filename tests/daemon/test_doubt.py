"""Which of two figures is told, with what doubt, and what is said where they part?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from energyd.beats import GAIN_SHARE
from energyd.doubt import Device, Figure, integral_variance_j2, reconcile
from energyd.energy import Edge
from energyd.sensing import Sensing, counter_lag_ns, counter_period_ns, sensing_of
from energyd.sources import DeviceInfo, SensorInfo

MS, S = 1_000_000, 1_000_000_000
J = 1_000_000  # µJ


def figure(
    source: str, integral_j: float, u_j: float, counter: tuple[float, float, float] | None, **device: Any
) -> Figure:
    """Of 10 s; `counter`: J, doubt in J, seconds carried."""
    told = None if counter is None else (round(counter[0] * J), round(counter[1] * J), round(counter[2] * S))
    facts = Device(source, "measured", 20 * MS, **device)
    return reconcile(facts, round(integral_j * J), round(u_j * J), told, 10 * S)


def test_a_rings_integral_is_told_however_sure_the_counter_is() -> None:
    told = figure("ring", 1000, 9, (1004, 2, 0.5))
    assert (told.method, told.energy_uj, told.u_random_uj) == ("integral", 1000 * J, 9 * J)
    assert told.flags == set()
    assert told.note is None


def test_a_ring_that_parts_from_its_counter_is_flagged_and_its_doubt_reaches_the_counter() -> None:
    told = figure("ring", 1000, 3, (1100, 4, 0.5))
    assert told.flags == {"disagree"}
    assert (told.method, told.u_random_uj) == ("integral", 100 * J)
    assert told.note is not None
    assert "ring integral 1000.0 J, counter 1100.0 J (-9.1 %)" in told.note


def test_two_sensors_of_one_board_may_differ_in_gain_before_that_is_worth_a_flag() -> None:
    allowed_j = math.hypot(3, 4) + GAIN_SHARE * 1000
    assert figure("ring", 1000 + allowed_j - 0.1, 3, (1000, 4, 0.5)).flags == set()
    assert figure("ring", 1000 + allowed_j + 0.1, 3, (1000, 4, 0.5)).flags == {"disagree"}


def test_polled_power_gives_way_to_a_counter_that_is_less_in_doubt_and_is_not_blamed() -> None:
    told = figure("instant", 1000, 60, (1020, 20, 0.5))
    assert (told.method, told.energy_uj) == ("counter", 1020 * J)
    assert 20 * J <= told.u_random_uj < 60 * J
    assert told.flags == set()


def test_polled_power_is_told_where_the_counter_had_few_steps_to_count() -> None:
    told = figure("instant", 100, 5, (110, 25, 0.8))  # 10 J apart: the counter bounds what samples missed
    assert (told.method, told.energy_uj, told.u_random_uj) == ("integral", 100 * J, 10 * J)


@pytest.mark.parametrize(("source", "flag"), [("instant", "aliased"), ("average", "disagree")])
def test_polled_power_that_parts_from_the_counter_is_named_and_the_counter_is_told(
    source: str, flag: str
) -> None:
    told = figure(source, 800, 5, (1000, 20, 0.5))
    assert told.flags == {flag}
    assert (told.method, told.energy_uj) == ("counter", 1000 * J)
    # Where the integral carried the counter it was as wrong as everywhere: half a second of ten, a fifth off.
    assert told.u_random_uj > 20 * J


def test_without_a_counter_the_integral_stands_alone() -> None:
    told = figure("instant", 1000, 60, None)
    assert (told.method, told.u_counter_uj, told.flags) == ("integral", None, set())


def test_the_whole_doubt_adds_the_boards_systematic_error_and_never_less_than_a_few_watts() -> None:
    by_share = figure("ring", 7000, 0, None, accuracy=0.05, floor_w=5.0)
    assert by_share.u_total_uj == pytest.approx(2 / math.sqrt(3) * 350 * J, rel=1e-6)
    by_floor = figure("ring", 300, 0, None, accuracy=0.05, floor_w=5.0)  # 30 W: 5 % would be 1.5 W
    assert by_floor.u_total_uj == pytest.approx(2 / math.sqrt(3) * 50 * J, rel=1e-6)
    assert figure("simulated", 300, 7, None).u_total_uj == 7 * J
    assert figure("ring", 7000, 300, None, accuracy=0.05).u_total_uj > by_share.u_total_uj


def edge(t_s: float, p_w: float, range_w: float = 0.0, **more: Any) -> Edge:
    return Edge(int(t_s * S), 0, 0, 0, 0, p_w=p_w, range_w=range_w, **more)


RING = Sensing("ring", 20 * MS, 20 * MS, 20 * MS, 5 * MS, 1.0 * MS, 0.10)


def test_a_doubtful_marker_costs_its_doubt_at_full_power() -> None:
    calm = integral_variance_j2(RING, edge(0, 600), edge(10, 600), 0)
    late = integral_variance_j2(RING, edge(0, 600), edge(10, 600), S // 10)
    assert math.sqrt(late - calm) == pytest.approx(60 / math.sqrt(3))


def test_an_edge_where_power_changes_is_more_in_doubt_than_one_where_it_does_not() -> None:
    calm = integral_variance_j2(RING, edge(0, 600), edge(10, 600), 0)
    steep = integral_variance_j2(RING, edge(0, 600, range_w=500), edge(10, 600), 0)
    assert steep > 4 * calm


def test_a_bridged_gap_and_an_edge_inside_one_widen_the_doubt() -> None:
    calm = integral_variance_j2(RING, edge(0, 600), edge(10, 600), 0)
    bridged = integral_variance_j2(RING, edge(0, 600), edge(10, 600, bridge_j2=900.0), 0)
    inside = integral_variance_j2(RING, edge(0, 600, split_j2=400.0), edge(10, 600, bridge_j2=900.0), 0)
    assert bridged - calm == pytest.approx(900)
    assert inside - bridged == pytest.approx(400)


def test_what_a_sensor_sees_follows_from_its_probed_period_alone() -> None:
    def probed(source: str, period_ms: int, lag_ms: int) -> Sensing:
        info = DeviceInfo(
            uuid="u", domain="gpu", name="any", source=source, period_ns=period_ms * MS, max_step_ns=S,
            lag_ns=lag_ms * MS,
        )  # fmt: skip
        return sensing_of(info)

    assert probed("ring", 20, 10) == RING
    assert probed("ring", 20, 0).lag_doubt_ns == 15 * MS  # nothing was taken off the stamps of a recording
    assert probed("ring", 40, 20).seen_ns == 40 * MS
    assert probed("instant", 100, 50).kind == "point"
    assert probed("average", 100, 550).edge_ns == S  # twice the lag less the period: its window


def test_a_counters_step_is_the_probed_one_else_a_common_one_and_closed_form_power_has_none() -> None:
    def gpu(*sensors: SensorInfo, origin: Any = "measured") -> DeviceInfo:
        return DeviceInfo(
            uuid="u", domain="gpu", name="any", source="ring", period_ns=1, max_step_ns=1, sensors=sensors,
            origin=origin,
        )  # fmt: skip

    assert counter_period_ns(gpu(SensorInfo(sensor="counter", state="answers", period_ns=7))) == 7
    assert counter_period_ns(gpu(SensorInfo(sensor="counter", state="answers"))) == S  # watched, and not told
    assert counter_lag_ns(gpu(SensorInfo(sensor="counter", state="answers"))) == 50 * MS
    assert counter_period_ns(gpu()) == 100 * MS
    assert counter_period_ns(gpu(origin="simulated")) == 0
