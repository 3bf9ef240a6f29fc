"""Does a watcher show what it was told, and say `–` where it was not?"""

from __future__ import annotations

from typing import Any

import pytest

from energyd.top_cost import cost_of
from energyd.top_history import BUCKET_NS, PowerHistory
from energyd.top_state import KEEP_FINISHED, TopState
from energyd_client.protocol import DeviceList, Health, Samples, StageState

S = 1_000_000_000
T0 = 1_700_000_000 * S  # store time at local_ns = 0


def device(number: int = 0, domain: str = "gpu", **over: Any) -> dict[str, Any]:
    row = {
        "device": number, "uuid": f"u{number}", "domain": domain, "name": "a device", "source": "ring",
        "origin": "measured", "period_ns": S // 50, "max_step_ns": S // 10, "power_limit_mw": 700_000,
    }  # fmt: skip
    return row | over


def health(local_ns: int, n: int = 1, **over: Any) -> Health:
    status: dict[str, Any] = {
        "state": "ok", "reason": None, "version": "0.1.0", "started_ns": T0 - 100 * S,
        "now_ns": T0 + local_ns, "devices": [device(0), device(1, "cpu")], "domains": [], "gaps": 0,
    }  # fmt: skip
    return Health(n, status | over)


def samples(number: int, t_ns: int, cum_uj: int, power_mw: int = 400_000, n: int = 1) -> Samples:
    return Samples(n, number, [t_ns], [power_mw], cum_uj)


def stage(stage_id: str = "s", **over: Any) -> StageState:
    word: dict[str, Any] = {
        "n": 1, "run_id": "r", "run": "run", "stage_id": stage_id, "parent_id": None, "stage": stage_id,
        "state": "open", "status": None, "t0_ns": T0 + S, "t1_ns": None, "counts": {}, "begin_uj": {},
        "energy_uj": {},
    }  # fmt: skip
    return StageState(**(word | over))


@pytest.fixture
def state() -> TopState:
    """A GPU and a CPU, heard of at local_ns 0."""
    heard = TopState()
    heard.take(health(0), 0)
    return heard


def test_a_picture_is_whole_when_every_device_and_open_stage_of_the_health_word_was_heard() -> None:
    heard = TopState()
    told: list[Samples | StageState | Health] = [
        samples(0, T0, 0), stage("s"), stage("t", state="final"), health(0, open_stages=2),
        samples(0, T0, 0), samples(1, T0, 0), stage("u"),
    ]  # fmt: skip
    whole = []
    for message in told:
        heard.take(message, 0)
        whole.append(heard.is_whole())
    assert whole == [False] * 6 + [True]


def test_an_open_stage_has_cost_the_integral_now_less_that_at_its_begin(state: TopState) -> None:
    state.take(stage(begin_uj={0: 1_000_000, 1: 2_000_000}), S)
    state.take(samples(0, T0 + 11 * S, 5_000_000), 11 * S)
    state.take(samples(1, T0 + 11 * S, 2_500_000), 11 * S)
    cost = cost_of(state, state.stages["s"], 11 * S)
    assert cost.joules == {"gpu": 4.0, "cpu": 0.5}
    assert cost.total_j == 4.5
    assert cost.seconds == 10
    assert cost.mean_w() == 0.45


def test_a_stage_whose_begin_is_not_known_yet_costs_nothing_known_rather_than_0(state: TopState) -> None:
    state.take(samples(0, T0 + S, 5_000_000), S)
    state.take(stage(), S)
    cost = cost_of(state, state.stages["s"], 2 * S)
    assert cost.joules == {}
    assert cost.total_j is None
    assert cost.mean_w() is None


def test_a_total_waits_for_the_slower_domain(state: TopState) -> None:
    state.take(stage(begin_uj={0: 0}), S)
    state.take(samples(0, T0 + 2 * S, 1_000_000), 2 * S)
    assert cost_of(state, state.stages["s"], 2 * S).total_j is None
    assert cost_of(state, state.stages["s"], 20 * S).total_j == 1.0  # by now it is not charged with the CPU


