"""Who else was on a device during a stage, and for how long? One device's stages, in order of time.

A stage asks once, when it is settled: who overlapped it is found by bisection, so the cost is that of the
stages which really ran beside it. What a long stage has behind it is added up now and then (`fold`), so that
a million short ones beside or inside it do not stay in memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final, NamedTuple

from energyd.energy import DeviceLog, Edge
from energyd.spans import Span, plus, union
from energyd.stages import Folded, Stage

FOLD_AT: Final = 1024
"""Settled stages of a device that are remembered; then the older half is folded into those still running."""


class Past(NamedTuple):
    """A settled stage on one device. Ordered by its end."""

    t1_ns: int
    t0_ns: int
    stage_id: str
    a_uj: int | None  # running integral at its begin and end
    b_uj: int | None
    parent_id: str | None
    ancestors: tuple[str, ...]
    run_id: str


class Activity:
    """The stages of one device: those that are not settled, and the last that were."""

    def __init__(self, log: DeviceLog) -> None:
        self._log = log
        self._live: list[tuple[int, str, Stage]] = []  # in order of begin
        self._past: list[Past] = []  # in order of end

    def __len__(self) -> int:
        return len(self._past)

    @property
    def last_ns(self) -> int:
        """When the last of the settled stages ended."""
        return self._past[-1].t1_ns if self._past else 0

    def enter(self, stage: Stage) -> None:
        """A stage is charged for this device from its begin on."""
        insort(self._live, (stage.t0_ns, stage.stage_id, stage))

    def leave(self, stage: Stage) -> None:
        """It is not, as it turned out, or it is settled."""
        del self._live[bisect_left(self._live, (stage.t0_ns, stage.stage_id))]

    def remember(self, past: Past) -> None:
        """A stage is settled on this device."""
        insort(self._past, past)

    def around(self, stage: Stage, t1_ns: int, t1_uj: int | None) -> Folded:
        """What ran beside a stage and inside it, up to an instant not later than its end.

        Beside: everything that neither encloses it nor is enclosed by it. Inside: its children. Nothing
        that ended up to then may be still to come; what has not ended counts up to that instant.
        """
        before = stage.folded.get(self._log.device)
        t0_ns, t0_uj = stage.t0_ns, self._begin_uj(stage)
        if before is not None:
            t0_ns, t0_uj = before.t_ns, before.e_uj
        spans, children, shared = self._overlapping(stage, Span(t0_ns, t0_uj, t1_ns, t1_uj))
        beside_ns, beside_uj = union(spans)
        _, inside_uj = union(children)
        if before is None:
            return Folded(t1_ns, t1_uj, beside_ns, beside_uj, inside_uj, shared)
        return Folded(
            t1_ns, t1_uj, before.beside_ns + beside_ns, plus(before.beside_uj, beside_uj),
            plus(before.inside_uj, inside_uj), before.shared or shared,
        )  # fmt: skip

    def fold(self, t_ns: int | None = None) -> list[Stage]:
        """Add up what lies before an instant in the stages that still run, and forget it; those stages.

        Without an instant: the older half, and that only if there are many. A stage that comes so late that
        it began and ended before is not told of what is forgotten.
        """
        if t_ns is None:
            if len(self._past) < FOLD_AT:
                return []
            t_ns = self._past[len(self._past) // 2].t1_ns
        changed, e_uj = [], self._uj(t_ns)
        for _, _, stage in self._live[: bisect_left(self._live, (t_ns, ""))]:
            to_ns, to_uj = t_ns, e_uj
            if stage.t1_ns is not None and stage.t1_ns < t_ns:  # ended; waits for another device's sample
                to_ns, to_uj = stage.t1_ns, self._uj(stage.t1_ns)
            before = stage.folded.get(self._log.device)
            if to_ns > (stage.t0_ns if before is None else before.t_ns):
                stage.folded[self._log.device] = self.around(stage, to_ns, to_uj)
                changed.append(stage)
        del self._past[: bisect_right(self._past, t_ns, key=lambda past: past.t1_ns)]
        return changed

    def _overlapping(self, stage: Stage, window: Span) -> tuple[list[Span], list[Span], bool]:
        """(beside, children) within a window, and whether any of another run was beside."""
        lo_ns, lo_uj, hi_ns, hi_uj = window
        own, above, run_id = stage.stage_id, stage.ancestors, stage.run_id
        beside: list[Span] = []
        children: list[Span] = []
        shared = False
        floor = hi_ns  # from here on all is under what is beside already: most need no look at energy
        for t0, t1, other in self._meeting(lo_ns, hi_ns):
            other_id = other.stage_id
            if other_id == own or other_id in above:
                continue
            inside = own in other.ancestors
            if inside:
                if other.parent_id != own:
                    continue
            else:
                shared = shared or other.run_id != run_id
                if t0 >= floor:
                    continue
            a_ns, a_uj = (lo_ns, lo_uj) if t0 <= lo_ns else (t0, self._begin_uj(other))
            b_ns, b_uj = (hi_ns, hi_uj) if t1 >= hi_ns else (t1, self._end_uj(other, t1))
            (children if inside else beside).append(Span(a_ns, a_uj, b_ns, b_uj))
            if not inside and b_ns >= floor:
                floor = a_ns
        return beside, children, shared

    def _meeting(self, lo_ns: int, hi_ns: int) -> Iterator[tuple[int, int, Stage | Past]]:
        """(begin, end, who) of all that share time with a window; an end that is not yet is the window's."""
        for t0, _, stage in self._live:
            if t0 >= hi_ns:
                break
            t1 = stage.t1_ns
            if t1 is None or t1 > lo_ns:
                yield t0, hi_ns if t1 is None else t1, stage
        for past in reversed(self._past):
            if past[0] <= lo_ns:
                break
            if past[1] < hi_ns:
                yield past[1], past[0], past

    def _begin_uj(self, other: Stage | Past) -> int | None:
        if isinstance(other, Past):
            return other.a_uj
        begin = other.begin.get(self._log.device)
        return self._uj(other.t0_ns) if begin is None else begin.e_uj if isinstance(begin, Edge) else None

    def _end_uj(self, other: Stage | Past, t1_ns: int) -> int | None:
        return other.b_uj if isinstance(other, Past) else self._uj(t1_ns)

    def _uj(self, t_ns: int) -> int | None:
        edge = self._log.edge_at(t_ns)
        return edge.e_uj if isinstance(edge, Edge) else None
