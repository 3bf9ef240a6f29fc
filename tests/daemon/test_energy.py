"""Does the running integral give the formula's energy, at samples, between them, over gaps and in unions?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyd.energy import GUARD_NS, HALF_PJ_PER_UJ, Edge, Missing, Totals, trapezoid_uj
from energyd.energy import DeviceLog as Log
from energyd.roughness import NONE
from energyd.spans import Span, union
from energyd.stages import Anchor, Stage
from energyd.store.columns import schema

MS = 1_000_000
S = 1_000_000_000


def log_of(t_ns: list[int], power_mw: list[int], max_step_ns: int = 100 * MS) -> Log:
    log = Log(0, max_step_ns, Totals())
    log.append(np.array(t_ns), np.array(power_mw, np.int32))
    return log


def energy_uj(log: Log, t0: int, t1: int) -> int:
    a, b = log.edge_at(t0), log.edge_at(t1)
    assert isinstance(a, Edge)
    assert isinstance(b, Edge)
    return b.e_uj - a.e_uj


def test_a_ramp_between_samples_gives_the_formula_to_a_microjoule() -> None:
    # 0 → 600 W over 10 s: E(t) = 30 t² J.
    t = np.arange(0, 10 * S + 1, 20 * MS)
    log = log_of(list(t), list((600_000 * t // (10 * S)).astype(int)))
    for t0, t1 in [(1, 3 * S + 7), (17 * MS + 1, 18 * MS), (123_456_789, 9_876_543_210)]:
        exact_uj = 30e6 * ((t1 / S) ** 2 - (t0 / S) ** 2)
        assert energy_uj(log, t0, t1) == pytest.approx(exact_uj, abs=2)


def test_a_square_wave_with_edges_between_samples_is_right_to_its_own_interpolation() -> None:
    # 100/700 W, half period 100 ms, a sample every 20 ms: each flank is a ramp one sample wide.
    t = np.arange(0, 4 * S + 1, 20 * MS)
    p = np.where((t // (100 * MS)) % 2 == 0, 100_000, 700_000)
    log = log_of(list(t), list(p))
    t0, t1 = 333 * MS + 3, 3_111 * MS + 1
    got = energy_uj(log, t0, t1)
    fine = np.linspace(t0, t1, 2_000_001)
    reference = np.trapezoid(np.interp(fine, t, p), fine) / 1e6
    assert got == pytest.approx(reference, rel=1e-6)
    square_uj = sum(
        (min(t1, b) - max(t0, b - 100 * MS)) * (100_000 if k % 2 == 0 else 700_000) / 1e6
        for k in range(40)
        if (b := (k + 1) * 100 * MS) > t0 and b - 100 * MS < t1
    )
    # At each window edge at most one flank is cut: its ramp is off by no more than 600 W × 20 ms / 2.
    assert abs(got - square_uj) <= 2 * 600_000 * 20 * MS / 2 / 1e6 + 28 * 600_000 * 20 * MS / 2 / 1e6
    assert abs(got - square_uj) / square_uj < 0.01


def test_the_integral_does_not_depend_on_how_the_samples_were_batched() -> None:
    rng = np.random.default_rng(3)
    t = np.cumsum(rng.integers(10 * MS, 46 * MS, 3_000))
    p = rng.integers(60_000, 900_000, 3_000).astype(np.int32)
    whole = Log(0, 100 * MS, Totals())
    whole.append(t, p)
    pieces = Log(0, 100 * MS, Totals())
    for part in np.array_split(np.arange(3_000), 77):
        pieces.append(t[part], p[part])
    assert pieces.totals == whole.totals
    assert (pieces.after(None)[2] == whole.after(None)[2]).all()
    half_pj = int(((p[:-1].astype(np.int64) + p[1:]) * np.diff(t)).sum())
    assert whole.totals.cum_uj == half_pj // HALF_PJ_PER_UJ


def test_twelve_hours_in_one_batch_do_not_overflow() -> None:
    log = log_of(list(np.arange(0, 12 * 3600) * S), [700_000] * (12 * 3600), max_step_ns=2 * S)
    assert log.totals.cum_uj == (12 * 3600 - 1) * 700_000_000


def test_an_instant_without_a_following_sample_is_pending_and_one_before_the_first_is_missing() -> None:
    log = log_of([10 * S, 10 * S + 20 * MS], [1000, 1000])
    assert log.edge_at(10 * S + 21 * MS) is None
    assert log.edge_at(9 * S) == Missing("before_first_sample")


def test_a_bridged_gap_carries_the_counters_energy_and_is_spread_by_the_trapezoids_shape() -> None:
    log = log_of([0, 20 * MS], [100_000, 100_000])
    log.append_after_gap(10 * S, 300_000, "late", bridged_uj=1_000_000_000)
    assert energy_uj(log, 20 * MS, 10 * S) == 1_000_000_000
    middle = log.edge_at((20 * MS + 10 * S) // 2)
    assert isinstance(middle, Edge)
    # From 100 to 300 W: the first half holds (100 + 200) / (100 + 300) / 2 = 3/8 of it.
    assert middle.e_uj - 2_000_000 == pytest.approx(375_000_000, rel=1e-6)
    assert not middle.in_hole


@pytest.mark.parametrize("t_ns", [20 * MS, 30 * MS, 5 * S, 10 * S], ids=["edge", "step", "gap", "behind"])
def test_an_open_stage_that_began_in_a_bridged_gap_can_be_kept_over_a_restart(t_ns: int) -> None:
    log = log_of([0, 20 * MS, 40 * MS], [100_000, 150_000, 100_000])
    log.append_after_gap(10 * S, 300_000, "daemon_down", bridged_uj=1_000_000_000, bridge_j2=2.0)
    edge = log.edge_at(t_ns)
    assert isinstance(edge, Edge)
    stage = Stage("r", "c.0", "early", t_ns, "c", begin={0: edge}, anchors={0: Anchor.at(1_000, edge, 0)})
    row = dict(zip((name for name, _ in schema()["stages_log"]), stage.row(), strict=True))
    again = Stage.restore(row, stage.memo())
    assert again.begin == stage.begin
    assert again.anchors == stage.anchors


def test_time_in_gaps_and_holes_are_counted_at_every_instant() -> None:
    log = log_of([0, 20 * MS], [1000, 1000])
    log.append_after_gap(1 * S, 1000, "late", bridged_uj=5)
    log.append(np.array([1 * S + 20 * MS]), np.array([1000], np.int32))
    log.append_after_gap(3 * S, 1000, "lost", bridged_uj=None)
    log.append(np.array([3 * S + 20 * MS]), np.array([1000], np.int32))
    seen = [log.edge_at(t) for t in (10 * MS, 510 * MS, 1 * S + MS, 2 * S, 3 * S + MS)]
    assert all(isinstance(e, Edge) for e in seen)
    facts = [(e.gap_ns, e.holes, e.in_hole) for e in seen if isinstance(e, Edge)]
    assert facts == [
        (0, 0, False),
        (490 * MS, 0, False),
        (980 * MS, 0, False),
        (980 * MS + 980 * MS, 0, True),
        (980 * MS + 1_980 * MS, 1, False),
    ]


def test_a_log_taken_over_from_the_store_answers_as_the_old_one_did() -> None:
    old = log_of([0, 20 * MS, 40 * MS], [1000, 2000, 3000])
    gap = old.append_after_gap(5 * S, 1000, "late", bridged_uj=None).gaps[0]
    old.append(np.array([5 * S + 20 * MS]), np.array([1000], np.int32))
    new = Log(0, 100 * MS, Totals(**vars(old.totals)))
    new.preload(*old.after(None), [gap])
    for t in (1, 30 * MS, 2 * S, 5 * S + 7):
        a, b = new.edge_at(t), old.edge_at(t)
        assert isinstance(a, Edge)
        assert isinstance(b, Edge)
        assert replace(a, rough=NONE) == replace(b, rough=NONE)
        assert a.rough == pytest.approx(b.rough)


def test_samples_that_made_way_count_for_windows_around_them_whenever_the_edges_were_looked_up() -> None:
    t = [k * 20 * MS for k in range(200)]
    log = log_of(t, [1000] * 200)
    places = (t[10] + 1, t[150] + 1, t[180])
    before = [log.edge_at(at) for at in places]
    log.drop(t[20], t[120])
    after = [log.edge_at(at) for at in places]
    counts = [e.n for e in [*before, *after] if isinstance(e, Edge)]
    assert counts == [11, 151, 181] * 2
    assert log.edge_at(-1) == Missing("before_first_sample")
    log.trim(t[130] + GUARD_NS)
    edge = log.edge_at(t[180])
    assert isinstance(edge, Edge)
    assert edge.n == 181


def test_a_trimmed_log_still_continues_the_integral_and_says_when_an_edge_is_too_old() -> None:
    t = np.arange(0, 400 * S, S)
    log = log_of(list(t), [1000] * 400, max_step_ns=2 * S)
    before = log.totals.cum_uj
    log.trim(300 * S)
    log.append(np.array([400 * S]), np.array([1000], np.int32))
    assert log.totals.cum_uj == before + 1_000_000
    assert log.edge_at(10 * S) == Missing("marker_too_late")
    kept = log.edge_at(200 * S)
    assert isinstance(kept, Edge)
    assert (kept.e_uj, kept.n) == (200_000_000, 201)


@given(st.integers(0, 99), st.integers(1, 900))
def test_a_part_of_some_samples_integrates_like_numpy(first: int, length: int) -> None:
    rng = np.random.default_rng(first)
    t = np.cumsum(rng.integers(MS, 46 * MS, 100))
    p = rng.integers(0, 700_000, 100).astype(np.int32)
    until = min(int(t[0]) + length * MS, int(t[-1]))
    grid = np.unique(np.append(t[t < until], until))
    expected = np.trapezoid(np.interp(grid, t, p), grid) / 1e6
    assert trapezoid_uj(t, p, until) == pytest.approx(expected, abs=2)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=25))
def test_a_union_counts_each_moment_once_in_whatever_order_spans_come(spans: list[tuple[int, int]]) -> None:
    moments = {moment for a, length in spans for moment in range(a, a + length)}
    found = union(Span(a, 10 * a, a + length, 10 * (a + length)) for a, length in spans)
    assert found == (len(moments), 10 * len(moments))


def test_a_union_with_an_unknown_end_has_a_length_but_no_energy() -> None:
    assert union([Span(0, 0, 5, 50), Span(7, None, 9, 90)]) == (7, None)
