"""Do the SQL macros give the integral of the power curve, to the microjoule?"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import pytest

from analysis.energy_store import HOUR, MS, T0, S, Store, exact_uj
from energyd.store import HOUR_NS
from energyd.store.read import Reader, open_reader


def scalar(reader: Reader, device: int, t0: int, t1: int) -> float | None:
    return reader.sql("SELECT energy_j($d, $a, $b)", {"d": device, "a": t0, "b": t1}).fetchall()[0][0]


def table(reader: Reader, windows: list[tuple[int, int, int]]) -> list[tuple[float | None, float | None]]:
    """(energy_j, coverage) of (device, t0, t1) windows by the set-based macro."""
    rows = ", ".join(f"({i}, {d}, {a}, {b})" for i, (d, a, b) in enumerate(windows))
    query = f"WITH asked(i, device, t0_ns, t1_ns) AS (VALUES {rows}) FROM integrate('asked') ORDER BY i"
    return [(r["energy_j"], r["coverage"]) for r in reader.sql(query).dicts()]


def all_ways_uj(store: Store, reader: Reader, device: int, t0: int, t1: int) -> int | None:
    """The one number that both macros and the ingest code agree on, in µJ."""
    one = scalar(reader, device, t0, t1)
    [(many, _)] = table(reader, [(device, t0, t1)])
    stored_uj, *_ = store.ingest(device, t0, t1)
    assert one == many
    assert stored_uj == (None if one is None else round(one * 1e6))
    return stored_uj


def test_a_ramp_cut_between_samples_gives_its_closed_form(store: Store) -> None:
    """100 W + 50 W/s over 4 s; the curve is linear, so interpolation is exact but for the rounding."""
    store.device(0)
    store.power(0, range(T0, T0 + 4 * S + 1, 20 * MS), lambda t: 100_000 + (t - T0) // 20_000)
    with open_reader(store.write()) as reader:
        for a_s, b_s in [(0.5003, 2.7191), (1.0, 1.0101), (0.00001, 3.99999)]:
            a, b = T0 + round(a_s * S), T0 + round(b_s * S)
            x, y = Fraction(a - T0, S), Fraction(b - T0, S)
            closed_j = 100 * (y - x) + 25 * (y * y - x * x)
            found = all_ways_uj(store, reader, 0, a, b)
            assert found is not None
            assert abs(found - closed_j * 1_000_000) <= 2


def test_a_square_wave_is_off_by_no_more_than_the_interpolation_of_its_flanks(store: Store) -> None:
    """70 W and 630 W, 200 ms each: an edge inside a flank errs by at most half a step of the jump."""
    store.device(0)
    store.power(
        0, range(T0, T0 + 4 * S + 1, 20 * MS), lambda t: 70_000 if (t - T0) // (200 * MS) % 2 else 630_000
    )
    with open_reader(store.write()) as reader:
        for a, b in [(T0 + 100 * MS, T0 + 2_900 * MS), (T0 + 195 * MS, T0 + 1_005 * MS)]:
            high_ns = sum((t // (200 * MS)) % 2 == 0 for t in range(a - T0, b - T0, MS)) * MS
            closed_uj = (high_ns * 630_000 + (b - a - high_ns) * 70_000) / 1e6
            found = all_ways_uj(store, reader, 0, a, b)
            assert found is not None
            flanks = (b - a) // (200 * MS) + 1
            assert abs(found - closed_uj) <= flanks * 560_000 * 10 * MS / 1e6


def test_random_windows_equal_the_exact_integral_and_the_ingest_code(store: Store) -> None:
    """Jittered samples, two devices, edges anywhere: within 2 µJ of exact rational arithmetic."""
    rng = random.Random(7)
    points: dict[int, list[tuple[int, int]]] = {}
    for device in (0, 1):
        store.device(device)
        t, curve = T0, []
        while t < T0 + 20 * S:
            curve.append((t, rng.choice([70_000, 310_501, 699_999]) + rng.randrange(9_000)))
            t += rng.randrange(18 * MS, 22 * MS)
        points[device] = curve
        power = dict(curve)
        store.power(device, power, power.__getitem__)
    windows = []
    for _ in range(60):
        a, b = sorted(rng.randrange(T0, T0 + 19 * S) for _ in range(2))
        windows.append((rng.randrange(2), a, b))
    with open_reader(store.write()) as reader:
        for (device, a, b), (energy_j, coverage) in zip(windows, table(reader, windows), strict=True):
            assert energy_j is not None
            assert coverage == 1
            assert abs(energy_j * 1e6 - exact_uj(points[device], a, b)) <= 2
            assert round(energy_j * 1e6) == store.ingest(device, a, b)[0]
        for device, a, b in windows[:5]:
            all_ways_uj(store, reader, device, a, b)


def test_windows_that_touch_add_up_to_the_window_around_them(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 2 * S, 17 * MS + 1), lambda t: 123_457 + (t * 7919) % 400_000)
    with open_reader(store.write()) as reader:
        cuts = [T0 + k * 97_531_237 for k in range(1, 19)]
        pieces = [all_ways_uj(store, reader, 0, a, b) for a, b in pairwise(cuts)]
        assert sum(p for p in pieces if p is not None) == all_ways_uj(store, reader, 0, cuts[0], cuts[-1])


def test_edges_on_samples_and_windows_of_no_length_are_exact(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + S + 1, 20 * MS), lambda t: 200_000)
    with open_reader(store.write()) as reader:
        assert all_ways_uj(store, reader, 0, T0, T0 + S) == 200_000_000
        assert all_ways_uj(store, reader, 0, T0 + 5 * MS, T0 + 5 * MS) == 0


def test_half_a_microjoule_rounds_to_even_as_ingest_does(store: Store) -> None:
    """1 mW over 1 ms is 1 µJ; in the middle of a step every E(t) ends in exactly .5."""
    store.device(0)
    store.power(0, range(T0, T0 + 10 * MS + 1, MS), lambda t: 1)
    with open_reader(store.write()) as reader:
        found = [all_ways_uj(store, reader, 0, T0, T0 + k * MS + MS // 2) for k in range(4)]
    assert found == [0, 1, 2, 3], "the step's share, 0.5 µJ, goes to 0"


def test_energy_is_null_before_the_first_and_after_the_last_sample(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + S + 1, 20 * MS), lambda t: 200_000)
    with open_reader(store.write()) as reader:
        for a, b in [
            (T0 - 1, T0 + MS),
            (T0 + MS, T0 + S + 1),
            (T0 - 9 * S, T0 - 8 * S),
            (T0 + 50 * S, T0 + 51 * S),
        ]:
            assert scalar(reader, 0, a, b) is None
            assert table(reader, [(0, a, b)]) == [(None, None)]
        assert scalar(reader, 7, T0, T0 + S) is None, "no such device"
        assert scalar(reader, 0, T0 + S, T0) is None, "ends before it begins"


@pytest.fixture
def gappy(store: Store) -> Store:
    """A bridged gap of 50 min from +10 s (counter: 300 kJ), and a hole of 30 s after another 10 s."""
    store.device(0)
    store.power(0, range(T0, T0 + 10 * S + 1, 20 * MS), lambda t: 100_000)
    store.after_gap(0, T0 + 3_010 * S, 300_000, 300_000_000_000, "daemon_down")
    store.power(0, range(T0 + 3_010 * S + 20 * MS, T0 + 3_020 * S + 1, 20 * MS), lambda t: 300_000)
    store.after_gap(0, T0 + 3_050 * S, 300_000, None, "reset")
    store.power(0, range(T0 + 3_050 * S + 20 * MS, T0 + 3_060 * S + 1, 20 * MS), lambda t: 300_000)
    return store


def test_a_bridged_gap_counts_what_the_counter_gave_and_lowers_coverage(gappy: Store) -> None:
    with open_reader(gappy.write(HOUR + 1)) as reader:
        a, b = T0 + 5 * S, T0 + 3_015 * S
        assert all_ways_uj(gappy, reader, 0, a, b) == 500_000_000 + 300_000_000_000 + 1_500_000_000
        [(_, coverage)] = table(reader, [(0, a, b)])
        assert coverage == pytest.approx(10 / 3_010)


def test_an_edge_deep_inside_a_bridged_gap_takes_the_scaled_shape(gappy: Store) -> None:
    """Both neighbours are minutes away: a third of the way, 100 to 300 W, scaled to the counter's 300 kJ."""
    with open_reader(gappy.write(HOUR + 1)) as reader:
        third = T0 + 10 * S + 1_000 * S
        shape = (100 * 1000 + Fraction(200 * 1000**2, 2 * 3000)) / (200 * 3000)
        found = all_ways_uj(gappy, reader, 0, T0 + 10 * S, third)
        assert found == pytest.approx(float(300_000_000_000 * shape), abs=1)
        both = all_ways_uj(gappy, reader, 0, third, T0 + 20 * 60 * S)
        assert both is not None
        assert both > 0


