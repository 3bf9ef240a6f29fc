"""Is memory bounded while commits are refused for days, and is what goes a gap that says so?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energyd import timeline
from energyd.inbox import Declared, Inbox
from energyd.ledger import Ledger
from energyd.recorder import Recorder
from energyd.sources import DeviceInfo, PowerSamples
from energyd.store import HOUR_NS, Layout
from energyd.store.live import LiveFiles
from energyd.store.load import load
from energyd.store.write import HotStore, StoreError
from energyd_client import clock
from energyd_client import protocol as p

MS = 1_000_000
BOUND = 1_000


class Deaf:
    """A voice that nobody hears."""

    def refuse(self, client: str, refusal: p.Refusal) -> None: ...
    def acknowledge(self, acks: dict[str, int]) -> None: ...
    def publish(self, topic: str, message: p.Message) -> None: ...


def device(k: int) -> DeviceInfo:
    name = f"GPU-{k}"
    return DeviceInfo(
        uuid=name, domain="gpu", name=name, source="simulated", period_ns=20 * MS, max_step_ns=100 * MS
    )


class Desk:
    """A recorder with two devices of 100 W, and a disk that can be full."""

    def __init__(self, folder: Path) -> None:
        self.layout, self.line = Layout(folder), timeline.begin(None, None)
        self.store = HotStore(self.layout)
        loaded = load(self.layout, self.store, clock.boot_id(), self.line.now_ns() // HOUR_NS)
        ledger = Ledger(self.line, {}, "reboot")
        self.recorder = Recorder(
            self.store, LiveFiles(self.layout), self.line, ledger, Inbox(), Deaf(), loaded
        )
        self.recorder.committing.max_waiting = BOUND
        devices = [device(k) for k in (0, 1)]
        self.recorder.taking.declare(Declared(devices, []), self.line.now_ns())
        self.t_ns = clock.now_ns()
        self.commit = self.store.commit

    def seconds(self, n: int) -> None:
        """Samples of so many seconds, a tick each."""
        for _ in range(n):
            t = self.t_ns + np.arange(50) * 20 * MS
            self.t_ns += 1000 * MS
            power = np.full(50, 100_000, np.int32)
            self.recorder.inbox.put_events([PowerSamples(f"GPU-{k}", t, power) for k in (0, 1)])
            self.recorder.tick()

    def full(self, full: bool) -> None:
        def refused(batch: Any) -> None:
            raise StoreError("no space")

        self.store.commit = refused if full else self.commit  # type: ignore[method-assign]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def waiting(desk: Desk) -> int:
    return sum(len(added.t_ns) for _, added in desk.recorder.committing.batch.samples)


@pytest.mark.fault("The store's disk is full for hours")
def test_while_commits_are_refused_the_oldest_samples_make_way_and_are_a_bridged_gap(desk: Desk) -> None:
    desk.seconds(2)
    desk.full(True)
    for _ in range(10):
        desk.seconds(5)
        assert waiting(desk) <= BOUND
        assert desk.recorder.ledger.logs[0]._len <= BOUND // 2 + 100  # memory of the ledger too
    assert "oldest" in (desk.recorder.degraded or "")
    desk.full(False)
    desk.seconds(1)
    assert desk.recorder.degraded is None
    gaps = desk.store.fetch("SELECT device, t0_ns, t1_ns, reason, bridged_uj FROM gaps ORDER BY device")
    assert [(gap[0], gap[3]) for gap in gaps] == [(0, "unstored"), (1, "unstored")]
    for _, t0, t1, _, bridged in gaps:
        assert bridged == (t1 - t0) // 10  # 100 W
    steps = desk.store.fetch(
        "SELECT device, t0, t1, uj FROM (SELECT device, t_ns AS t1, lag(t_ns) OVER w AS t0,"
        " cum_uj - lag(cum_uj) OVER w AS uj FROM samples WINDOW w AS (PARTITION BY device ORDER BY t_ns))"
        f" WHERE t1 - t0 > {100 * MS} ORDER BY device"
    )
    assert steps == [(d, t0, t1, uj) for d, t0, t1, _, uj in gaps]
    log = desk.recorder.ledger.logs[0]
    first, last = (log.edge_at(int(t)) for t in (log._t[0], log._t[log._len - 1]))
    assert last.e_uj - first.e_uj == (last.t_ns - first.t_ns) // 10  # type: ignore[union-attr]
    assert last.gap_ns - first.gap_ns == gaps[0][2] - gaps[0][1]  # type: ignore[union-attr]
    assert last.holes == first.holes  # type: ignore[union-attr]


@pytest.mark.fault(
    "The store's disk is full for hours",
    seen="`energyd status`: DEGRADED, and how many samples have made way.",
    lost="Beyond 1,440,000 waiting samples (an hour of 8 GPUs at 50 Hz) the oldest: a gap `unstored`, "
    "bridged by the running integral. Markers stay in their programs' spools, costs of stages in memory.",
)
def test_a_hole_among_what_makes_way_keeps_its_energy_unknown(desk: Desk) -> None:
    desk.seconds(2)
    desk.full(True)
    desk.seconds(3)
    desk.t_ns += 2000 * MS  # silence that nothing bridges
    desk.seconds(30)
    desk.full(False)
    desk.seconds(1)
    gaps = desk.store.fetch("SELECT device, reason, bridged_uj FROM gaps ORDER BY device")
    assert gaps == [(0, "unstored", None), (1, "unstored", None)]
    log = desk.recorder.ledger.logs[0]
    first, last = (log.edge_at(int(t)) for t in (log._t[0], log._t[log._len - 1]))
    assert last.holes == first.holes + 1  # type: ignore[union-attr]
