"""What did each ended stage cost on each device? Edges to joules, once a sample has passed its end.

Own energy, the counter beside it, less its children (`self`), less unrelated stages on the same device
(`exclusive`). Stages are settled in order of their ends, as many as there is time for; the others stay
pending, in the store too, and cost the same a round or a restart later.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, Final

from energyd.activity import Activity, Past
from energyd.attribution import Known, charge, is_unsaid, narrow
from energyd.beats import Beat, beat, near
from energyd.doubt import Device, counter_variance_j2, integral_variance_j2, reconcile, u_uj
from energyd.energy import DeviceLog, Edge, Missing
from energyd.sharing import Neighbours
from energyd.stages import Anchor, Stage
from energyd.tracker import Tracker

SETTLE_NS: Final = 200_000_000
"""A stage is settled this long after its end: markers of other processes travel in batches of 20 ms."""

PATIENCE_NS: Final = 30_000_000_000
"""After so long without a sample a device is given up for this stage; the reason is kept."""

CHARGES: Final = 4_096
"""Answers of `charge` that are remembered: one for each set of devices that programs name."""

Due = tuple[int, str, Stage]
"""An ended stage in a queue: its end, its id, itself."""


class CounterTrack:
    """The recent reads of one device's hardware counter, beside its power integral."""

    def __init__(self) -> None:
        self.reads: deque[Anchor] = deque(maxlen=1200)

    def anchor(self, t_ns: int) -> Anchor | None:
        """The last read at or before an instant, else the first after it."""
        for read in reversed(self.reads):
            if read.t_ns <= t_ns:
                return read
        return self.reads[0] if self.reads else None

    def forget(self, before_ns: int) -> None:
        """Let go of what no edge asks for any more: the reads before an instant, but for the last of them."""
        while len(self.reads) > 1 and self.reads[1].t_ns <= before_ns:
            self.reads.popleft()


def by_counter(a: Anchor | None, b: Anchor | None, begin: Edge, end: Edge) -> int | None:
    """µJ between two edges by the counter, carried from its reads to the edges by the power integral.

    None without two different reads, or if a counter reset or a hole lies between them.
    """
    if a is None or b is None or a.t_ns == b.t_ns or a.segment != b.segment:
        return None
    return (b.energy_mj - a.energy_mj) * 1000 + (end.e_uj - b.cum_uj) - (begin.e_uj - a.cum_uj)