def test_energy_across_or_into_a_hole_is_null_but_beside_it_is_not(gappy: Store) -> None:
    with open_reader(gappy.write(HOUR + 1)) as reader:
        hole = (T0 + 3_020 * S, T0 + 3_050 * S)
        for a, b in [(hole[0] - S, hole[1] + S), (hole[0] + S, hole[1] + S), (hole[0] - S, hole[0] + 1),
                     (hole[0] + S, hole[0] + 2 * S)]:  # fmt: skip
            assert all_ways_uj(gappy, reader, 0, a, b) is None
        assert all_ways_uj(gappy, reader, 0, hole[0] - S, hole[0]) == 300_000_000
        assert all_ways_uj(gappy, reader, 0, hole[1], hole[1] + S) == 300_000_000
        [(energy_j, coverage)] = table(reader, [(0, hole[0] - 10 * S, hole[1] + 10 * S)])
        assert energy_j is None
        assert coverage == pytest.approx(20 / 50)


def test_steps_of_three_seconds_are_found_where_the_device_allows_them(store: Store) -> None:
    store.device(0, "cpu", max_step_ns=3 * S, period_ns=S)
    store.power(0, [T0, T0 + 3 * S, T0 + 5 * S + 999 * MS, T0 + 8 * S + 999 * MS], lambda t: 40_000)
    with open_reader(store.write()) as reader:
        for a, b in [(T0 + 1, T0 + 3 * S - 1), (T0 + 2 * S, T0 + 8 * S), (T0 + 4 * S, T0 + 4 * S + 1)]:
            assert all_ways_uj(store, reader, 0, a, b) == pytest.approx(40 * (b - a) / 1000, abs=1)


