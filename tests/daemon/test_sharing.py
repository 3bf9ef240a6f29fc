"""Who on a GPU is a stranger to a stage, and what is said of it?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.energy_store import MS, T0, Store
from energyd.accounting import Accountant
from energyd.attribution import Known
from energyd.doubt import Device
from energyd.energy import DeviceLog, Totals
from energyd.ledger import Ledger
from energyd.sharing import Neighbours, Seen, ancestors, foreign, look_in_proc
from energyd.sources import DeviceInfo, Share
from energyd.stages import Incoming, Stage
from energyd.store.columns import schema
from energyd.store.read import open_reader
from energyd.timeline import Timeline
from energyd.tracker import Tracker
from energyd_client import protocol as p

S = 1_000_000_000


class Proc:
    """A /proc: {pid: parent}."""

    def __init__(self, **parents: int) -> None:
        self.parents = {int(name[1:]): parent for name, parent in parents.items()}
        self.started: dict[int, int] = {}

    def __call__(self, pid: int) -> Seen | None:
        parent = self.parents.get(pid)
        return None if parent is None else Seen(parent, self.started.get(pid, 0))


# init 1, shell 10, launcher 20 with ranks 21 and 22, 21's worker 23; another user's job 30.
TREE = {"p1": 0, "p10": 1, "p20": 10, "p21": 20, "p22": 20, "p23": 21, "p30": 1}


@pytest.fixture
def proc() -> Proc:
    return Proc(**TREE)


def told(proc: Proc, pids: set[int], own: set[int]) -> set[int]:
    return foreign(pids, own, {pid: ancestors(pid, proc) for pid in pids | own})


def test_descendants_and_ancestors_of_the_runs_processes_are_its_own_and_others_are_foreign(proc) -> None:
    assert told(proc, {21, 23, 20, 30}, {21}) == {30}
    assert told(proc, {21, 22, 30}, {21, 22}) == {30}
    assert told(proc, {22}, {21}) == {22}  # a sibling that has never spoken of the run


def test_processes_that_proc_does_not_show_are_never_called_foreign(proc) -> None:
    assert told(proc, {4_711, 4_712}, {21}) == set()
    assert told(proc, {4_711, 30}, {21}) == {30}


def test_nothing_is_told_of_a_stage_whose_own_process_is_not_known(proc) -> None:
    assert told(proc, {30}, set()) == set()
    neighbours = Neighbours(proc)
    neighbours.note(0, frozenset({30}), 5 * S)
    assert neighbours.seen_with(None, set(), 0, 0, 10 * S) == set()


def test_a_ring_of_parents_ends(proc) -> None:
    proc.parents |= {40: 41, 41: 40}
    assert ancestors(40, proc) == {40, 41}
    assert ancestors(99, proc) is None


def test_a_stranger_counts_only_in_stages_during_which_it_was_listed_and_on_its_gpu(proc) -> None:
    neighbours = Neighbours(proc)
    for t, pids in ((1, {21}), (2, {21, 30}), (3, {21})):
        neighbours.note(0, frozenset(pids), t * S)
    neighbours.note(1, frozenset({21}), 2 * S)

    def seen(device: int, t0: float, t1: float) -> set[int]:
        return neighbours.seen_with(21, {21}, device, int(t0 * S), int(t1 * S))

    assert seen(0, 0, 10) == seen(0, 2, 2) == {30}
    assert seen(0, 0, 1.9) == seen(0, 2.1, 10) == seen(1, 0, 10) == set()


def test_a_stage_between_two_lists_has_the_strangers_of_the_last_one_that_still_live(proc) -> None:
    neighbours = Neighbours(proc)
    neighbours.note(0, frozenset({21, 30}), 1 * S)

    def seen(t0: float, t1: float) -> set[int]:
        return neighbours.seen_with(21, {21}, 0, int(t0 * S), int(t1 * S))

    assert seen(1.2, 1.6) == {30}
    assert seen(3.1, 3.2) == set()  # the list is too old to say
    proc.started[30] = 77  # another process has the number now
    assert seen(1.2, 1.6) == set()
    del proc.parents[30]
    assert seen(1.2, 1.6) == set()


def test_a_process_keeps_the_ancestors_with_which_it_was_first_seen(proc) -> None:
    neighbours = Neighbours(proc)
    neighbours.note(0, frozenset({23}), 1 * S)
    proc.parents[23] = 1  # its parent, the rank, has ended
    del proc.parents[21]
    neighbours.note(0, frozenset({23}), 2 * S)
    assert neighbours.seen_with(21, {21}, 0, 0, 5 * S) == set()
    del proc.parents[23]  # and now itself
    assert neighbours.seen_with(21, {21}, 0, 0, 5 * S) == set()


def test_a_number_given_to_another_process_does_not_inherit_the_old_ones_ancestors(proc) -> None:
    neighbours = Neighbours(proc)
    neighbours.note(0, frozenset({23}), 1 * S)
    proc.parents[23], proc.started[23] = 1, 99
    neighbours.note(0, frozenset({23}), 2 * S)
    assert neighbours.seen_with(21, {21}, 0, 2 * S, 5 * S) == {23}


def test_memory_of_processes_does_not_grow_for_ever(proc) -> None:
    neighbours = Neighbours(proc)
    for k in range(10_000):
        proc.parents[1_000 + k] = 1
        neighbours.note(0, frozenset({1_000 + k}), k * S)
    assert len(neighbours._people) < 5_000
    assert len(neighbours._notes[0]) < 200


def test_a_real_child_is_seen_below_this_process_and_init_is_above_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        above = ancestors(child.pid, look_in_proc)
        assert above is not None
        assert os.getpid() in above
        assert child.stdin is not None
        child.stdin.close()
    assert look_in_proc(child.pid) is None


# ---- in the accountant ---------------------------------------------------------------------------------


class Machine:
    """A tracker and an accountant over one GPU of 100 W, and a /proc of the test's own."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self.logs = {0: DeviceLog(0, S, Totals())}
        self.seq = count(1)
        t = np.arange(0, 20 * S, S // 2)
        self.logs[0].append(t, np.full(len(t), 100_000, np.int32))
        self.restart()

    def restart(self) -> None:
        self.tracker = Tracker()
        known = {0: Known(0, "GPU-a", "gpu", "H100", 0)}
        self.accountant = Accountant(self.tracker, self.logs, known)
        self.accountant.devices = {0: Device("ring", "measured", S // 50)}
        self.accountant.neighbours = Neighbours(self.proc)

    def mark(self, cls: type, t: float, pid: int = 21, run: str = "r", **fields: Any) -> None:
        message = cls(seq=next(self.seq), t_ns=int(t * S), run_id=run, **fields)
        incoming = Incoming(f"c{pid}", message, int(t * S), int(t * S), uid=0, pid=pid)
        assert self.tracker.apply(incoming) is None

    def mark_process(self, t: float, pid: int = 21, **process: Any) -> None:
        t_ns = int(t * S)
        message = p.ProcessInfo(next(self.seq), t_ns, **process)
        assert self.tracker.apply(Incoming(f"c{pid}", message, t_ns, t_ns, uid=0, pid=pid)) is None

    def begin(self, t: float, stage: str, pid: int = 21, run: str = "r", parent: str | None = None) -> None:
        self.mark(p.StageBegin, t, pid, run, stage_id=stage, name=stage, parent_id=parent)

    def end(self, t: float, stage: str, pid: int = 21, run: str = "r") -> None:
        self.mark(p.StageEnd, t, pid, run, stage_id=stage, status="ok")

    def note(self, t: float, *pids: int) -> None:
        self.accountant.note_pids(0, frozenset(pids), int(t * S))

    def flags(self, now: float) -> dict[str, list[str]]:
        self.accountant.resolve_begins()
        self.accountant.settle(int(now * S))
        names = [c for c, _ in schema()["energies"]]
        rows = [dict(zip(names, row, strict=True)) for row in self.tracker.rows.pop("energies", [])]
        return {r["stage_id"]: r["flags"] for r in rows}


@pytest.fixture
def machine(proc: Proc) -> Machine:
    return Machine(proc)


def test_a_foreign_process_inside_a_stage_flags_it_and_one_before_or_after_does_not(machine: Machine) -> None:
    machine.note(0.5, 30)
    machine.begin(1, "alone")
    machine.note(1.5, 21, 23, 20)
    machine.end(2, "alone")
    machine.note(2.5, 21, 30)
    machine.begin(3, "shared")
    machine.note(3.5, 21, 30)
    machine.note(4.5, 21)
    machine.end(5, "shared")
    assert machine.flags(10) == {"alone": [], "shared": ["shared_gpu"]}


def test_a_process_that_has_only_joined_the_run_is_no_stranger(machine: Machine) -> None:
    machine.mark(p.RunBegin, 0, name="n")
    machine.mark(p.RunLabels, 0.5, pid=22, labels={"rank": 1})
    machine.begin(1, "train")
    machine.note(2, 21, 22)
    machine.mark(p.RunEnd, 3, status="ok")
    machine.end(3, "train")
    assert machine.flags(10) == {"train": []}


def test_a_marker_that_comes_after_the_list_still_finds_the_stranger(machine: Machine) -> None:
    machine.note(2, 21, 30)
    machine.begin(1, "late")
    machine.end(3, "late")
    assert machine.flags(10) == {"late": ["shared_gpu"]}


def test_a_stranger_seen_before_a_restart_is_still_known_after_it(machine: Machine) -> None:
    machine.begin(1, "train")
    machine.mark(p.Metric, 1, pid=22, name="loss", value=1.0)
    machine.note(2, 21, 22, 30)
    old = machine.tracker.stages["train"]
    assert "train" in machine.tracker.touched
    names = [c for c, _ in schema()["stages_log"]]
    again = Stage.restore(dict(zip(names, old.row(), strict=True)), old.memo())
    assert (again.foreign, again.run_pids) == ({0: {30}}, {21, 22})
    assert json.loads(old.memo())["foreign"] == {"0": [30]}
    runs = list(machine.tracker.runs.values())
    machine.restart()
    machine.tracker.restore(runs, [again])
    machine.note(3, 21, 22)
    machine.end(4, "train")
    assert machine.flags(10) == {"train": ["shared_gpu"]}


def test_other_runs_are_flagged_by_their_overlap_as_before(machine: Machine) -> None:
    machine.begin(1, "mine")
    machine.begin(1, "theirs", pid=30, run="other")
    machine.end(3, "mine")
    machine.end(3, "theirs", pid=30, run="other")
    assert machine.flags(10) == {"mine": ["shared_gpu"], "theirs": ["shared_gpu"]}


# ---- of which GPUs is a program a user, where nobody said? ----------------------------------------------

class TwoGpus:
    """The same over two GPUs, for programs of which nobody said which they use."""

    def __init__(self, proc: Proc) -> None:
        self.machine = machine = Machine(proc)
        machine.logs[1] = DeviceLog(1, S, Totals())
        t = np.arange(0, 20 * S, S // 2)
        machine.logs[1].append(t, np.full(len(t), 50_000, np.int32))
        machine.accountant._known[1] = Known(1, "GPU-b", "gpu", "H100", 1)  # type: ignore[index]
        machine.accountant.devices[1] = Device("ring", "measured", S // 50)

    def note(self, t: float, *, on_0: tuple[int, ...] = (), on_1: tuple[int, ...] = ()) -> None:
        for device, pids in enumerate((on_0, on_1)):
            self.machine.accountant.note_pids(device, frozenset(pids), int(t * S))

    def energies(self, now: float) -> dict[tuple[str, int], dict[str, Any]]:
        accountant, tracker = self.machine.accountant, self.machine.tracker
        accountant.resolve_begins()
        accountant.settle(int(now * S))
        names = [c for c, _ in schema()["energies"]]
        rows = [dict(zip(names, row, strict=True)) for row in tracker.rows.pop("energies", [])]
        return {(r["stage_id"], r["device"]): r for r in rows}


@pytest.fixture
def two(proc: Proc) -> TwoGpus:
    return TwoGpus(proc)


def test_programs_that_named_no_gpu_and_use_one_each_share_none_also_while_the_other_runs_on(two) -> None:
    two.machine.begin(1, "mine")
    two.machine.begin(1, "theirs", pid=30, run="other")
    two.note(1.5, on_0=(21,), on_1=(30,))
    two.machine.end(3, "mine")
    found = two.energies(4)
    assert set(found) == {("mine", 0)}
    row = found["mine", 0]
    assert (row["overlap_ns"], row["exclusive_uj"], row["energy_uj"]) == (0, 200_000_000, 200_000_000)
    assert row["flags"] == ["devices_default"]
    two.machine.end(5, "theirs", pid=30, run="other")
    assert set(two.energies(6)) == {("theirs", 1)}


def test_a_short_stage_between_two_lists_is_charged_for_the_gpu_that_its_process_held_before(two) -> None:
    two.note(1, on_0=(30,), on_1=(21,))
    two.machine.begin(1.2, "short")
    two.machine.end(1.5, "short")
    two.machine.begin(3.2, "stale")  # the last list is more than 2 s old: nothing is known of now
    two.machine.end(3.4, "stale")
    assert set(two.energies(5)) == {("short", 1), ("stale", 0), ("stale", 1)}


def test_a_driver_with_workers_on_other_gpus_is_charged_for_all_that_they_use(two) -> None:
    two.machine.begin(1, "generate")  # 21 is on GPU 0 itself, its worker 23 on GPU 1
    two.note(2, on_0=(21,), on_1=(23,))
    two.machine.end(3, "generate")
    assert set(two.energies(5)) == {("generate", 0), ("generate", 1)}


def test_a_stage_is_charged_for_the_gpus_that_stages_within_it_use_in_other_processes(two) -> None:
    two.machine.begin(1, "train", pid=21)
    two.machine.begin(1.2, "rank", pid=22, parent="train")  # no descendant of 21: srun started both
    two.note(2, on_0=(21,), on_1=(22,))
    two.machine.end(3, "rank", pid=22)
    two.machine.end(3, "train", pid=21)
    assert set(two.energies(5)) == {("train", 0), ("train", 1), ("rank", 1)}


@pytest.mark.parametrize(
    ("process", "charged"),
    [
        ({"gpu_uuids": ["GPU-a", "GPU-b"]}, {1}),  # torch shows a process all there are
        ({"gpu_uuids": ["GPU-a", "GPU-b"], "visible_devices": "0,1"}, {0, 1}),  # somebody chose
        ({"visible_devices": "0,1", "local_rank": "1"}, {1}),  # for all ranks of a launcher
        ({"visible_devices": "0", "local_rank": "1"}, {0}),  # nothing to choose among
    ],
)
def test_a_rank_is_charged_for_the_gpu_that_it_is_on_unless_somebody_chose_for_it(
    two: TwoGpus, process: dict[str, Any], charged: set[int]
) -> None:
    two.machine.mark_process(0.5, **process)
    two.machine.begin(1, "rank")
    two.note(2, on_1=(21,))
    two.machine.end(3, "rank")
    assert {device for _, device in two.energies(5)} == charged


# ---- shares and the split by them ------------------------------------------------------------------------


def test_a_share_is_stored_in_store_time_under_the_devices_number() -> None:
    ledger = Ledger(Timeline("boot", 1_000 * S), {}, "daemon_down")
    info = DeviceInfo(uuid="GPU-a", domain="gpu", name="H100", source="ring", period_ns=1, max_step_ns=1)
    ledger.declare([info], [], 0)
    ledger.share_in(Share("GPU-a", 5 * S, 4711, 37))
    assert ledger.rows["shares"] == [(0, 1_005 * S, 4711, 37)]


@pytest.fixture
def shared(tmp_path: Path) -> Store:
    """A GPU of 200 W, a stage of 10 s on it by process 21."""
    store = Store(tmp_path / "store")
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 30 * S + 1, 20 * MS), lambda t: 200_000)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, pid=21, energy_flags={0: ["shared_gpu"]})
    return store


def splits(store: Store) -> list[tuple[Any, ...]]:
    with open_reader(store.write()) as reader:
        rows = reader.sql("FROM energy_split_estimate").dicts()
        columns = ["run_id", "stage_id", "device", "pid", "sm_share", "estimate_j", "n"]
        assert reader.sql("FROM energy_split_estimate").columns == columns
    return [(r["stage_id"], r["pid"], r["sm_share"], r["estimate_j"], r["n"]) for r in rows]


def test_a_shared_stage_is_split_by_its_processes_utilisation_inside_its_window(shared: Store) -> None:
    for t, pid, percent in (
        (5, 21, 100),
        (11, 21, 60),
        (11, 30, 20),
        (12, 21, 30),
        (12, 30, 10),
        (25, 30, 90),
    ):
        shared.add("shares", device=0, t_ns=T0 + t * S, pid=pid, sm_percent=percent)
    assert splits(shared) == [("s1", 21, 0.75, 1500.0, 4)]


@pytest.mark.parametrize("others", [0, 1])
def test_no_utilisation_or_none_of_the_own_process_gives_no_estimate_and_never_0(shared, others) -> None:
    for k in range(others):
        shared.add("shares", device=0, t_ns=T0 + (11 + k) * S, pid=30, sm_percent=80)
    assert splits(shared) == [("s1", 21, None, None, others)]


def test_a_stage_that_shared_nothing_has_no_split(shared: Store) -> None:
    shared.stage("r1", "s2", "alone", T0 + 21 * S, T0 + 22 * S, pid=21)
    shared.add("shares", device=0, t_ns=T0 + 21 * S + MS, pid=21, sm_percent=80)
    assert [row[0] for row in splits(shared)] == ["s1"]


def test_totals_do_not_depend_on_the_split(shared: Store) -> None:
    shared.add("shares", device=0, t_ns=T0 + 11 * S, pid=21, sm_percent=10)
    shared.add("shares", device=0, t_ns=T0 + 11 * S, pid=30, sm_percent=90)
    with open_reader(shared.write()) as reader:
        [stage] = reader.sql("FROM stage_totals").dicts()
        [run] = reader.sql("FROM run_totals").dicts()
    assert (stage["gpu_j"], run["gpu_j"]) == (2000.0, 2000.0)
