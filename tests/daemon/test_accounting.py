"""Do stages get their own energy, less children, less strangers, and a reason where there is none?"""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from energyd.accounting import PATIENCE_NS, SETTLE_NS, Accountant, CounterTrack
from energyd.activity import FOLD_AT
from energyd.attribution import Known
from energyd.doubt import Device
from energyd.energy import DeviceLog, Totals
from energyd.stages import Anchor, Incoming, Stage
from energyd.store.columns import schema
from energyd.tracker import Tracker
from energyd_client import protocol as p

S = 1_000_000_000


class Machine:
    """A tracker and an accountant over one GPU and one CPU of constant power."""

    def __init__(self, gpu_w: float = 100.0, cpu_w: float = 10.0) -> None:
        self.tracker = Tracker()
        self.logs = {0: DeviceLog(0, S, Totals()), 1: DeviceLog(1, 5 * S, Totals())}
        self.known = {0: Known(0, "GPU-a", "gpu", "H100", 0), 1: Known(1, "rapl:package-0", "cpu", "Xeon")}
        self.accountant = Accountant(self.tracker, self.logs, self.known)
        self.accountant.devices = {0: Device("ring", "measured", S // 50), 1: Device("rapl", "measured", S)}
        self.watts = {0: gpu_w, 1: cpu_w}
        self.seq = count(1)

    def sample(self, t0: float, t1: float) -> None:
        for device, log in self.logs.items():
            t = np.arange(int(t0 * S), int(t1 * S) + 1, S // 2)
            log.append(t, np.full(len(t), int(self.watts[device] * 1000), np.int32))

    def mark(self, cls: type, t: float, client: str = "c", **fields: Any) -> p.Refusal | None:
        fields.setdefault("run_id", "r")
        message = cls(seq=next(self.seq), t_ns=round(t * S), **fields)
        return self.tracker.apply(Incoming(client, message, round(t * S), round(t * S), uid=0, pid=7))

    def begin(self, t: float, stage: str, parent: str | None = None, **more: Any) -> None:
        assert self.mark(p.StageBegin, t, stage_id=stage, name=stage, parent_id=parent, **more) is None

    def end(self, t: float, stage: str, **more: Any) -> p.Refusal | None:
        return self.mark(p.StageEnd, t, stage_id=stage, status="ok", **more)

    def restart(self, finals: list[tuple[Any, ...]]) -> None:
        """What a new daemon makes of what an old one has stored: open stages, and the final ones."""
        names = [c for c, _ in schema()["stages_log"]]
        left = [Stage.restore(dict(zip(names, s.row(), strict=True)), s.memo())
                for s in self.tracker.stages.values()]  # fmt: skip
        runs = list(self.tracker.runs.values())
        devices = self.accountant.devices
        self.tracker = Tracker()
        self.accountant = Accountant(self.tracker, self.logs, self.known)
        self.accountant.devices = devices
        self.tracker.restore(runs, left)
        self.accountant.recall(finals)

    def settle(self, now: float) -> dict[tuple[str, int], dict[str, Any]]:
        self.accountant.resolve_begins()
        self.accountant.settle(round(now * S))
        names = [c for c, _ in schema()["energies"]]
        rows = [dict(zip(names, row, strict=True)) for row in self.tracker.rows.pop("energies", [])]
        return {(r["stage_id"], r["device"]): r for r in rows}


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_stage_costs_power_times_time_on_every_device_it_is_charged_for(machine: Machine) -> None:
    machine.begin(1.3, "train")
    machine.end(4.55, "train")
    machine.sample(0, 10)
    rows = machine.settle(10)
    assert rows["train", 0]["energy_uj"] == pytest.approx(325_000_000, abs=2)
    assert rows["train", 1]["energy_uj"] == pytest.approx(32_500_000, abs=2)
    assert rows["train", 0]["coverage"] == 1
    assert rows["train", 0]["n_samples"] == 7
    assert rows["train", 0]["self_uj"] == rows["train", 0]["exclusive_uj"] == rows["train", 0]["energy_uj"]
    assert rows["train", 0]["counter_uj"] is None
    assert rows["train", 0]["flags"] == []


def test_no_energy_is_stated_before_a_sample_follows_the_end(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.end(3.2, "train")
    machine.sample(0, 3)
    assert machine.settle(3.2 + 1) == {}
    machine.sample(3.5, 4)
    assert ("train", 0) in machine.settle(4.5)


def test_an_end_is_settled_only_when_other_processes_had_time_to_speak(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.end(2, "train")
    machine.sample(0, 3)
    assert machine.settle(2 + SETTLE_NS / S - 0.01) == {}
    assert machine.settle(2 + SETTLE_NS / S) != {}


def test_self_energy_leaves_out_children_once_even_where_they_overlap(machine: Machine) -> None:
    machine.begin(0, "run")
    machine.begin(1, "a", "run")
    machine.begin(2, "b", "run")
    machine.end(3, "a")
    machine.end(4, "b")
    machine.begin(6, "c", "run")
    machine.begin(6.25, "grandchild", "c")
    machine.end(6.5, "grandchild")
    machine.end(7, "c")
    machine.end(10, "run")
    machine.sample(0, 11)
    rows = machine.settle(11)
    assert rows["run", 0]["energy_uj"] == 1_000_000_000
    assert rows["run", 0]["self_uj"] == 600_000_000  # less 1 to 4 s and 6 to 7 s
    assert rows["c", 0]["self_uj"] == 75_000_000
    # a and b are siblings, so they share 2 to 3 s; the run is their ancestor and shares nothing.
    assert rows["a", 0]["overlap_ns"] == rows["b", 0]["overlap_ns"] == S
    assert rows["a", 0]["exclusive_uj"] == 100_000_000
    assert rows["b", 0]["exclusive_uj"] == 100_000_000
    assert rows["run", 0]["overlap_ns"] == 0
    assert rows["a", 0]["flags"] == []  # the same run's own threads are no sharing


def test_a_million_steps_do_not_stay_in_memory(machine: Machine) -> None:
    machine.begin(0, "train")
    machine.sample(0, 5_000)
    for k in range(4_000):
        machine.begin(k + 0.25, f"s{k}", "train")
        machine.end(k + 0.75, f"s{k}")
        machine.settle(k + 1)
    assert len(machine.accountant._activity[0]) <= FOLD_AT
    assert len(machine.tracker.stages) == 1
    machine.end(4_000, "train")
    assert machine.settle(4_001)["train", 0]["self_uj"] == pytest.approx(200_000_000_000, abs=4_000)


def test_many_short_stages_of_another_run_do_not_stay_in_a_long_ones_memory(machine: Machine) -> None:
    machine.begin(0, "long")
    machine.sample(0, 2_002)
    for k in range(2_000):
        machine.begin(k + 0.25, f"x{k}", client="d", run_id="other")
        machine.end(k + 0.75, f"x{k}", client="d", run_id="other")
        machine.settle(k + 1)
    assert len(machine.accountant._activity[0]) <= FOLD_AT
    machine.end(2_000, "long")
    row = machine.settle(2_001)["long", 0]
    assert row["overlap_ns"] == 1_000 * S
    assert row["exclusive_uj"] == pytest.approx(100_000_000_000, abs=4_000)
    assert row["flags"] == ["shared_gpu"]


def test_another_runs_marker_does_not_end_or_count_on_a_stage(machine: Machine) -> None:
    machine.begin(1, "train")
    refusal = machine.end(2, "train", run_id="other", client="evil")
    assert refusal is not None
    assert machine.tracker.stages["train"].t1_ns is None


def test_a_child_still_running_when_its_parent_ends_counts_up_to_that_end(machine: Machine) -> None:
    machine.begin(0, "parent")
    machine.begin(4, "child", "parent")
    machine.end(6, "parent")
    machine.sample(0, 10)
    assert machine.settle(8)["parent", 0]["self_uj"] == 400_000_000


def test_stages_of_two_runs_show_full_energy_and_what_was_theirs_alone(machine: Machine) -> None:
    machine.begin(0, "mine")
    machine.mark(p.StageBegin, 4, client="d", run_id="other", stage_id="theirs", name="x")
    machine.mark(p.StageBegin, 5, client="d", run_id="other", stage_id="inner", parent_id="theirs", name="y")
    machine.mark(p.StageEnd, 6, client="d", run_id="other", stage_id="inner", status="ok")
    machine.end(7, "mine")
    machine.mark(p.StageEnd, 9, client="d", run_id="other", stage_id="theirs", status="ok")
    machine.sample(0, 10)
    rows = machine.settle(10)
    assert rows["mine", 0]["energy_uj"] == 700_000_000
    assert rows["mine", 0]["overlap_ns"] == 3 * S
    assert rows["mine", 0]["exclusive_uj"] == 400_000_000
    assert rows["theirs", 0]["overlap_ns"] == 3 * S
    assert rows["theirs", 0]["exclusive_uj"] == 200_000_000
    assert rows["inner", 0]["exclusive_uj"] == 0
    assert rows["mine", 0]["flags"] == ["shared_gpu"]
    assert rows["mine", 1]["flags"] == ["shared_cpu"]


def test_a_hole_makes_energy_unknown_with_a_reason_and_coverage_tells_how_much(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.end(9, "train")
    machine.sample(0, 3)
    machine.logs[0].append_after_gap(7 * S, 100_000, "lost", None)
    machine.logs[1].append_after_gap(7 * S, 10_000, "late", 40_000_000)
    machine.sample(7.5, 10)
    rows = machine.settle(10)
    assert rows["train", 0]["energy_uj"] is None
    assert rows["train", 0]["reason"] == "gap_without_counter"
    assert rows["train", 0]["coverage"] == 0.5
    assert rows["train", 1]["energy_uj"] == 80_000_000
    assert rows["train", 1]["flags"] == ["bridged"]


def test_a_device_that_falls_silent_is_given_up_with_a_reason_and_the_others_count(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.end(3, "train")
    machine.sample(0, 2)
    machine.logs[1].append(np.array([int(3.5 * S)]), np.array([10_000], np.int32))
    assert machine.settle(4) == {}
    rows = machine.settle(3 + PATIENCE_NS / S + 1)
    assert rows["train", 0]["energy_uj"] is None
    assert rows["train", 0]["reason"] == "no_sample_after_end"
    assert rows["train", 1]["energy_uj"] == 20_000_000


def test_a_stage_begun_before_the_first_sample_says_so(machine: Machine) -> None:
    machine.begin(0, "early")
    machine.end(3, "early")
    machine.sample(1, 5)
    row = machine.settle(5)["early", 0]
    assert (row["energy_uj"], row["reason"]) == (None, "before_first_sample")


def test_the_counter_beside_the_integral_covers_the_same_window(machine: Machine) -> None:
    track = CounterTrack()
    # The counter says 110 W where the samples say 100 W; its reads lie at odd instants.
    track.reads.extend(Anchor(int(t * S), int(t * 110_000), int(t * 100e6), 0) for t in (0.7, 1.7, 2.7, 3.7))
    machine.accountant.counters = {0: track}
    machine.begin(1, "train")
    machine.sample(0, 1.5)
    machine.settle(1.2)
    machine.end(4, "train")
    machine.sample(2, 5)
    row = machine.settle(5)["train", 0]
    assert row["energy_uj"] == 300_000_000
    # Reads at 0.7 and 3.7 s: 330 J between them, carried 0.3 s on both sides by the integral.
    assert row["counter_uj"] == 330_000_000


def test_no_counter_figure_without_a_read_inside_or_across_a_reset(machine: Machine) -> None:
    track = CounterTrack()
    track.reads.extend([Anchor(S // 2, 1000, 50_000_000, 0), Anchor(3 * S, 5, 300_000_000, 1)])
    machine.accountant.counters = {0: track}
    machine.begin(1, "short")
    machine.end(2, "short")
    machine.begin(2.5, "reset")
    machine.end(4, "reset")
    machine.sample(0, 6)
    rows = machine.settle(6)
    assert rows["short", 0]["counter_uj"] is None
    assert rows["reset", 0]["counter_uj"] is None


def test_a_stage_shorter_than_two_periods_is_flagged_and_one_without_length_has_no_coverage(
    machine: Machine,
) -> None:
    machine.begin(1, "blink")
    machine.end(1.03, "blink")
    machine.begin(2, "nothing")
    machine.end(2, "nothing")
    machine.sample(0, 5)
    rows = machine.settle(5)
    assert "too_short" in rows["blink", 0]["flags"]
    assert rows["nothing", 0]["coverage"] is None
    assert rows["nothing", 0]["energy_uj"] == 0


def test_an_open_stage_survives_a_restart_with_its_begin_edge_and_children(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.begin(2, "step", "train")
    machine.begin(2.25, "part", "step")
    machine.end(2.5, "part")
    machine.end(3, "step")
    machine.sample(0, 4)
    rows = machine.settle(4)
    old = machine.tracker.stages["train"]
    parents = {"step": "train", "part": "step"}
    machine.restart([(r["stage_id"], r["run_id"], parents[r["stage_id"]], r["t0_ns"], r["t1_ns"], r["device"])
                     for r in rows.values()])  # fmt: skip
    assert machine.tracker.stages["train"] is not old
    assert machine.tracker.stages["train"].begin == old.begin
    machine.end(5, "train")
    machine.sample(4.5, 6)
    result = machine.settle(6)["train", 0]
    assert (result["energy_uj"], result["self_uj"]) == (400_000_000, 300_000_000)
    assert result["overlap_ns"] == 0  # a grandchild is enclosed too


def test_a_dead_process_leaves_aborted_stages_that_end_with_it(machine: Machine) -> None:
    machine.mark(p.RunBegin, 0, name="n")
    machine.begin(1, "train")
    machine.tracker.client_gone("c", 3 * S, 500)
    machine.sample(0, 5)
    row = machine.settle(5)["train", 0]
    assert row["energy_uj"] == 200_000_000
    assert "aborted" in row["flags"]
    final = machine.tracker.rows["stages_log"][0]
    assert (final[5], final[6], final[7]) == (3 * S, 500, "aborted")
    assert machine.tracker.rows["runs_log"][0][4] == "aborted"
    assert machine.tracker.runs == {}


def test_a_run_outlives_its_creator_while_a_child_process_still_works(machine: Machine) -> None:
    machine.mark(p.RunBegin, 0, name="n")
    machine.begin(1, "parent")
    machine.begin(2, "child", "parent", client="kid")
    machine.tracker.client_gone("c", 3 * S, 0)
    assert "r" in machine.tracker.runs
    machine.end(4, "child", client="kid")
    machine.sample(0, 6)
    machine.settle(6)
    assert machine.tracker.runs == {}


def test_a_stage_ended_twice_or_never_begun_is_refused_by_name_and_still_journaled(machine: Machine) -> None:
    machine.begin(1, "train")
    assert machine.end(2, "train") is None
    again = machine.end(3, "train")
    assert again is not None
    assert (again.code, again.field) == ("not_found", "stage_id")
    assert machine.end(3, "never") is not None
    assert machine.tracker.stages["train"].t1_ns == 2 * S
    assert len(machine.tracker.rows["markers"]) == 4


def test_another_users_marker_is_refused_and_not_kept(machine: Machine) -> None:
    machine.mark(p.RunBegin, 0, name="n")
    message = p.RunEnd(9, 5, "r", "ok")
    refusal = machine.tracker.apply(Incoming("evil", message, 5, 5, uid=1000, pid=9))
    assert refusal is not None
    assert "belongs to uid 0" in refusal.message
    assert "r" in machine.tracker.runs
    assert len(machine.tracker.rows["markers"]) == 1


def test_devices_narrow_to_the_gpus_on_which_nvml_listed_the_process(machine: Machine) -> None:
    machine.logs[2] = DeviceLog(2, S, Totals())
    machine.known[2] = Known(2, "GPU-b", "gpu", "H100", 1)
    machine.accountant.devices[2] = Device("ring", "measured", S // 50)
    machine.watts[2] = 50.0
    machine.begin(1, "train")
    machine.sample(0, 2)
    machine.settle(1.1)
    machine.accountant.note_pids(2, frozenset({7}), int(1.5 * S))
    machine.end(3, "train")
    machine.sample(2.5, 5)
    rows = machine.settle(5)
    assert {d for _, d in rows} == {1, 2}
    assert rows["train", 2]["energy_uj"] == 100_000_000
    assert rows["train", 2]["flags"] == ["devices_default"]