def test_energy_below_the_begin_is_not_known_yet(state: TopState) -> None:
    state.take(samples(0, T0, 900), 0)
    state.take(stage(begin_uj={0: 1_000}), S)
    assert cost_of(state, state.stages["s"], S).joules["gpu"] is None


def test_an_unreadable_domain_makes_every_total_unknown(state: TopState) -> None:
    domains = [{"domain": "cpu", "state": "unreadable", "source": None, "reason": "RAPL needs root"}]
    state.take(health(S, 2, devices=[device(0)], domains=domains), S)
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj={0: 5_000_000}), 3 * S)
    cost = cost_of(state, state.stages["s"], 3 * S)
    assert cost.joules == {"gpu": 5.0}
    assert cost.total_j is None
    assert state.power_w(3 * S) is None


def test_an_absent_domain_is_left_out_of_totals(state: TopState) -> None:
    domains = [{"domain": "gpu", "state": "absent", "source": None, "reason": "no driver"}]
    state.take(health(S, 2, devices=[device(1, "cpu")], domains=domains), S)
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj={1: 5_000_000}), 3 * S)
    assert cost_of(state, state.stages["s"], 3 * S).total_j == 5.0


def test_a_final_stage_with_an_unknown_energy_has_no_total(state: TopState) -> None:
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj={0: None, 1: 5_000_000}), 3 * S)
    cost = cost_of(state, state.stages["s"], 3 * S)
    assert cost.joules == {"gpu": None, "cpu": 5.0}
    assert cost.total_j is None


def test_dram_is_shown_apart_from_the_total(state: TopState) -> None:
    state.take(DeviceList(1, [device(0), device(1, "cpu"), device(2, "dram")]), 0)
    energy: dict[int, int | None] = {0: 1_000_000, 1: 1_000_000, 2: 7_000_000}
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj=energy), 3 * S)
    cost = cost_of(state, state.stages["s"], 3 * S)
    assert cost.joules["dram"] == 7.0
    assert cost.total_j == 2.0


def test_two_gpus_of_a_stage_are_summed_in_their_domain(state: TopState) -> None:
    state.take(DeviceList(1, [device(0), device(1)]), 0)
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj={0: 1_000_000, 1: 2_000_000}), 3 * S)
    assert cost_of(state, state.stages["s"], 3 * S).joules == {"gpu": 3.0}
    assert [d.label for d in state.devices.values()] == ["gpu0", "gpu1"]


def test_a_parent_counts_the_tokens_of_its_descendants(state: TopState) -> None:
    state.take(stage("top", counts={"label": 1}), S)
    state.take(stage("mid", parent_id="top", counts={"label": 10, "positions": 5}), S)
    state.take(stage("low", parent_id="mid", counts={"label": 100}, state="final", t1_ns=T0 + 2 * S), S)
    cost = cost_of(state, state.stages["top"], 3 * S)
    assert cost.counts == {"label": 111, "positions": 5}
    assert cost.complete
    assert cost.unit() == "label"


def test_tokens_of_forgotten_stages_stay_with_their_parent(state: TopState) -> None:
    state.take(stage("top"), S)
    for i in range(KEEP_FINISHED + 50):
        word = stage(f"s{i}", parent_id="top", counts={"label": 2}, state="final", t1_ns=T0 + (2 + i) * S)
        state.take(word, S)
    assert len(state.stages) == KEEP_FINISHED + 1
    assert cost_of(state, state.stages["top"], 3 * S).counts == {"label": 2 * (KEEP_FINISHED + 50)}


@pytest.mark.parametrize("child_first", [True, False])
def test_who_joins_late_knows_that_a_parents_tokens_are_a_lower_bound(
    child_first: bool, state: TopState
) -> None:
    words = [stage("top", t0_ns=T0 - 50 * S), stage("low", parent_id="top", counts={"label": 7})]
    for word in reversed(words) if child_first else words:
        state.take(word, S)
    assert not cost_of(state, state.stages["top"], S).complete
    assert cost_of(state, state.stages["low"], S).complete


