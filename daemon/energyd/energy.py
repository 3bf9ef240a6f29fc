"""How much energy had a device used at an instant? The running integral and its gaps.

Power is linear between samples. Energy at t between samples i and j is the trapezoid's shape scaled to
the stored step: E(t) = cum_i + (cum_j - cum_i) · s(u) / s(D), with u = t - t_i, D = t_j - t_i and
s(u) = p_i u + (p_j - p_i) u² / 2D. For an ordinary step cum_j - cum_i is the trapezoid itself; for a gap
it is what the hardware counter says (or 0, and the gap is a hole: energy across it is unknown).
All integers: mW · ns = pJ, kept in half picojoules until divided, the remainder carried.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from energyd.roughness import I32, I64, NONE, Roughness, Sums
from energyd.sensing import Sensing

HALF_PJ_PER_UJ: Final = 2_000_000
GUARD_NS: Final = 120_000_000_000
"""How much of the past stays in memory after its hour is sealed, for markers that come late."""


@dataclass(slots=True)  # not frozen: each stage makes two a device, and that sets attributes the slow way
class Edge:
    """A device's running totals at one instant; nobody changes it. All count since the store began."""

    t_ns: int
    e_uj: int
    n: int  # samples at or before t, those that have made way since included
    gap_ns: int  # time spent in gaps before t
    holes: int  # gaps that nothing bridges, ended before t
    in_hole: bool = False
    # What the doubt of a window between two edges is made of (energyd.doubt):
    rough: Sums = NONE  # restlessness of the power, summed up to t
    bridge_j2: float = 0.0  # variance of the gaps that a counter bridged, summed up to t
    split_j2: float = 0.0  # variance of this instant's place within a bridged gap
    p_w: float = 0.0  # power here
    range_w: float = 0.0  # its largest less its smallest value nearby


@dataclass(frozen=True)
class Missing:
    """There will never be an edge here, and why."""

    reason: str


@dataclass(frozen=True)
class Gap:
    """A silence between two samples; `bridged_uj` None: a hole."""

    t0_ns: int
    t1_ns: int
    reason: str
    bridged_uj: int | None


@dataclass
class Totals:
    """What a device's log starts from: the state after its last stored sample."""

    t_ns: int | None = None
    power_mw: int = 0
    cum_uj: int = 0
    remainder: int = 0  # half pJ
    n: int = 0
    gap_ns: int = 0
    holes: int = 0
    read_t_ns: int | None = None  # last read of the hardware counter, to bridge with
    read_mj: int = 0
    read_uj: int = 0  # the power integral at that read
    read_rough: Sums = NONE  # and what its doubt is made of, as in Edge
    read_bridge_j2: float = 0.0
    read_p_w: float = 0.0
    read_range_w: float = 0.0
    resets: int = 0  # of the counter, since the store began
    rough: Sums = NONE
    bridge_j2: float = 0.0
    rough_t_ns: int | None = (
        None  # where `rough` was summed up to, if not to the newest sample (store.rebuild)
    )


@dataclass
class _GapMark:
    """A gap with the totals before it."""

    t0_ns: int
    t1_ns: int
    bridged: bool
    gap_ns: int
    holes: int
    bridge_j2: float


@dataclass
class Appended:
    """What one append added, ready for the store."""

    t_ns: I64
    power_mw: I32
    cum_uj: I64
    gaps: list[Gap] = field(default_factory=list)


