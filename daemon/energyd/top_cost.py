"""What did a stage cost so far, as far as a watcher can know?

Joules of an open stage: the running integral now less that at its begin. A total is a number only when
every domain in it is; tokens are the stage's own and its descendants'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from energyd.top_state import IN_TOTAL, S_NS, Stage, TopState, add_counts
from energyd_client.protocol import StageState

SETTLE_NS: Final = 3 * S_NS
"""A domain that a stage has no begin energy for by then is not charged to it; before, it may be late."""

UNITS: Final = ("label", "generated", "nonpad", "positions")
"""Denominators of J/token in order of preference where only one is shown."""


@dataclass(frozen=True)
class Cost:
    """What a stage took so far. `joules` per domain, None: not known (yet); `counts` own + descendants.

    `complete` is false when descendants may have counted before we listened: then the counts are
    lower bounds and J/token upper bounds.
    """

    seconds: float
    joules: dict[str, float | None]
    total_j: float | None
    counts: dict[str, int]
    complete: bool

    def mean_w(self) -> float | None:
        """Mean power of the total in watts; None without a total."""
        return None if self.total_j is None or self.seconds <= 0 else self.total_j / self.seconds

    def unit(self) -> str | None:
        """The denominator to show where there is room for one."""
        counted = [u for u, n in self.counts.items() if n > 0]
        return min(counted, key=lambda u: (UNITS.index(u) if u in UNITS else len(UNITS), u), default=None)

    def j_per(self, unit: str) -> float | None:
        """Joules of the total per `unit`; None without either."""
        n = self.counts.get(unit, 0)
        return None if self.total_j is None or n == 0 else self.total_j / n


def cost_of(state: TopState, stage: Stage, local_ns: int) -> Cost:
    """What `stage` took until now, or until its end."""
    word = stage.word
    end_ns = word.t1_ns if word.t1_ns is not None else state.now_ns(local_ns)
    seconds = max(0, end_ns - word.t0_ns) / S_NS
    joules = _joules(state, word)
    settled = word.state == "final" or seconds * S_NS > SETTLE_NS
    waiting = not settled and any(
        d.domain in IN_TOTAL and d.domain not in joules for d in state.devices.values()
    )
    parts = [joules[d] for d in IN_TOTAL if d in joules]
    known = [p for p in parts if p is not None]
    whole = parts and len(known) == len(parts) and not waiting and not state.unreadable()
    counts = _counts(state, stage)
    return Cost(seconds, joules, sum(known) if whole else None, counts, _complete(state, stage))


def _joules(state: TopState, word: StageState) -> dict[str, float | None]:
    """Joules per domain. Open: integral now less integral at the begin. Ended: None, pending."""
    joules: dict[str, float | None] = {}
    for number in word.energy_uj if word.state == "final" else word.begin_uj:
        device = state.devices.get(number)
        if device is None:
            continue
        part_uj: int | None = None
        if word.state == "final":
            part_uj = word.energy_uj[number]
        elif word.state == "open" and device.cum_uj is not None:
            # Below 0 only while our newest sample is older than the begin: not known yet.
            rise_uj = device.cum_uj - word.begin_uj[number]
            part_uj = rise_uj if rise_uj >= 0 else None
        before = joules.get(device.domain, 0.0)
        joules[device.domain] = None if part_uj is None or before is None else before + part_uj / 1e6
    return joules


def _counts(state: TopState, stage: Stage) -> dict[str, int]:
    total: dict[str, int] = {}
    pending = [stage]
    while pending:
        one = pending.pop()
        add_counts(total, one.word.counts)
        add_counts(total, one.forgotten_counts)
        if one.had_children:
            pending += [s for s in state.stages.values() if s.word.parent_id == one.word.stage_id]
    return total


def _complete(state: TopState, stage: Stage) -> bool:
    if not stage.had_children or state.first_local_ns is None:
        return True
    return stage.word.t0_ns >= state.now_ns(state.first_local_ns)
