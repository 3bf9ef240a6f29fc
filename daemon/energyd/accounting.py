"""What did each ended stage cost on each device? Edges to joules, once a sample has passed its end.

Own energy, the counter beside it, less its children (`self`), less unrelated stages on the same device
(`exclusive`). Stages are settled in order of their ends, so a child is settled before its parent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from energyd.attribution import Known, charge, narrow
from energyd.beats import Beat, beat
from energyd.doubt import Device, counter_variance_j2, integral_variance_j2, reconcile, u_uj
from energyd.energy import DeviceLog, Edge, Missing
from energyd.sharing import Neighbours
from energyd.spans import Span, SpanUnion
from energyd.stages import Anchor, Stage
from energyd.tracker import Tracker

SETTLE_NS: Final = 200_000_000
"""A stage is settled this long after its end: markers of other processes travel in batches of 20 ms."""

PATIENCE_NS: Final = 30_000_000_000
"""After so long without a sample a device is given up for this stage; the reason is kept."""

FOLD_AT: Final = 64
"""Spans kept apart in a union before those that can no longer change are added up."""


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

    def resolve_begins(self) -> None:
        """Fix the begin edge of each open stage as soon as samples surround it."""
        known = self._known.values()
        for stage in self._tracker.active():
            stage.devices, _ = charge(stage.named, stage.process, known)
            # Who named GPUs is charged for those; else the process may still say which ones it uses.
            for device in self._logs if stage.named is None else stage.devices:
                if device in stage.begin:
                    continue
                log = self._logs[device]
                edge = log.edge_at(stage.t0_ns)
                if edge is None:
                    continue
                stage.begin[device] = edge
                anchor = self.counters[device].anchor(stage.t0_ns) if device in self.counters else None
                if anchor is not None:
                    stage.anchors[device] = anchor
                self._tracker.touched.add(stage.stage_id)
                self._tracker.news.add(stage.stage_id)

    def note_pids(self, device: int, pids: frozenset[int], t_ns: int) -> None:
        """NVML's list of compute processes on a GPU."""
        self.neighbours.note(device, pids, t_ns)
        for stage in self._tracker.active():
            if stage.pid in pids and not stage.pids_seen.get(device):
                stage.pids_seen[device] = True
            if stage.t0_ns <= t_ns and (stage.t1_ns is None or t_ns <= stage.t1_ns):
                self._note_foreign(stage, device, t_ns, t_ns)

    def _note_foreign(self, stage: Stage, device: int, t0_ns: int, t1_ns: int) -> None:
        """Remember processes of nobody's that were on a GPU beside the stage."""
        found = self.neighbours.seen_with(stage.pid, stage.run_pids, device, t0_ns, t1_ns)
        if found - stage.foreign.get(device, set()):
            stage.foreign.setdefault(device, set()).update(found)
            self._tracker.touched.add(stage.stage_id)

    def settle(self, now_ns: int) -> dict[str, dict[int, int | None]]:
        """Write the energies of stages that can be known now; {stage_id: {device: µJ}}."""
        # What follows an edge tells of it too, as far as the sensors' windows reach.
        wait_ns = SETTLE_NS + max((log.sensing.reach_ns for log in self._logs.values()), default=0)
        ended = [s for s in self._tracker.active() if s.t1_ns is not None and s.t1_ns + wait_ns <= now_ns]
        ended.sort(key=lambda s: (s.t1_ns, -len(s.ancestors), -s.t0_ns))
        settled: dict[str, dict[int, int | None]] = {}
        for stage in ended:
            ends = self._ends(stage, now_ns)
            if ends is not None:
                settled[stage.stage_id] = self._finish(stage, ends)
        return settled

    def _ends(self, stage: Stage, now_ns: int) -> dict[int, Edge | Missing] | None:
        """The end edge on each device charged, or None while one is still to come."""
        assert stage.t1_ns is not None
        stage.devices, flags = charge(stage.named, stage.process, self._known.values())
        if "devices_default" in flags:
            stage.devices = narrow(stage.devices, stage.pids_seen, self._known.values())
        stage.flags |= flags
        given_up = now_ns > stage.t1_ns + PATIENCE_NS
        ends: dict[int, Edge | Missing] = {}
        for device in stage.devices:
            edge = self._logs[device].edge_at(stage.t1_ns)
            begin = stage.begin.get(device) or self._logs[device].edge_at(stage.t0_ns)
            if edge is None or begin is None:
                if not given_up:
                    return None
                edge, begin = edge or Missing("no_sample_after_end"), begin or Missing("no_sample_after_end")
            stage.begin[device] = self._with_surroundings(device, begin)
            ends[device] = edge
        return ends

    def _with_surroundings(self, device: int, edge: Edge | Missing) -> Edge | Missing:
        """An edge that was fixed before what followed it was seen, if that is still in memory."""
        log = self._logs[device]
        if isinstance(edge, Missing) or not log.covers(edge.t_ns):
            return edge
        return replace(edge, range_w=log.range_w(edge.t_ns))

    def _finish(self, stage: Stage, ends: dict[int, Edge | Missing]) -> dict[int, int | None]:
        shared = self._meet_others(stage, ends)
        energies: dict[int, int | None] = {}
        for device, end in ends.items():
            row = self._energy_row(stage, device, end, shared.get(device, set()))
            energies[device] = row[5]
            self._tracker.rows["energies"].append(row)
        self._tell_parent(stage, ends)
        self._tracker.finish(stage)
        return energies

    def _energy_row(self, stage: Stage, device: int, end: Edge | Missing, runs: set[str]) -> tuple[Any, ...]:
        assert stage.t1_ns is not None
        begin = stage.begin[device]
        facts = self.devices[device]
        flags = set(stage.flags)
        if facts.origin != "measured":
            flags.add(facts.origin)
        self._note_foreign(stage, device, stage.t0_ns, stage.t1_ns)
        if runs or stage.foreign.get(device):
            flags.add("shared_gpu" if self._known[device].domain == "gpu" else "shared_cpu")
        length_ns = stage.t1_ns - stage.t0_ns
        if length_ns < 2 * facts.period_ns:
            flags.add("too_short")
        figure = counter = self_uj = exclusive = coverage = n = integral = None
        reason = next((e.reason for e in (begin, end) if isinstance(e, Missing)), None)
        overlap_ns, overlap_uj = self._union(stage.overlaps, device).total()
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
                child_uj = self._children(stage, device, end)
                self_uj = None if child_uj is None else round(scale * (integral - child_uj))
                exclusive = None if overlap_uj is None else round(scale * (integral - overlap_uj))
        return (
            stage.run_id, stage.stage_id, device, stage.t0_ns, stage.t1_ns,
            figure and figure.energy_uj, counter and counter[0], self_uj, exclusive, overlap_ns, coverage, n,
            figure and figure.u_random_uj, figure and figure.u_total_uj, facts.source, sorted(flags), reason,
            figure and figure.method, integral, figure and figure.u_integral_uj,
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
        facts, track = self.devices[device], self.counters.get(device)
        if track is None:
            return Beat()
        return beat(track.reads, t0_ns, t1_ns, self._logs[device].sensing, facts.counter_period_ns)

    def _children(self, stage: Stage, device: int, end: Edge) -> int | None:
        """µJ of the union of a stage's children; those still running count up to its end."""
        union = self._union(stage.children, device)
        for child in self._tracker.active():
            if child.parent_id == stage.stage_id and child.t0_ns < end.t_ns:
                begin = child.begin.get(device) or self._logs[device].edge_at(child.t0_ns)
                union.add(_span(begin, end))
        return union.total()[1]

    def _tell_parent(self, stage: Stage, ends: dict[int, Edge | Missing]) -> None:
        parent = self._tracker.stages.get(stage.parent_id or "")
        if parent is None:
            return
        siblings = [
            s.t0_ns for s in self._tracker.active() if s.parent_id == parent.stage_id and s is not stage
        ]
        for device, end in ends.items():
            union = parent.children.setdefault(device, SpanUnion())
            union.add(self._clipped(stage, parent, device, end))
            if len(union.spans) > FOLD_AT:
                union.fold(min([*siblings, stage.t1_ns or 0]))
        self._tracker.touched.add(parent.stage_id)

    def _meet_others(self, stage: Stage, ends: dict[int, Edge | Missing]) -> dict[int, set[str]]:
        """Note the time that this stage shared a device with unrelated ones, on both sides."""
        assert stage.t1_ns is not None
        active = self._tracker.stages
        for other in self._tracker.active():
            if other.t0_ns >= stage.t1_ns or other.related(stage):
                continue
            for device in set(ends) & set(other.devices):
                end = ends[device]
                span = self._clipped(stage, other, device, end)
                # A parent that is unrelated to the other side covers its child there.
                if not _covered(stage, other, active):
                    other.overlaps.setdefault(device, SpanUnion()).add(span)
                if not _covered(other, stage, active):
                    stage.overlaps.setdefault(device, SpanUnion()).add(span)
                if other.run_id != stage.run_id:
                    other.sharers.setdefault(device, set()).add(stage.run_id)
                    stage.sharers.setdefault(device, set()).add(other.run_id)
                self._tracker.touched.add(other.stage_id)
                union = other.overlaps.get(device)
                if union is not None and len(union.spans) > FOLD_AT:
                    later = [s for s in self._tracker.active() if s is not stage and not s.related(other)]
                    union.fold(min([stage.t1_ns, *(s.t0_ns for s in later)]))
        return stage.sharers

    def _clipped(self, stage: Stage, to: Stage, device: int, end: Edge | Missing) -> Span:
        """The part of a settled stage inside another that begins later or ends earlier."""
        begin = stage.begin.get(device)
        t_a, t_b = stage.t0_ns, stage.t1_ns or 0
        log = self._logs[device]
        if to.t0_ns > t_a:
            t_a, begin = to.t0_ns, to.begin.get(device) or log.edge_at(to.t0_ns)
        last: Edge | Missing | None = end
        if to.t1_ns is not None and to.t1_ns < t_b:
            t_b, last = to.t1_ns, log.edge_at(to.t1_ns)
        return Span(t_a, _uj(begin), t_b, _uj(last))

    @staticmethod
    def _union(unions: dict[int, SpanUnion], device: int) -> SpanUnion:
        return unions.get(device) or SpanUnion()


def _covered(stage: Stage, other: Stage, active: Mapping[str, Stage]) -> bool:
    parent = active.get(stage.parent_id or "")
    return parent is not None and not parent.related(other)


def _uj(edge: Edge | Missing | None) -> int | None:
    return edge.e_uj if isinstance(edge, Edge) else None


def _span(begin: Edge | Missing | None, end: Edge) -> Span:
    t_a = begin.t_ns if isinstance(begin, Edge) else end.t_ns - 1
    return Span(t_a, _uj(begin), end.t_ns, end.e_uj)