class DeviceLog:
    """The samples of one device since its last sealed hour, and look-ups in them."""

    def __init__(self, device: int, max_step_ns: int, totals: Totals) -> None:
        self.device = device
        self.max_step_ns = max_step_ns
        self.totals = totals
        self.sensing = Sensing()
        self._rough = Roughness()
        self._t = np.empty(4096, np.int64)
        self._p = np.empty(4096, np.int32)
        self._c = np.empty(4096, np.int64)
        self._len = 0
        self._gaps: list[_GapMark] = []
        self._made_way: list[tuple[int, int]] = []  # until when, how many samples that were dropped
        if totals.t_ns is not None:  # the last stored sample begins the next step
            self._t[0], self._p[0], self._c[0] = totals.t_ns, totals.power_mw, totals.cum_uj
            self._len = 1
            self._rough.mark(0, totals.rough)

    def preload(self, t_ns: I64, power_mw: I32, cum_uj: I64, gaps: list[Gap]) -> None:
        """Take over the stored samples of the unsealed hour, the newest of which the totals describe."""
        if not len(t_ns):
            return
        self._len = 0
        self._store(t_ns, power_mw, cum_uj)
        self._rough = Roughness()
        summed = self._len - 1
        if self.totals.rough_t_ns is not None:
            summed = max(int(np.searchsorted(t_ns, self.totals.rough_t_ns, side="right")) - 1, 0)
        self._rough.mark(summed, self.totals.rough)
        gap_ns = self.totals.gap_ns - sum(g.t1_ns - g.t0_ns for g in gaps)
        holes = self.totals.holes - sum(g.bridged_uj is None for g in gaps)
        for g in gaps:
            # The doubt of a gap before the restart stays with the edges that were fixed before it.
            bridged = g.bridged_uj is not None
            self._gaps.append(_GapMark(g.t0_ns, g.t1_ns, bridged, gap_ns, holes, self.totals.bridge_j2))
            gap_ns += g.t1_ns - g.t0_ns
            holes += not bridged

    @property
    def last_t_ns(self) -> int | None:
        """Newest sample; None before the first."""
        return self.totals.t_ns

    @property
    def first_t_ns(self) -> int | None:
        """Oldest sample in memory; None before the first."""
        return int(self._t[0]) if self._len else None

    def append(self, t_ns: I64, power_mw: I32, energy_uj: I64 | None = None) -> Appended:
        """Add samples that follow the newest one with no gap (the first ever starts the integral).

        `energy_uj`: energy of each step by the device's own counter; else the trapezoid counts.
        """
        tot = self.totals
        if tot.t_ns is None:
            cum = np.zeros(len(t_ns), np.int64)
            steps_t, steps_p = t_ns, power_mw
        else:
            cum = np.empty(len(t_ns), np.int64)
            steps_t = np.concatenate(([tot.t_ns], t_ns))
            steps_p = np.concatenate((np.array([tot.power_mw], np.int32), power_mw))
        first = len(t_ns) - (len(steps_t) - 1)  # 1 if the very first sample has no step before it
        if energy_uj is not None:
            cum[:first] = tot.cum_uj
            cum[first:] = tot.cum_uj + np.cumsum(energy_uj[first:])
            tot.cum_uj = int(cum[-1])
        else:
            p = steps_p.astype(np.int64)
            # One step fits 64 bits (half pJ), their sum does not beyond 4.6 MJ: add quotients and remainders.
            uj, rest = np.divmod((p[:-1] + p[1:]) * np.diff(steps_t), HALF_PJ_PER_UJ)
            rest = np.cumsum(rest) + tot.remainder
            cum[:first] = tot.cum_uj
            cum[first:] = tot.cum_uj + np.cumsum(uj) + rest // HALF_PJ_PER_UJ
            if len(rest):
                tot.cum_uj = int(cum[-1])
                tot.remainder = int(rest[-1] % HALF_PJ_PER_UJ)
        tot.t_ns, tot.power_mw = int(t_ns[-1]), int(power_mw[-1])
        tot.n += len(t_ns)
        self._store(t_ns, power_mw, cum)
        self._sum_up()
        return Appended(t_ns, power_mw, cum)

    def append_after_gap(
        self, t_ns: int, power_mw: int, reason: str, bridged_uj: int | None, bridge_j2: float = 0.0
    ) -> Appended:
        """Add the one sample that ends a gap. `bridged_uj` None makes the gap a hole.

        `bridge_j2`: variance of the bridged energy, J².
        """
        tot = self.totals
        assert tot.t_ns is not None
        gap = Gap(tot.t_ns, t_ns, reason, bridged_uj)
        bridged = bridged_uj is not None
        self._gaps.append(_GapMark(gap.t0_ns, gap.t1_ns, bridged, tot.gap_ns, tot.holes, tot.bridge_j2))
        tot.bridge_j2 += bridge_j2
        tot.gap_ns += gap.t1_ns - gap.t0_ns
        tot.holes += not bridged
        tot.cum_uj += bridged_uj or 0
        tot.t_ns, tot.power_mw = t_ns, power_mw
        tot.n += 1
        added = Appended(np.array([t_ns]), np.array([power_mw], np.int32), np.array([tot.cum_uj]), [gap])
        self._store(added.t_ns, added.power_mw, added.cum_uj)
        self._sum_up()
        return added

    def drop(self, after_ns: int, before_ns: int) -> None:
        """Forget the samples strictly between two others. What is left between the two is one gap.

        It is bridged by the running integral, unless there was a hole in it.
        """
        t, p = self._t[: self._len], self._p[: self._len]
        i, j = (int(np.searchsorted(t, edge_ns)) for edge_ns in (after_ns, before_ns))
        cut = j - i - 1
        if cut <= 0:
            return
        rough = self._rough.up_to(j, t, p, self.sensing, self.max_step_ns)
        inside = [g for g in self._gaps if after_ns <= g.t0_ns and g.t1_ns <= before_ns]
        holes = sum(not g.bridged for g in inside)
        gap_ns, holes_before, _, bridge_j2, _ = self._gap_totals(after_ns)
        more_ns = before_ns - after_ns - sum(g.t1_ns - g.t0_ns for g in inside)
        later = [g for g in self._gaps if g.t0_ns >= before_ns]
        for g in later:
            g.gap_ns += more_ns
        self.totals.gap_ns += more_ns
        mark = _GapMark(after_ns, before_ns, not holes, gap_ns, holes_before + max(holes - 1, 0), bridge_j2)
        self._gaps = [*(g for g in self._gaps if g.t0_ns < after_ns), mark, *later]
        for column in (self._t, self._p, self._c):
            column[i + 1 : self._len - cut] = column[j : self._len].copy()
        self._len -= cut
        self._made_way.append((before_ns, cut))
        self._rough.cut(i, j, rough)

    def cum_at(self, t_ns: int) -> int | None:
        """The running integral at a sample, µJ; None if there is none at that instant."""
        i = int(np.searchsorted(self._t[: self._len], t_ns))
        return int(self._c[i]) if i < self._len and self._t[i] == t_ns else None

    def edge_at(self, t_ns: int) -> Edge | Missing | None:
        """Totals at an instant; None while no sample follows it yet."""
        last = self.totals.t_ns
        if last is None or t_ns > last:
            return None
        i = int(self._t[: self._len].searchsorted(t_ns, side="right")) - 1
        if i < 0:
            started = self.totals.n - sum(n for _, n in self._made_way) <= self._len
            return Missing("before_first_sample" if started else "marker_too_late")
        n = self.totals.n - (self._len - 1 - i) - sum(n for end_ns, n in self._made_way if t_ns < end_ns)
        gap_ns, holes, in_hole, bridge_j2, gap = self._gap_totals(t_ns)
        # Plain numbers, or an edge cannot be kept: JSON's encoder refuses numpy's.
        t_i, p_i, e_uj, split_j2 = int(self._t[i]), int(self._p[i]), int(self._c[i]), 0.0
        p_w = p_i / 1000
        if t_ns > t_i:
            t_j, p_j, step_uj = int(self._t[i + 1]), int(self._p[i + 1]), int(self._c[i + 1]) - e_uj
            e_uj += _part(t_ns - t_i, t_j - t_i, p_i, p_j, step_uj)
            p_w += (p_j - p_i) / 1000 * (t_ns - t_i) / (t_j - t_i)
            if gap is not None and not in_hole:
                split_j2 = _split_j2(t_ns, t_i, t_j, p_i / 1000, p_j / 1000, step_uj / 1e6)
        rough = self._rough.up_to(
            i, self._t[: self._len], self._p[: self._len], self.sensing, self.max_step_ns
        )
        return Edge(
            t_ns, e_uj, n, gap_ns, holes, in_hole, rough, bridge_j2, split_j2, p_w, self.range_w(t_ns)
        )

    def range_w(self, t_ns: int) -> float:
        """Largest less smallest power near an instant, W: as far as a sensor's window reaches."""
        reach_ns = self.sensing.reach_ns
        lo, hi = self._t[: self._len].searchsorted((t_ns - reach_ns, t_ns + reach_ns)).tolist()
        near = self._p[max(lo - 1, 0) : min(hi + 1, self._len)].tolist()  # few: numpy's own would take longer
        return (max(near) - min(near)) / 1000 if near else 0.0

    def covers(self, t_ns: int) -> bool:
        """Whether the samples around an instant are still in memory."""
        return self._len > 0 and t_ns - self.sensing.reach_ns > self._t[0]

    def after(self, t_ns: int | None, until_ns: int | None = None) -> tuple[I64, I32, I64]:
        """The samples later than t_ns (all in memory if None) and not later than until_ns.

        Views, for an hour of eight devices is 29 MB: good until the next `trim`.
        """
        lo = 0 if t_ns is None else int(np.searchsorted(self._t[: self._len], t_ns, side="right"))
        hi = self._len
        if until_ns is not None:
            hi = int(np.searchsorted(self._t[: self._len], until_ns, side="right"))
        return self._t[lo:hi], self._p[lo:hi], self._c[lo:hi]

    def trim(self, before_ns: int) -> None:
        """Forget samples older than before_ns less the guard; their hour is sealed."""
        cut = int(np.searchsorted(self._t[: self._len], before_ns - GUARD_NS))
        cut = min(cut, self._len - 1)  # the newest starts the next step
        if cut <= 0:
            return
        for array in (self._t, self._p, self._c):
            array[: self._len - cut] = array[cut : self._len].copy()
        self._len -= cut
        self._rough.forget(cut, self._len - 1, self.totals.rough)
        oldest = int(self._t[0])
        self._gaps = [g for g in self._gaps if g.t1_ns >= oldest]
        self._made_way = [(end_ns, n) for end_ns, n in self._made_way if end_ns > oldest]

    def _store(self, t_ns: I64, power_mw: I32, cum_uj: I64) -> None:
        need = self._len + len(t_ns)
        if need > len(self._t):
            size = max(need, 2 * len(self._t))
            self._t = np.concatenate((self._t[: self._len], np.empty(size - self._len, np.int64)))
            self._p = np.concatenate((self._p[: self._len], np.empty(size - self._len, np.int32)))
            self._c = np.concatenate((self._c[: self._len], np.empty(size - self._len, np.int64)))
        self._t[self._len : need] = t_ns
        self._p[self._len : need] = power_mw
        self._c[self._len : need] = cum_uj
        self._len = need

    def _sum_up(self) -> None:
        t, p = self._t[: self._len], self._p[: self._len]
        self.totals.rough = self._rough.extend(t, p, self.sensing, self.max_step_ns)
        self.totals.rough_t_ns = None

    def _gap_totals(self, t_ns: int) -> tuple[int, int, bool, float, _GapMark | None]:
        """(gap_ns, holes, in_hole, bridge_j2, the gap around it) at an instant."""
        k = bisect_right(self._gaps, t_ns, key=lambda g: g.t0_ns) - 1
        if k < 0:
            first = self._gaps[0] if self._gaps else self.totals
            return first.gap_ns, first.holes, False, first.bridge_j2, None
        g = self._gaps[k]
        inside = t_ns < g.t1_ns
        in_hole = inside and not g.bridged and t_ns > g.t0_ns
        gap_ns = g.gap_ns + min(t_ns, g.t1_ns) - g.t0_ns
        later = self._gaps[k + 1] if k + 1 < len(self._gaps) else self.totals
        bridge_j2 = g.bridge_j2 if inside else later.bridge_j2
        return gap_ns, g.holes + (not g.bridged and not inside), in_hole, bridge_j2, g if inside else None