def test_power_of_zero_and_below_still_integrates(store: Store) -> None:
    """A step whose trapezoid is 0 or less has no shape: its energy is spread evenly."""
    store.device(0)
    store.power(0, range(T0, T0 + S + 1, 20 * MS), lambda t: 0)
    store.after_gap(0, T0 + 2 * S, 0, 10_000_000)
    with open_reader(store.write()) as reader:
        assert all_ways_uj(store, reader, 0, T0 + 3 * MS, T0 + 7 * MS) == 0
        assert all_ways_uj(store, reader, 0, T0 + S, T0 + S + S // 4) == 2_500_000


def test_three_hours_of_sealed_files_and_the_hot_hour_are_one_curve(store: Store) -> None:
    """2 Hz for 3.5 h; windows inside hours, across their seams and over all of them."""
    store.device(0, max_step_ns=S, period_ns=S // 2)
    end = T0 + 3 * HOUR_NS + HOUR_NS // 2
    store.power(0, range(T0, end + 1, S // 2), lambda t: 250_000 + round(100_000 * math.sin(t / 3e11)))
    points = [(t, p) for _, t, p, _ in store.samples]
    root = store.write(HOUR + 3)
    assert len(list((root / "sealed/samples").glob("*/*.parquet"))) == 3
    windows = [(0, T0 + 1, end - 1)]
    for seam in (1, 2, 3):
        windows.append((0, T0 + seam * HOUR_NS - 123_456_789, T0 + seam * HOUR_NS + 987_654_321))
    windows.append((0, T0 + HOUR_NS + 600 * S + 1, T0 + HOUR_NS + 1_200 * S + 7))
    with open_reader(root) as reader:
        for (device, a, b), (energy_j, _) in zip(windows, table(reader, windows), strict=True):
            assert energy_j is not None
            assert abs(energy_j * 1e6 - exact_uj(points, a, b)) <= 3
            assert round(energy_j * 1e6) == store.ingest(device, a, b)[0]


def test_integrate_skips_the_row_groups_outside_its_windows(store: Store) -> None:
    """One minute asked of three hours: DuckDB must push the time range into the Parquet scan."""
    store.device(0, max_step_ns=S, period_ns=S // 2)
    store.power(0, range(T0, T0 + 3 * HOUR_NS, S // 2), lambda t: 250_000)
    with open_reader(store.write(HOUR + 3)) as reader:
        a = T0 + HOUR_NS + 1_800 * S
        query = f"EXPLAIN ANALYZE SELECT energy_j(0, {a}, {a + 60 * S})"
        plan = "\n".join(row[1] for row in reader.sql(query).rows)
        assert "Row Groups Scanned: 1 / 3" in plan


def test_integrate_returns_the_columns_it_was_given_in_their_order(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + S + 1, 20 * MS), lambda t: 200_000)
    with open_reader(store.write()) as reader:
        reader.sql(
            f"CREATE TABLE mine AS SELECT 'b' AS label, {T0} AS t0_ns, 0 AS device, {T0 + S} AS t1_ns, 3 AS n"
        )
        result = reader.sql("FROM integrate('mine')")
        assert result.columns == ["label", "t0_ns", "device", "t1_ns", "n", "energy_j", "coverage"]
        assert result.fetchall() == [("b", T0, 0, T0 + S, 3, 200.0, 1.0)]