class Accountant:
    """Settles stages. Reads the recorder's logs; writes rows of `energies` into the tracker."""

    def __init__(self, tracker: Tracker, logs: Mapping[int, DeviceLog], known: Mapping[int, Known]) -> None:
        self._tracker = tracker
        self._logs = logs
        self._known = known
        self.devices: dict[int, Device] = {}
        self.counters: dict[int, CounterTrack] = {}
        self.neighbours = Neighbours()
        self._activity: dict[int, Activity] = {}
        self._beginless: dict[str, Stage] = {}  # open, and not all begin edges are fixed
        self._due: list[Due] = []  # heap: ended
        self._left = False
        self._silent: defaultdict[int, list[Due]] = defaultdict(list)  # heaps: wait for a device's sample
        self._charges: dict[tuple[Any, ...], tuple[list[int], set[str], list[int]]] = {}
        self._beats: dict[int, tuple[list[Anchor], Beat]] = {}  # by device, what was asked last

    @property
    def behind(self) -> bool:
        """Whether the last `settle` left something for which there was no time."""
        return self._left

    def devices_changed(self) -> None:
        """Devices were declared: who is charged for which is to be told anew."""
        self._charges.clear()
        self._beats.clear()
        self._tracker.began += self._tracker.stages.values()

    def resolve_begins(self) -> None:
        """Fix the begin edge of each open stage as soon as samples surround it."""
        self._catch_up()
        for stage in list(self._beginless.values()):
            if stage.t1_ns is not None:  # settling sees to both its edges: no row need be written twice
                del self._beginless[stage.stage_id]
                continue
            # Who named GPUs is charged for those; else the process may still say which ones it uses.
            devices = self._logs if stage.named is None else stage.devices
            fixed = [self._fix_begin(stage, device) for device in devices if device not in stage.begin]
            if any(fixed):
                self._tracker.touched.add(stage.stage_id)
                self._tracker.news.add(stage.stage_id)
            if all(fixed):
                del self._beginless[stage.stage_id]

    def note_pids(self, device: int, pids: frozenset[int], t_ns: int) -> None:
        """NVML's list of compute processes on a GPU."""
        users = self.neighbours.note(device, pids, t_ns)
        for stage in self._tracker.stages.values():
            inside = stage.t0_ns <= t_ns and (stage.t1_ns is None or t_ns <= stage.t1_ns)
            late = stage.t0_ns <= t_ns and not stage.pids_seen  # no other list tells of it
            if stage.pid in users and (inside or late):
                self._uses(stage, device)
            if inside:
                self._note_foreign(stage, device, t_ns, t_ns)

    def unfolded(self) -> dict[int, int]:
        """By device, since when its open and pending stages need to be told who was there."""
        since: dict[int, int] = {}
        for stage in self._tracker.stages.values():
            for device in stage.devices:
                folded = stage.folded.get(device)
                t_ns = stage.t0_ns if folded is None else folded.t_ns
                since[device] = min(t_ns, since.get(device, t_ns))
        return {device: t_ns for device, t_ns in since.items() if device in self._logs}

    def recall(self, finals: Iterable[tuple[str, str, str | None, int, int, int]]) -> None:
        """Take over what an earlier daemon has settled: (stage, run, parent, t0_ns, t1_ns, device)."""
        rows = list(finals)
        parents = {stage_id: parent_id for stage_id, _, parent_id, *_ in rows}
        for stage_id, run_id, parent_id, t0_ns, t1_ns, device in rows:
            a, b = (self._logs[device].edge_at(t_ns) for t_ns in (t0_ns, t1_ns))
            past = Past(
                t1_ns, t0_ns, stage_id, _uj(a), _uj(b), parent_id, self._line(parent_id, parents), run_id
            )
            self._active(device).remember(past)

    def fold(self) -> None:
        """Add up what open stages have behind them: the samples that tell of it are to be forgotten."""
        for activity in self._activity.values():
            self._tracker.touched.update(s.stage_id for s in activity.fold(activity.last_ns))

    def settle(self, now_ns: int, until_s: float = math.inf) -> dict[str, dict[int, int | None]]:
        """Write the energies of stages that can be known now; {stage_id: {device: µJ}}.

        `until_s`: of time.monotonic, when to leave the rest for another time.
        """
        self._catch_up()
        # What follows an edge tells of it too, as far as the sensors' windows reach.
        wait_ns = SETTLE_NS + max((log.sensing.reach_ns for log in self._logs.values()), default=0)
        for device, waiting in self._silent.items():
            last_ns = max(self._logs[device].last_t_ns or 0, now_ns - PATIENCE_NS - 1)
            while waiting and waiting[0][0] <= last_ns:
                heappush(self._due, heappop(waiting))
        settled: dict[str, dict[int, int | None]] = {}
        self._left = False
        while self._due and self._due[0][0] + wait_ns <= now_ns:
            if time.monotonic() >= until_s:
                self._left = True
                break
            due = heappop(self._due)
            silent = self._ends(due[2], now_ns)
            if isinstance(silent, int):
                heappush(self._silent[silent], due)
            else:
                settled[due[1]] = self._finish(due[2], silent)
        return settled

    # ---- who is charged for what, from when on -------------------------------------------------------

    def _catch_up(self) -> None:
        """Take in which stages have begun and ended."""
        tracker = self._tracker
        for stage in tracker.began:
            if stage.state != "final":
                self._place(stage)
        for stage in tracker.over:
            assert stage.t1_ns is not None
            heappush(self._due, (stage.t1_ns, stage.stage_id, stage))
        tracker.began, tracker.over = [], []

    def _uses(self, stage: Stage, device: int) -> None:
        """NVML listed its process on the GPU: that is true of the stages around it too, whosever they are."""
        for one in (stage, *(self._tracker.stages.get(above) for above in stage.ancestors)):
            if one is not None and not one.pids_seen.get(device):
                one.pids_seen[device] = True
                self._tracker.began.append(one)
                self._tracker.touched.add(one.stage_id)

    def _place(self, stage: Stage) -> None:
        stage.devices, _ = self._charge(stage)
        if stage.devices != stage.placed:
            for device in stage.placed:
                self._active(device).leave(stage)
            for device in stage.devices:
                self._active(device).enter(stage)
            stage.placed = stage.devices
        if stage.t1_ns is None:
            self._beginless[stage.stage_id] = stage

    def _charge(self, stage: Stage) -> tuple[list[int], set[str]]:
        """Devices and flags, as far as is known by now. The lists may be shared: nobody changes them."""
        devices, flags, unsaid = self._may_use(stage)
        if not unsaid or not (stage.pids_seen or self.neighbours.any):
            return devices, flags
        t0_ns, t1_ns = stage.t0_ns, stage.t0_ns if stage.t1_ns is None else stage.t1_ns
        for device in unsaid:
            # A short stage falls between two lists: what its process held just before, it holds still.
            if not stage.pids_seen.get(device) and self.neighbours.lists(stage.pid, device, t0_ns, t1_ns):
                self._uses(stage, device)
        return narrow(devices, stage.pids_seen, self._known.values()), flags

    def _may_use(self, stage: Stage) -> tuple[list[int], set[str], list[int]]:
        """Devices, flags, and the GPUs among which nobody chose."""
        said = stage.process if stage.named is None else None
        key = (
            None if stage.named is None else tuple(stage.named),
            said and (said.gpu_uuids and tuple(said.gpu_uuids), said.gpu_uuids is None, said.visible_devices,
                      said.device_order, said.local_rank is None),
        )  # fmt: skip
        found = self._charges.get(key)
        if found is None:
            if len(self._charges) >= CHARGES:
                self._charges.clear()
            devices, flags = charge(stage.named, stage.process, self._known.values())
            gpus = [device for device in devices if self._known[device].domain == "gpu"]
            unsaid = gpus if len(gpus) > 1 and is_unsaid(stage.named, stage.process) else []
            found = self._charges[key] = devices, flags, unsaid
        return found

    def _active(self, device: int) -> Activity:
        found = self._activity.get(device)
        if found is None:
            found = self._activity[device] = Activity(self._logs[device])
        return found

    def _line(self, parent_id: str | None, parents: Mapping[str, str | None]) -> tuple[str, ...]:
        """The ids above a settled stage, outermost first, as far as they are known."""
        line: list[str] = []
        while parent_id is not None and parent_id not in line:
            line.append(parent_id)
            above = self._tracker.stages.get(parent_id)
            if above is not None:
                return (*above.ancestors, *reversed(line))
            parent_id = parents.get(parent_id)
        return tuple(reversed(line))

    def _fix_begin(self, stage: Stage, device: int) -> bool:
        edge = self._logs[device].edge_at(stage.t0_ns)
        if edge is None:
            return False
        stage.begin[device] = edge
        anchor = self.counters[device].anchor(stage.t0_ns) if device in self.counters else None
        if anchor is not None:
            stage.anchors[device] = anchor
        return True

    def _note_foreign(self, stage: Stage, device: int, t0_ns: int, t1_ns: int) -> None:
        """Remember processes of nobody's that were on a GPU beside the stage."""
        found = self.neighbours.seen_with(stage.pid, stage.run_pids, device, t0_ns, t1_ns)
        if found - stage.foreign.get(device, set()):
            stage.foreign.setdefault(device, set()).update(found)
            self._tracker.touched.add(stage.stage_id)

    # ---- one stage's end -----------------------------------------------------------------------------

    def _ends(self, stage: Stage, now_ns: int) -> dict[int, Edge | Missing] | int:
        """The end edge on each device charged, or the device of which one is still to come."""
        assert stage.t1_ns is not None
        stage.devices, flags = self._charge(stage)
        stage.flags |= flags
        given_up = now_ns > stage.t1_ns + PATIENCE_NS
        ends: dict[int, Edge | Missing] = {}
        for device in stage.devices:
            edge = self._logs[device].edge_at(stage.t1_ns)
            begun = device in stage.begin
            if begun:
                stage.begin[device] = self._with_surroundings(device, stage.begin[device])
            else:
                begun = self._fix_begin(stage, device)
            if edge is None or not begun:
                if not given_up:
                    return device
                edge = edge or Missing("no_sample_after_end")
                stage.begin.setdefault(device, Missing("no_sample_after_end"))
            ends[device] = edge
        return ends

    def _with_surroundings(self, device: int, edge: Edge | Missing) -> Edge | Missing:
        """An edge that was fixed before what followed it was seen, if that is still in memory."""
        log = self._logs[device]
        if isinstance(edge, Missing) or not log.covers(edge.t_ns):
            return edge
        return replace(edge, range_w=log.range_w(edge.t_ns))

    def _finish(self, stage: Stage, ends: dict[int, Edge | Missing]) -> dict[int, int | None]:
        assert stage.t1_ns is not None
        rows = [self._energy_row(stage, device, end) for device, end in ends.items()]  # all, or none is kept
        energies: dict[int, int | None] = dict(zip(ends, (row[5] for row in rows), strict=True))
        self._tracker.rows["energies"] += rows
        for device in stage.placed:
            self._active(device).leave(stage)
        for device, end in ends.items():
            activity = self._active(device)
            activity.remember(
                Past(stage.t1_ns, stage.t0_ns, stage.stage_id, _uj(stage.begin[device]), _uj(end),
                     stage.parent_id, stage.ancestors, stage.run_id)
            )  # fmt: skip
            self._tracker.touched.update(s.stage_id for s in activity.fold())
        self._beginless.pop(stage.stage_id, None)
        self._tracker.finish(stage)
        return energies

    def _energy_row(self, stage: Stage, device: int, end: Edge | Missing) -> tuple[Any, ...]:
        assert stage.t1_ns is not None
        begin = stage.begin[device]
        facts = self.devices[device]
        flags = set(stage.flags)
        if facts.origin != "measured":
            flags.add(facts.origin)
        self._note_foreign(stage, device, stage.t0_ns, stage.t1_ns)
        around = self._active(device).around(stage, stage.t1_ns, _uj(end))
        if around.shared or stage.foreign.get(device):
            flags.add("shared_gpu" if self._known[device].domain == "gpu" else "shared_cpu")
        length_ns = stage.t1_ns - stage.t0_ns
        if length_ns < 2 * facts.period_ns:
            flags.add("too_short")
        figure = counter = self_uj = exclusive = coverage = n = integral = None
        reason = next((e.reason for e in (begin, end) if isinstance(e, Missing)), None)
        if isinstance(begin, Edge) and isinstance(end, Edge):
            n = end.n - begin.n
            gap_ns = end.gap_ns - begin.gap_ns
            coverage = 1 - gap_ns / length_ns if length_ns else None
            if begin.in_hole or end.in_hole or begin.holes != end.holes:
                reason = "gap_without_counter"
            else:
                integral = end.e_uj - begin.e_uj
                if gap_ns:
                    flags.add("bridged")
                counter = self._by_counter(stage, device, begin, end)
                variance = integral_variance_j2(self._logs[device].sensing, begin, end, stage.doubt_ns)
                beating = self._beat(device, stage.t0_ns, stage.t1_ns)
                figure = reconcile(facts, integral, u_uj(variance), counter, length_ns, beating)
                flags |= figure.flags
                # Parts of a stage are known by the integral alone: their shares of it are what is told.
                scale = figure.energy_uj / integral if integral else 1.0
                if around.inside_uj is not None:
                    self_uj = round(scale * (integral - around.inside_uj))
                if around.beside_uj is not None:
                    exclusive = round(scale * (integral - around.beside_uj))
        return (
            stage.run_id, stage.stage_id, device, stage.t0_ns, stage.t1_ns,
            figure and figure.energy_uj, counter and counter[0], self_uj, exclusive, around.beside_ns,
            coverage, n, figure and figure.u_random_uj, figure and figure.u_total_uj, facts.source,
            sorted(flags), reason, figure and figure.method, integral, figure and figure.u_integral_uj,
            figure and figure.u_counter_uj, figure and figure.note,
        )  # fmt: skip

    def _by_counter(self, stage: Stage, device: int, begin: Edge, end: Edge) -> tuple[int, int, int] | None:
        """The counter's µJ, their doubt, for how many ns the integral carried it; None: it cannot tell."""
        assert stage.t1_ns is not None
        track, a = self.counters.get(device), stage.anchors.get(device)
        b = track.anchor(stage.t1_ns) if track else None
        counter = by_counter(a, b, begin, end)
        if counter is None or a is None or b is None:
            return None
        sensing = self._logs[device].sensing
        variance = counter_variance_j2(self.devices[device], sensing, (a, b), (begin, end), stage.doubt_ns)
        carried_ns = abs(begin.t_ns - a.t_ns) + abs(end.t_ns - b.t_ns)
        return counter, u_uj(variance), carried_ns

    def _beat(self, device: int, t0_ns: int, t1_ns: int) -> Beat:
        """How far integral and counter were apart around a window."""
        track = self.counters.get(device)
        if track is None:
            return Beat()
        reads = near(track.reads, t0_ns, t1_ns)
        known = self._beats.get(device)  # short stages, one after the other, have the same reads around them
        if known is None or known[0] != reads:
            said = beat(reads, self._logs[device].sensing, self.devices[device].counter_period_ns)
            known = self._beats[device] = reads, said
        return known[1]


def _uj(edge: Edge | Missing | None) -> int | None:
    return edge.e_uj if isinstance(edge, Edge) else None