def trapezoid_uj(t_ns: I64, power_mw: I32, until_ns: int) -> int:
    """µJ from the first of some samples to an instant not later than the last."""
    k = int(np.searchsorted(t_ns, until_ns, side="right"))
    p = power_mw.astype(np.int64)
    half_pj = int(((p[: k - 1] + p[1:k]) * np.diff(t_ns[:k])).sum())
    if k < len(t_ns) and until_ns > t_ns[k - 1]:
        u, d = until_ns - int(t_ns[k - 1]), int(t_ns[k] - t_ns[k - 1])
        half_pj += int(2 * p[k - 1]) * u + int(p[k] - p[k - 1]) * u * u // d
    return half_pj // HALF_PJ_PER_UJ


def _part(u: int, d: int, p_i: int, p_j: int, step_uj: int) -> int:
    """Energy of the first u of a step of d ns, in µJ."""
    whole = (p_i + p_j) * d
    if whole <= 0:
        return round(step_uj * u / d)
    return round(step_uj * (2 * p_i * u + (p_j - p_i) * u * u / d) / whole)


def _split_j2(t_ns: int, a_ns: int, b_ns: int, a_w: float, b_w: float, gap_j: float) -> float:
    """Variance, J², of how a bridged gap's energy divides at an instant inside it.

    The total is known, the course is not: nothing is in doubt at the gap's ends and most in its middle.
    Power in the gap is taken to differ from its mean by as much as the samples at its ends do, or half of it.
    """
    length_s = (b_ns - a_ns) / 1e9
    x = (t_ns - a_ns) / (b_ns - a_ns)
    mean_w = gap_j / length_s
    spread_w = max(abs(a_w - mean_w), abs(b_w - mean_w), mean_w / 2)
    return (spread_w * length_s * x * (1 - x)) ** 2
