"""Does a hardware counter bridge a gap only where it can be trusted to have counted all of it?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from energyd.energy import Totals
from energyd.ledger import HOLD_NS, Ledger
from energyd.sources import Break, CounterRead, DeviceInfo, PowerSamples
from energyd.store.columns import schema
from energyd.store.load import StoredDevice
from energyd.timeline import Timeline

MS, S = 1_000_000, 1_000_000_000
OFFSET = 1_000 * S
LOADED_LONG_AGO_MJ = 500_000_000
GPU = DeviceInfo(
    uuid="GPU-a", domain="gpu", name="H100", source="ring", period_ns=20 * MS, max_step_ns=100 * MS,
    power_limit_mw=700_000,
)  # fmt: skip


def ledger_with(stored: dict[int, StoredDevice] | None = None) -> Ledger:
    ledger = Ledger(Timeline("boot", OFFSET), stored or {}, "daemon_down")
    ledger.declare([GPU], [], 0)
    return ledger


def stored_device(**totals: Any) -> dict[int, StoredDevice]:
    empty = np.array([], np.int64)
    known = Totals(t_ns=OFFSET + S, power_mw=100_000, n=10, **totals)
    return {0: StoredDevice("GPU-a", 100 * MS, known, empty, empty.astype(np.int32), empty, [])}


def power(t0: float, t1: float, watts: float = 100) -> PowerSamples:
    t = (np.arange(round((t1 - t0) / 0.02)) * 0.02 * S + t0 * S).astype(np.int64)
    return PowerSamples("GPU-a", t, np.full(len(t), int(watts * 1000), np.int32))


def feed(ledger: Ledger, *events: PowerSamples | CounterRead | Break, now_s: float = 0) -> None:
    for event in events:
        if isinstance(event, PowerSamples):
            ledger.samples_in(event, OFFSET + int(now_s * S))
        elif isinstance(event, CounterRead):
            ledger.counter_in(event)
        else:
            ledger.break_in(event)
    ledger.settle(OFFSET + int(now_s * S))


def read(t_s: float, mj: float) -> CounterRead:
    return CounterRead("GPU-a", int(t_s * S), int(mj))


def gaps(ledger: Ledger) -> list[tuple[str, int | None]]:
    names = [c for c, _ in schema()["gaps"]]
    rows = [dict(zip(names, row, strict=True)) for row in ledger.rows.get("gaps", [])]
    return [(row["reason"], row["bridged_uj"]) for row in rows]


@pytest.mark.parametrize("reason", ["lost: GPU is lost", "suspend"])
def test_a_young_counter_does_not_bridge_a_failure_in_which_it_may_have_begun_anew(reason: str) -> None:
    ledger = ledger_with()
    # Loaded just before: 50 J. It was loaded again in the hole and has counted 300 J since: no step back.
    feed(ledger, power(0, 1), read(0.5, 50_000), now_s=1)
    feed(ledger, Break("GPU-a", S, reason), power(5, 6), read(5.5, 300_000), now_s=6)
    assert gaps(ledger) == [(reason, None)]


@pytest.mark.parametrize("reason", ["lost: GPU is lost", "suspend"])
def test_a_counter_with_more_in_it_than_the_failure_could_cost_bridges_it(reason: str) -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    true_mj = 0.48 * 100_000 + 4.02 * 300_000 + 0.5 * 100_000
    feed(ledger, Break("GPU-a", S, reason), power(5, 6), read(5.5, LOADED_LONG_AGO_MJ + true_mj), now_s=6)
    ((found, bridged),) = gaps(ledger)
    assert found == reason
    assert bridged == pytest.approx(4.02 * 300e6, abs=2_000)


def test_a_young_counter_does_not_bridge_the_daemons_absence() -> None:
    ledger = ledger_with(stored_device(read_t_ns=OFFSET + S, read_mj=50_000))
    feed(ledger, power(60, 61), read(60.5, 9_000_000), now_s=61)
    assert gaps(ledger) == [("daemon_down", None)]


def test_a_read_from_before_a_hole_does_not_bridge_the_gap_behind_it() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, power(5, 6), now_s=6)
    feed(ledger, now_s=7 + HOLD_NS / S)  # the counter was refused: a hole of about 1,200 J
    feed(ledger, power(20, 21), read(20.5, LOADED_LONG_AGO_MJ + 6_000_000), now_s=21)
    assert gaps(ledger) == [("late", None), ("late", None)]


def test_neither_does_it_after_a_restart_of_the_daemon() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, power(5, 6), now_s=6)
    feed(ledger, now_s=7 + HOLD_NS / S)
    totals = ledger.take_rows()[2][0]
    again = ledger_with({0: StoredDevice("GPU-a", 100 * MS, totals, *power_arrays(), [])})
    feed(again, power(20, 21), read(20.5, LOADED_LONG_AGO_MJ + 6_000_000), now_s=21)
    assert gaps(again) == [("daemon_down", None)]


def power_arrays() -> tuple[Any, Any, Any]:
    empty = np.array([], np.int64)
    return empty, empty.astype(np.int32), empty


def test_a_read_in_or_behind_a_further_gap_bridges_neither() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    # 200 W in both gaps: each of the reads fits the limits, and tells of more than the first gap.
    feed(ledger, power(5, 6), power(9, 10), now_s=10)
    feed(
        ledger, read(7.5, LOADED_LONG_AGO_MJ + 1_250_000), read(9.5, LOADED_LONG_AGO_MJ + 1_600_000), now_s=10
    )
    assert gaps(ledger) == [("late", None), ("late", None)]


def test_a_read_inside_a_bridged_gap_is_set_beside_no_integral() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    # Nothing is drawn until 3 s, 600 W from then on: the bridge knows the sum and not when.
    at_3 = LOADED_LONG_AGO_MJ + 48_000
    feed(ledger, read(3.0, at_3), power(5, 6), read(5.5, at_3 + 1_250_000), now_s=6)
    feed(ledger, power(6, 7), now_s=7)
    assert [reason for reason, bridged in gaps(ledger) if bridged] == ["late"]
    beside = {row[2]: row[3] for row in ledger.rows["counters"]}
    assert beside[at_3] is None
    assert beside[at_3 + 1_250_000] is not None


def test_a_read_that_came_with_the_gap_is_the_one_it_is_bridged_from() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, power(5, 6), now_s=6)
    feed(ledger, now_s=7 + HOLD_NS / S)
    # All in one batch: samples behind the hole, a read among them, and the next gap.
    later = LOADED_LONG_AGO_MJ + 6_000_000
    feed(ledger, power(6, 7), read(6.5, later), power(9, 10), read(9.5, later + 0.48e5 + 2.02e5 + 0.5e5))
    assert gaps(ledger)[1] == ("late", pytest.approx(2.02e8, abs=2_000))


@pytest.mark.parametrize(
    ("said_mj", "what"),
    [(0, "stands still"), (50_000_000, "counts more than the board can draw")],
)
def test_a_counter_that_cannot_be_right_does_not_bridge(said_mj: int, what: str) -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, power(5, 6), read(5.5, LOADED_LONG_AGO_MJ + said_mj), now_s=6)
    assert gaps(ledger) == [("late", None)]


def test_a_counter_a_step_behind_over_a_short_gap_bridges_it_with_what_it_has() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.9, LOADED_LONG_AGO_MJ), now_s=1)
    # 0.18 s of silence at 100 W, 8 J before and 10 J behind it, of which the counter has not seen the last.
    feed(ledger, power(1.16, 2), read(1.26, LOADED_LONG_AGO_MJ + 27_000), now_s=2)
    ((_, bridged),) = gaps(ledger)
    assert bridged == pytest.approx(9e6, abs=1e6)


def test_a_reset_seen_behind_a_gap_is_that_gap_and_spoils_nothing_later() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, Break("GPU-a", S, "lost: NVIDIA driver not loaded"), power(5, 6), now_s=6)
    feed(ledger, Break("GPU-a", 6 * S, "driver_reload", counter_reset=True), read(5.9, 800), now_s=6)
    feed(ledger, power(6, 7), now_s=7)
    assert gaps(ledger) == [("driver_reload", None)]
    assert ledger.logs[0].totals.holes == 1


def test_a_reset_that_only_the_source_saw_is_not_bridged() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 1), read(0.5, LOADED_LONG_AGO_MJ), now_s=1)
    feed(ledger, power(5, 6), now_s=6)
    # The source had read more than we could place beside the integral, then less.
    reset = Break("GPU-a", 6 * S, "reset", counter_reset=True)
    feed(ledger, reset, read(5.5, LOADED_LONG_AGO_MJ + 1_000_000), now_s=6)
    assert gaps(ledger) == [("reset", None)]


def test_samples_from_before_a_break_do_not_take_its_name_from_the_gap_behind_them() -> None:
    ledger = ledger_with()
    # The ring still held what came before the sleep, and what came after it.
    both = PowerSamples(
        "GPU-a", *(np.concatenate(x) for x in zip(columns(0.5, 1), columns(9, 10), strict=True))
    )
    feed(ledger, power(0, 0.5), Break("GPU-a", 10 * S, "suspend"), both, now_s=10)
    assert gaps(ledger) == [("suspend", None)]


def columns(t0: float, t1: float) -> tuple[Any, Any]:
    samples = power(t0, t1)
    return samples.t_ns, samples.power_mw


def test_a_counter_that_leaps_further_than_the_board_can_draw_tells_nothing_across_the_leap() -> None:
    ledger = ledger_with()
    feed(ledger, power(0, 5), read(1.5, LOADED_LONG_AGO_MJ), read(2.5, LOADED_LONG_AGO_MJ + 100_000))
    before, near = list(ledger.tracks[0].reads)
    assert before.segment == near.segment
    feed(ledger, read(3.5, 2 * LOADED_LONG_AGO_MJ), read(4.5, 2 * LOADED_LONG_AGO_MJ + 100_000))
    *_, leapt, after = ledger.tracks[0].reads
    assert leapt.segment == after.segment > near.segment