def test_joules_per_token_need_tokens(state: TopState) -> None:
    state.take(stage(state="final", t1_ns=T0 + 2 * S, energy_uj={0: 1, 1: 1}, counts={"label": 0}), 3 * S)
    cost = cost_of(state, state.stages["s"], 3 * S)
    assert cost.unit() is None
    assert cost.j_per("label") is None


def test_open_stages_come_as_a_tree_by_time_of_begin(state: TopState) -> None:
    state.take(stage("b", t0_ns=T0 + 2 * S), 0)
    state.take(stage("a", t0_ns=T0 + S), 0)
    state.take(stage("a1", parent_id="a", t0_ns=T0 + 3 * S), 0)
    state.take(stage("orphan", parent_id="gone", t0_ns=T0 + 4 * S), 0)
    tree = [(s.word.stage_id, place) for s, place in state.open_tree()]
    assert tree == [("a", (False,)), ("a1", (False, True)), ("b", (False,)), ("orphan", (True,))]


def test_the_newest_finished_stage_comes_first_with_the_names_above_it(state: TopState) -> None:
    state.take(stage("top"), 0)
    for i, name in enumerate(["one", "two"]):
        state.take(stage(name, parent_id="top", state="final", t1_ns=T0 + (i + 2) * S), 0)
    assert [state.path(s) for s in state.finished()] == ["top/two", "top/one"]


def test_a_device_without_new_samples_falls_silent_and_takes_the_total_power_along(state: TopState) -> None:
    state.take(samples(0, T0 + S, 1), S)
    state.take(samples(1, T0 + S, 1, 60_000), S)
    assert state.power_w(2 * S) == 460
    # The same last values again, as after a new subscription, are no sign of life.
    state.take(samples(0, T0 + S, 1), 9 * S)
    assert state.devices[0].silent_s(9 * S) == 8
    assert state.power_w(9 * S) is None


def test_store_time_goes_on_between_two_words_of_the_daemon(state: TopState) -> None:
    assert state.now_ns(3 * S) == T0 + 3 * S


def test_a_replays_time_is_its_traces(state: TopState) -> None:
    state.take(health(S, 2, devices=[device(0, origin="replayed")]), S)
    state.take(samples(0, T0 - 500 * S, 1), S)
    assert state.now_ns(20 * S) == T0 - 500 * S


def test_the_daemons_silence_is_told_after_three_seconds(state: TopState) -> None:
    assert state.silent_s(3 * S) is None
    assert state.silent_s(5 * S) == 5


def test_another_daemon_takes_its_predecessors_unconfirmed_stages_away(state: TopState) -> None:
    state.take(stage("old"), -1)
    state.take(stage("kept"), S)
    state.take(health(2 * S, 1, started_ns=T0 + S), 2 * S)
    assert list(state.stages) == ["kept"]


def test_a_device_that_the_daemon_no_longer_names_is_gone(state: TopState) -> None:
    state.take(DeviceList(1, [device(1, "cpu")]), S)
    assert list(state.devices) == [1]


def test_the_curve_holds_a_slow_sensors_value_and_shows_a_dead_ones_hole() -> None:
    history = PowerHistory()
    end_ns = T0 - T0 % BUCKET_NS + 60 * S
    history.add([end_ns - 10 * S, end_ns - 8 * S], [100, 300])
    values = history.curve_mw(120, end_ns, 2 * S)
    assert values[-21:] == [100] * 4 + [300] * 5 + [None] * 12
    assert set(values[:-21]) == {None}


def test_a_narrow_curve_shows_means_of_what_a_wide_one_shows() -> None:
    history = PowerHistory()
    end_ns = T0 - T0 % BUCKET_NS
    history.add([end_ns - i * BUCKET_NS for i in reversed(range(120))], [1000 * (i % 4) for i in range(120)])
    assert history.curve_mw(30, end_ns, 0) == [1500.0] * 30
    assert len(history.curve_mw(500, end_ns, 0)) == 120


def test_the_history_stays_small_however_long_it_listens() -> None:
    history = PowerHistory()
    for i in range(2_000):
        history.add([T0 + i * BUCKET_NS], [1])
    assert len(history._sums) < 130
