"""How much energy had a device used at an instant? The running integral, its gaps, unions of spans.

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
from numpy.typing import NDArray

HALF_PJ_PER_UJ: Final = 2_000_000
GUARD_NS: Final = 120_000_000_000
"""How much of the past stays in memory after its hour is sealed, for markers that come late."""

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Edge:
    """A device's running totals at one instant. All count since the store began."""

    t_ns: int
    e_uj: int
    n: int  # samples at or before t
    gap_ns: int  # time spent in gaps before t
    holes: int  # gaps that nothing bridges, ended before t
    in_hole: bool = False


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


@dataclass
class _GapMark:
    """A gap with the totals before it."""

    t0_ns: int
    t1_ns: int
    bridged: bool
    gap_ns: int
    holes: int


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
        self._t = np.empty(4096, np.int64)
        self._p = np.empty(4096, np.int32)
        self._c = np.empty(4096, np.int64)
        self._len = 0
        self._gaps: list[_GapMark] = []
        if totals.t_ns is not None:  # the last stored sample begins the next step
            self._t[0], self._p[0], self._c[0] = totals.t_ns, totals.power_mw, totals.cum_uj
            self._len = 1

    def preload(self, t_ns: I64, power_mw: I32, cum_uj: I64, gaps: list[Gap]) -> None:
        """Take over the stored samples of the unsealed hour, the newest of which the totals describe."""
        if not len(t_ns):
            return
        self._len = 0
        self._store(t_ns, power_mw, cum_uj)
        gap_ns = self.totals.gap_ns - sum(g.t1_ns - g.t0_ns for g in gaps)
        holes = self.totals.holes - sum(g.bridged_uj is None for g in gaps)
        for g in gaps:
            self._gaps.append(_GapMark(g.t0_ns, g.t1_ns, g.bridged_uj is not None, gap_ns, holes))
            gap_ns += g.t1_ns - g.t0_ns
            holes += g.bridged_uj is None

    @property
    def last_t_ns(self) -> int | None:
        """Newest sample; None before the first."""
        return self.totals.t_ns

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
        return Appended(t_ns, power_mw, cum)

    def append_after_gap(self, t_ns: int, power_mw: int, reason: str, bridged_uj: int | None) -> Appended:
        """Add the one sample that ends a gap. `bridged_uj` None makes the gap a hole."""
        tot = self.totals
        assert tot.t_ns is not None
        gap = Gap(tot.t_ns, t_ns, reason, bridged_uj)
        bridged = bridged_uj is not None
        self._gaps.append(_GapMark(gap.t0_ns, gap.t1_ns, bridged, tot.gap_ns, tot.holes))
        tot.gap_ns += gap.t1_ns - gap.t0_ns
        tot.holes += not bridged
        tot.cum_uj += bridged_uj or 0
        tot.t_ns, tot.power_mw = t_ns, power_mw
        tot.n += 1
        added = Appended(np.array([t_ns]), np.array([power_mw], np.int32), np.array([tot.cum_uj]), [gap])
        self._store(added.t_ns, added.power_mw, added.cum_uj)
        return added

    def edge_at(self, t_ns: int) -> Edge | Missing | None:
        """Totals at an instant; None while no sample follows it yet."""
        last = self.totals.t_ns
        if last is None or t_ns > last:
            return None
        i = int(np.searchsorted(self._t[: self._len], t_ns, side="right")) - 1
        if i < 0:
            started = self.totals.n <= self._len
            return Missing("before_first_sample" if started else "marker_too_late")
        n = self.totals.n - (self._len - 1 - i)
        gap_ns, holes, in_hole = self._gap_totals(t_ns)
        t_i, c_i = int(self._t[i]), int(self._c[i])
        if t_ns == t_i:
            return Edge(t_ns, c_i, n, gap_ns, holes, in_hole)
        t_j, c_j = int(self._t[i + 1]), int(self._c[i + 1])
        e_uj = c_i + _part(t_ns - t_i, t_j - t_i, int(self._p[i]), int(self._p[i + 1]), c_j - c_i)
        return Edge(t_ns, e_uj, n, gap_ns, holes, in_hole)

    def after(self, t_ns: int | None, until_ns: int | None = None) -> tuple[I64, I32, I64]:
        """Copies of the samples later than t_ns (all in memory if None) and not later than until_ns."""
        lo = 0 if t_ns is None else int(np.searchsorted(self._t[: self._len], t_ns, side="right"))
        hi = self._len
        if until_ns is not None:
            hi = int(np.searchsorted(self._t[: self._len], until_ns, side="right"))
        return self._t[lo:hi].copy(), self._p[lo:hi].copy(), self._c[lo:hi].copy()

    def trim(self, before_ns: int) -> None:
        """Forget samples older than before_ns less the guard; their hour is sealed."""
        cut = int(np.searchsorted(self._t[: self._len], before_ns - GUARD_NS))
        cut = min(cut, self._len - 1)  # the newest starts the next step
        if cut <= 0:
            return
        for array in (self._t, self._p, self._c):
            array[: self._len - cut] = array[cut : self._len].copy()
        self._len -= cut
        oldest = int(self._t[0])
        self._gaps = [g for g in self._gaps if g.t1_ns >= oldest]

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

    def _gap_totals(self, t_ns: int) -> tuple[int, int, bool]:
        """(gap_ns, holes, in_hole) at an instant."""
        k = bisect_right(self._gaps, t_ns, key=lambda g: g.t0_ns) - 1
        if k < 0:
            if not self._gaps:
                return self.totals.gap_ns, self.totals.holes, False
            return self._gaps[0].gap_ns, self._gaps[0].holes, False
        g = self._gaps[k]
        inside = t_ns < g.t1_ns
        in_hole = inside and not g.bridged and t_ns > g.t0_ns
        gap_ns = g.gap_ns + min(t_ns, g.t1_ns) - g.t0_ns
        return gap_ns, g.holes + (not g.bridged and not inside), in_hole


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


