"""Is what ran beside a stage and inside it found, whatever the order and however much is forgotten?

Random stages, settled in rounds with restarts between, against the plain definition: every pair looked at,
moment by moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from daemon.test_accounting import Machine, S
from energyd import activity
from energyd_client import protocol as p

TENTH = S // 10


@dataclass(frozen=True)
class Plan:
    """One stage: times in tenths of a second."""

    stage_id: str
    run_id: str
    parent_id: str | None
    above: tuple[str, ...]
    t0: int
    t1: int
    gpu: bool  # else it names no GPU, and is charged for the CPU alone


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    made: list[Plan] = []
    for k in range(draw(st.integers(1, 14))):
        parent = draw(st.sampled_from([None, *made])) if made else None
        t0 = draw(st.integers(10, 90))
        made.append(
            Plan(
                f"s{k}", parent.run_id if parent else draw(st.sampled_from("ab")),
                parent and parent.stage_id, (*parent.above, parent.stage_id) if parent else (),
                # A child mostly lies in its parent, but may outlive it.
                t0 if parent is None else max(t0, parent.t0), t0 + draw(st.integers(0, 40)) if parent is None
                else max(t0, parent.t0) + draw(st.integers(0, 20)), draw(st.booleans()),
            )
        )  # fmt: skip
    return made


def by_definition(of: Plan, others: list[Plan], device: int) -> tuple[int, int, bool]:
    """(tenths beside, tenths under children, whether another run was beside), every tenth looked at."""
    there = [o for o in others if o is not of and (device == 1 or o.gpu)]
    strangers = [o for o in there if o.stage_id not in of.above and of.stage_id not in o.above]
    children = [o for o in there if o.parent_id == of.stage_id]

    def tenths(who: list[Plan]) -> int:
        return sum(any(o.t0 <= t < o.t1 for o in who) for t in range(of.t0, of.t1))

    met = any(o.run_id != of.run_id and o.t0 < of.t1 and of.t0 < o.t1 for o in strangers)
    return tenths(strangers), tenths(children), met


@pytest.mark.parametrize("fold_at", [2, 1024])
@settings(max_examples=60, deadline=None)
@given(found=plans(), rounds=st.lists(st.integers(10, 140), max_size=6), restarts=st.booleans())
def test_overlaps_and_childrens_shares_are_those_of_the_plain_definition(
    fold_at: int, found: list[Plan], rounds: list[int], restarts: bool
) -> None:
    by_id = {x.stage_id: x for x in found}
    # Another daemon no longer knows what was around a stage that is over.
    assume(not restarts or all(x.parent_id is None or x.t0 <= by_id[x.parent_id].t1 for x in found))
    machine = Machine()
    machine.sample(0, 20)
    events = [(x.t0, 0, k, p.StageBegin, {"name": "x", "parent_id": x.parent_id,
               "devices": ["0"] if x.gpu else []}) for k, x in enumerate(found)]  # fmt: skip
    events += [(x.t1, 1, k, p.StageEnd, {"status": "ok"}) for k, x in enumerate(found)]
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity, "FOLD_AT", fold_at)
        looks = sorted({*rounds, 200})
        for t, _, k, cls, fields in sorted(events, key=lambda e: (e[0], e[1], e[2])):
            while looks and looks[0] <= t:  # stages that end later are open then
                rows |= _round(machine, looks.pop(0), rows, found, restarts)
            of = {"stage_id": found[k].stage_id, "run_id": found[k].run_id, "client": found[k].run_id}
            assert machine.mark(cls, t / 10, **of, **fields) is None
        rows |= _round(machine, 200, rows, found, restarts)
    for plan in found:
        for device in (0, 1) if plan.gpu else (1,):
            row = rows[plan.stage_id, device]
            beside, inside, met = by_definition(plan, found, device)
            watts = machine.watts[device]
            assert row["overlap_ns"] == beside * TENTH, plan
            assert row["exclusive_uj"] == pytest.approx((plan.t1 - plan.t0 - beside) * watts * 1e5, abs=40)
            assert row["self_uj"] == pytest.approx((plan.t1 - plan.t0 - inside) * watts * 1e5, abs=40)
            assert bool({"shared_gpu", "shared_cpu"} & set(row["flags"])) == met, plan
    assert machine.tracker.stages == {}


def _round(
    machine: Machine, t: int, rows: dict[Any, Any], found: list[Plan], restart: bool
) -> dict[tuple[str, int], dict[str, Any]]:
    """What a round settles; then the daemon is another one, which has what the store would give it."""
    new = machine.settle(t / 10)
    if restart:
        parents = {x.stage_id: x.parent_id for x in found}
        machine.restart([(r["stage_id"], r["run_id"], parents[r["stage_id"]], r["t0_ns"], r["t1_ns"],
                          r["device"]) for r in (rows | new).values()])  # fmt: skip
    return new


def test_a_stage_meets_only_those_that_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.sample(0, 20)
    for k in range(400):  # ended one after the other, and all pending
        machine.begin(k / 100, f"s{k}", devices=["0"])
        machine.end(k / 100 + 0.005, f"s{k}")
    met: list[int] = []
    meeting = activity.Activity._meeting

    def counted(self: activity.Activity, lo_ns: int, hi_ns: int) -> Any:
        found = list(meeting(self, lo_ns, hi_ns))
        met.append(len(found))
        return iter(found)

    monkeypatch.setattr(activity.Activity, "_meeting", counted)
    assert len(machine.settle(20)) == 800
    assert max(met) == 1  # itself
    assert np.sum(met) == 800
