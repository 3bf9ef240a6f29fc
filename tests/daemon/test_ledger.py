"""Do source events become rows: lasting numbers, gaps bridged or holes, reads beside the integral?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from energyd.energy import Totals
from energyd.ledger import HOLD_NS, Ledger
from energyd.sources import Break, Condition, CounterRead, DeviceInfo, DomainInfo, PowerSamples
from energyd.store.columns import schema
from energyd.store.load import StoredDevice
from energyd.timeline import Timeline

MS, S = 1_000_000, 1_000_000_000
OFFSET = 1_000 * S
GPU = DeviceInfo(
    uuid="GPU-a", domain="gpu", name="H100", source="ring", period_ns=20 * MS, max_step_ns=100 * MS
)
CPU = DeviceInfo(uuid="rapl:p", domain="cpu", name="Xeon", source="rapl", period_ns=S, max_step_ns=3 * S)


def ledger_with(*devices: DeviceInfo, stored: dict[int, StoredDevice] | None = None) -> Ledger:
    ledger = Ledger(Timeline("boot", OFFSET), stored or {}, "daemon_down")
    ledger.declare(devices, [], 0)
    return ledger


def power(uuid: str, t0: float, t1: float, watts: float, step: float = 0.02) -> PowerSamples:
    t = (np.arange(round((t1 - t0) / step)) * step * S + t0 * S).astype(np.int64)
    return PowerSamples(uuid, t, np.full(len(t), int(watts * 1000), np.int32))


def gaps(ledger: Ledger) -> list[dict[str, Any]]:
    names = [c for c, _ in schema()["gaps"]]
    return [dict(zip(names, row, strict=True)) for row in ledger.rows.get("gaps", [])]


def test_samples_are_shifted_to_store_time_and_repeated_ones_are_dropped() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.samples_in(power("GPU-a", 0.5, 1.5, 100), 0)  # a ring drained again gives the last ones again
    t_ns = ledger.logs[0].after(None)[0]
    assert t_ns[0] == OFFSET
    assert len(t_ns) == 75
    assert ledger.logs[0].totals.cum_uj == 148_000_000
    assert gaps(ledger) == []


@pytest.mark.parametrize("source", ["codecarbon", "instant", "rapl"])
def test_a_daemon_that_was_not_there_is_a_gap_however_short(source: str) -> None:
    cpu = replace(CPU, source=source)
    first = ledger_with(cpu)
    first.samples_in(power("rapl:p", 0, 2, 100, step=1), 0)
    empty = np.array([], np.int64)
    left = StoredDevice("rapl:p", 3 * S, first.logs[0].totals, empty, empty.astype(np.int32), empty, [])
    ledger = ledger_with(cpu, stored={0: left})
    ledger.samples_in(power("rapl:p", 3, 6, 100, step=1), 0)  # 2 s after the last, and 3 are allowed
    (gap,) = gaps(ledger)  # and the steps behind it are none
    assert (gap["t0_ns"], gap["t1_ns"]) == (OFFSET + S, OFFSET + 3 * S)
    assert (gap["reason"], gap["bridged_uj"]) == ("daemon_down", None)


def test_what_a_ring_kept_while_no_daemon_was_there_is_no_gap() -> None:
    first = ledger_with(GPU)
    first.samples_in(power("GPU-a", 0, 1, 100), 0)
    empty = np.array([], np.int64)
    left = StoredDevice("GPU-a", 100 * MS, first.logs[0].totals, empty, empty.astype(np.int32), empty, [])
    ledger = ledger_with(GPU, stored={0: left})
    ledger.samples_in(power("GPU-a", 1, 2, 100), 0)
    assert gaps(ledger) == []
    assert ledger.logs[0].totals.cum_uj == pytest.approx(198e6)


def test_a_long_step_waits_for_the_counter_which_says_what_it_cost() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.counter_in(CounterRead("GPU-a", int(0.5 * S), 1_000_000))
    ledger.settle(OFFSET + S)
    # From 0.98 to 5 s nothing is seen; 300 W flowed there. Then 100 W again.
    ledger.samples_in(power("GPU-a", 5, 6, 100), OFFSET + 6 * S)
    ledger.settle(OFFSET + 6 * S)
    assert ledger.logs[0].last_t_ns == OFFSET + 980 * MS
    true_mj = 1_000_000 + int(0.48 * 100_000 + 4.02 * 300_000 + 0.5 * 100_000)
    ledger.counter_in(CounterRead("GPU-a", int(5.5 * S), true_mj))
    ledger.settle(OFFSET + 6 * S)
    (gap,) = gaps(ledger)
    assert (gap["t0_ns"], gap["t1_ns"], gap["reason"]) == (OFFSET + 980 * MS, OFFSET + 5 * S, "late")
    assert gap["bridged_uj"] == pytest.approx(4.02 * 300e6, abs=2_000)  # the counter counts whole mJ
    assert ledger.logs[0].totals.holes == 0
    assert ledger.rows["counters"][-1][3] is not None


def test_a_gap_without_a_counter_read_in_time_becomes_a_hole() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.counter_in(CounterRead("GPU-a", int(0.5 * S), 1_000_000))
    ledger.settle(0)
    ledger.samples_in(power("GPU-a", 5, 6, 100), OFFSET + 6 * S)
    ledger.settle(OFFSET + 6 * S + HOLD_NS - 1)
    assert gaps(ledger) == []
    ledger.settle(OFFSET + 6 * S + HOLD_NS)
    assert gaps(ledger)[0]["bridged_uj"] is None
    assert ledger.logs[0].totals.holes == 1


def test_a_counter_that_went_back_never_bridges() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.counter_in(CounterRead("GPU-a", int(0.5 * S), 9_000_000))
    ledger.settle(0)
    ledger.samples_in(power("GPU-a", 5, 6, 100), OFFSET + 6 * S)
    ledger.counter_in(CounterRead("GPU-a", int(5.5 * S), 1_000))
    ledger.settle(OFFSET + 6 * S)
    (gap,) = gaps(ledger)
    assert (gap["reason"], gap["bridged_uj"]) == ("reset", None)


def test_a_break_names_the_gap_and_a_reset_is_a_gap_however_short() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.break_in(Break("GPU-a", S, "lost"))
    ledger.samples_in(power("GPU-a", 3, 4, 100), 0)
    ledger.break_in(Break("GPU-a", 4 * S, "loop", counter_reset=True))
    ledger.samples_in(power("GPU-a", 4, 5, 100), 0)
    assert [(g["reason"], g["bridged_uj"]) for g in gaps(ledger)] == [("lost", None), ("loop", None)]


def test_a_break_that_cost_no_sample_is_no_gap() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 1, 100), 0)
    ledger.break_in(Break("GPU-a", S, "lost"))
    ledger.samples_in(power("GPU-a", 1, 2, 100), 0)
    ledger.samples_in(power("GPU-a", 5, 6, 100), 0)
    assert [g["reason"] for g in gaps(ledger)] == ["late"]


def test_a_device_with_its_own_counter_bridges_its_own_late_reads() -> None:
    ledger = ledger_with(CPU)
    t = np.array([1, 2, 9, 10]) * S
    ledger.samples_in(
        PowerSamples("rapl:p", t, np.full(4, 50_000, np.int32), np.array([0, 50, 700, 50]) * 1_000_000), 0
    )
    assert gaps(ledger)[0]["bridged_uj"] == 700_000_000
    assert ledger.logs[0].totals.cum_uj == 800_000_000


def test_a_device_keeps_its_number_and_its_integral_over_a_restart() -> None:
    totals = Totals(t_ns=OFFSET + S, power_mw=100_000, cum_uj=5_000_000, n=10)
    empty = np.array([], np.int64)
    stored = {3: StoredDevice("GPU-a", 100 * MS, totals, empty, empty.astype(np.int32), empty, [])}
    ledger = ledger_with(CPU, GPU, stored=stored)
    assert ledger.known[3].uuid == "GPU-a"
    ledger.samples_in(power("GPU-a", 0.5, 1.5, 100), 0)  # the ring reaches back over a quick restart
    assert gaps(ledger) == []
    assert ledger.logs[3].totals.cum_uj == 5_000_000 + 48_000_000
    ledger.samples_in(power("GPU-a", 9, 10, 100), 0)
    assert gaps(ledger)[0]["reason"] == "late"


def test_a_long_restart_is_a_gap_named_after_it() -> None:
    totals = Totals(t_ns=OFFSET + S, power_mw=100_000, cum_uj=5_000_000, n=10)
    empty = np.array([], np.int64)
    stored = {0: StoredDevice("GPU-a", 100 * MS, totals, empty, empty.astype(np.int32), empty, [])}
    ledger = ledger_with(GPU, stored=stored)
    ledger.samples_in(power("GPU-a", 9, 10, 100), 0)
    assert gaps(ledger)[0]["reason"] == "daemon_down"


def test_a_declaration_is_written_when_it_is_new_and_not_again() -> None:
    ledger = ledger_with(GPU)
    absent = DomainInfo(domain="dram", state="absent", reason="no dram zone")
    assert ledger.declare([GPU], [absent], 5)
    assert not ledger.declare([GPU], [absent], 6)
    assert len(ledger.rows["devices"]) == len(ledger.rows["domains"]) == 1


def test_what_a_read_tells_of_doubt_and_how_often_the_counter_began_anew_outlive_a_restart() -> None:
    ledger = ledger_with(GPU)
    swinging = power("GPU-a", 0, 3, 100)
    swinging.power_mw[::2] = 600_000
    ledger.samples_in(swinging, 0)
    for t_s, mj in ((0.5, 1_000_000), (1.5, 5), (2.5, 340_000)):
        ledger.counter_in(CounterRead("GPU-a", int(t_s * S), mj))
        ledger.settle(0)
    last = ledger.tracks[0].reads[-1]
    assert last.range_w == 500
    stored = StoredDevice("GPU-a", 100 * MS, ledger.logs[0].totals, *ledger.logs[0].after(None), [])
    again = ledger_with(GPU, stored={0: stored})
    assert again.tracks[0].reads[-1] == last


def test_a_commit_gets_the_totals_of_all_devices_if_one_has_moved_and_else_of_none() -> None:
    totals = Totals(t_ns=OFFSET + S, power_mw=100_000, cum_uj=5_000_000, n=10)
    empty = np.empty(0, np.int64)
    stored = {3: StoredDevice("GPU-gone", 100 * MS, totals, empty, empty.astype(np.int32), empty, [])}
    ledger = ledger_with(GPU, stored=stored)
    assert ledger.take_rows()[2] == {}
    ledger.samples_in(power("GPU-a", 1, 2, 100), 0)
    assert ledger.take_rows()[2] == {device: log.totals for device, log in ledger.logs.items()}
    assert len(ledger.logs) == 2
    assert ledger.take_rows()[2] == {}


def test_rows_that_only_explain_go_with_a_later_commit_and_with_the_last_one_at_once() -> None:
    ledger = ledger_with(GPU)
    condition = Condition("GPU-a", 5, temperature_c=60)
    ledger.condition_in(condition)
    assert len(ledger.take_rows()[0]["conditions"]) == 1
    ledger.condition_in(condition)
    ledger.break_in(Break("GPU-a", 5, "lost"))
    ledger.samples_in(power("GPU-a", 1, 2, 100), 0)
    rows, samples, _ = ledger.take_rows()
    assert "conditions" not in rows
    assert samples
    ledger.patience_ns = 0
    assert len(ledger.take_rows()[0]["conditions"]) == 1
    assert ledger.take_rows()[0] == {}


def test_counter_reads_go_with_the_samples_of_their_hour_but_for_the_last_before_those_left() -> None:
    ledger = ledger_with(GPU)
    ledger.samples_in(power("GPU-a", 0, 400, 100), 0)
    for second in range(1, 400, 50):
        ledger.counter_in(CounterRead("GPU-a", second * S, second * 100_000))
    ledger.settle(OFFSET + 400 * S)
    reads, log = ledger.tracks[0].reads, ledger.logs[0]
    assert len(reads) == 8
    begun = ledger.tracks[0].anchor(OFFSET + 200 * S)
    log.trim(OFFSET + 300 * S)  # and two minutes before that stay, for markers that come late
    ledger.forget_reads()
    assert log.first_t_ns == OFFSET + 180 * S
    assert [round((read.t_ns - OFFSET) / S) for read in reads] == [151, 201, 251, 301, 351]
    assert ledger.tracks[0].anchor(OFFSET + 200 * S) == begun