@dataclass(frozen=True)
class Span:
    """A piece of time on one device, with the running integral at both ends (None: unknown)."""

    a_ns: int
    a_uj: int | None
    b_ns: int
    b_uj: int | None


class SpanUnion:
    """The union of spans, so that time under two stages counts once. Spans come mostly in order of end."""

    def __init__(
        self, spans: list[Span] | None = None, folded_ns: int = 0, folded_uj: int | None = 0
    ) -> None:
        self.spans = spans or []
        self.folded_ns = folded_ns
        self.folded_uj = folded_uj

    def add(self, new: Span) -> None:
        """Add one span, merging with what it touches."""
        if new.b_ns <= new.a_ns:
            return
        later: list[Span] = []
        while self.spans and self.spans[-1].a_ns > new.b_ns:
            later.append(self.spans.pop())
        while self.spans and self.spans[-1].b_ns >= new.a_ns:
            old = self.spans.pop()
            a = old if old.a_ns <= new.a_ns else new
            b = old if old.b_ns >= new.b_ns else new
            new = Span(a.a_ns, a.a_uj, b.b_ns, b.b_uj)
        self.spans.append(new)
        self.spans.extend(reversed(later))

    def fold(self, safe_ns: int) -> None:
        """Add up what ended before safe_ns, where no span can begin any more (a step loop has millions)."""
        while self.spans and self.spans[0].b_ns < safe_ns:
            self.folded_ns, self.folded_uj = _plus(self.folded_ns, self.folded_uj, self.spans.pop(0))

    def total(self) -> tuple[int, int | None]:
        """(ns, µJ) of the union; µJ None if any end is unknown."""
        ns, uj = self.folded_ns, self.folded_uj
        for span in self.spans:
            ns, uj = _plus(ns, uj, span)
        return ns, uj


def _plus(ns: int, uj: int | None, span: Span) -> tuple[int, int | None]:
    """A sum of time and energy with one more span; an unknown end makes the energy unknown."""
    ns += span.b_ns - span.a_ns
    if uj is None or span.a_uj is None or span.b_uj is None:
        return ns, None
    return ns, uj + span.b_uj - span.a_uj
