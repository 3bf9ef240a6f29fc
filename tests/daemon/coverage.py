"""How often does a stage's stated doubt hold the truth, and how wide is it?

Known loads, the daemon's own way: samples and counter reads go into the ledger, markers into the tracker,
and rows of `energies` come out of the accountant. `make bench-coverage` prints the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from daemon.closed_form import (  # fmt: skip
    MS,
    PERIOD_NS,
    SENSOR_NS,
    Load,
    S,
    counter,
    is_near_a_period,
    polled,
    random_load,
    ring,
)
from energyd.accounting import Accountant
from energyd.doubt import Device
from energyd.ledger import Ledger
from energyd.sensing import counter_period_ns
from energyd.sources import CounterRead, DeviceInfo, Event, PowerSamples, SensorInfo
from energyd.stages import Incoming
from energyd.store.columns import schema
from energyd.timeline import Timeline
from energyd.tracker import Tracker
from energyd_client import protocol as p

LENGTH_NS = 40 * S
WINDOWS_A_LOAD = 4
COUNTER = SensorInfo(sensor="counter", state="answers", period_ns=SENSOR_NS)
NAMES = [c for c, _ in schema()["energies"]]


def info(source: str, period_ns: int, max_step_ns: int, lag_ns: int, *, has_counter: bool) -> DeviceInfo:
    return DeviceInfo(
        uuid="GPU-a", domain="gpu", name="GPU", source=source, period_ns=period_ns, max_step_ns=max_step_ns,
        lag_ns=lag_ns, accuracy=0.05, sensors=(COUNTER,) if has_counter else (),
    )  # fmt: skip


INFOS = {
    "ring": info("ring", PERIOD_NS, 100 * MS, PERIOD_NS // 2, has_counter=True),
    "instant": info("instant", SENSOR_NS, 500 * MS, SENSOR_NS // 2, has_counter=False),
    "average": info("average", SENSOR_NS, 500 * MS, SENSOR_NS // 2 + S // 2, has_counter=False),
}


Window = tuple[int, int]


class Books:
    """Ledger, tracker and accountant of one device, driven as the recorder drives them."""

    def __init__(self, device: DeviceInfo, windows: list[Window]) -> None:
        self.ledger = Ledger(Timeline("boot", 0), {}, "daemon_down")
        self.ledger.declare([device], [], 0)
        self.tracker = Tracker()
        self.accountant = Accountant(self.tracker, self.ledger.logs, self.ledger.known)
        self.accountant.counters = self.ledger.tracks
        self.accountant.devices = {
            0: Device(device.source, "measured", device.period_ns, 0.05, 5.0, counter_period_ns(device))
        }
        self._seq = count(1)
        begins = [(a, p.StageBegin, f"{k:05}", {"name": "window"}) for k, (a, _) in enumerate(windows)]
        ends = [(b, p.StageEnd, f"{k:05}", {"status": "ok"}) for k, (_, b) in enumerate(windows)]
        self._markers = sorted([*begins, *ends], key=lambda m: m[0])

    def round(self, now_ns: int, events: list[Event]) -> None:
        """Markers up to now, what the source said, and what can be settled."""
        while self._markers and self._markers[0][0] <= now_ns:
            t_ns, cls, stage, fields = self._markers.pop(0)
            message = cls(seq=next(self._seq), t_ns=t_ns, run_id="r", stage_id=stage, **fields)
            assert self.tracker.apply(Incoming("c", message, t_ns, t_ns, uid=0, pid=1)) is None
        for event in events:
            if isinstance(event, PowerSamples):
                self.ledger.samples_in(event, now_ns)
            elif isinstance(event, CounterRead):
                self.ledger.counter_in(event)
        self.ledger.settle(now_ns)
        self.accountant.resolve_begins()
        self.accountant.settle(now_ns)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `energies`, in the order of the windows."""
        rows = [dict(zip(NAMES, row, strict=True)) for row in self.tracker.rows["energies"]]
        return sorted(rows, key=lambda row: row["stage_id"])


def settle(device: DeviceInfo, events: list[Event], windows: list[Window]) -> list[dict[str, Any]]:
    """The daemon's rows for windows of what a source has reported of one device."""
    books = Books(device, windows)
    now_ns = 0
    for event in events:
        if isinstance(event, PowerSamples):
            now_ns = max(now_ns, int(event.t_ns[-1]) + device.lag_ns)
        books.round(now_ns, [event])
    books.round(now_ns + 3 * S, [])
    return books.rows()


def energies(
    rng: np.random.Generator,
    device: DeviceInfo,
    load: Load,
    windows: list[Window],
    hole: Window | None = None,
    round_ns: int = S // 2,
) -> list[dict[str, Any]]:
    """The daemon's rows for windows of a load. `hole`: nothing is sampled there.

    `round_ns`: how much the recorder takes at once; the daemon's half second unless a test is to be quick.
    """
    if device.source == "ring":
        t_ns, power_mw = ring(rng, load, LENGTH_NS)
    else:
        window_ns = S if device.source == "average" else int(rng.choice([25, 100])) * MS
        t_ns, power_mw = polled(rng, load, LENGTH_NS, window_ns, device.lag_ns)
    if hole is not None:
        seen = (t_ns < hole[0]) | (t_ns > hole[1])
        t_ns, power_mw = t_ns[seen], power_mw[seen]
    read = counter(rng, load) if device.sensors else None
    phase = int(rng.integers(0, S // 2))
    books = Books(device, windows)
    for before in range(S // 2, LENGTH_NS + 5 * S // 2, round_ns):
        now = before + round_ns
        events: list[Event] = []
        new = (t_ns > before) & (t_ns <= now)
        if new.any():
            events.append(PowerSamples("GPU-a", t_ns[new], power_mw[new]))
        for second in range(before // S + 1, now // S + 1):
            at = second * S - S // 2 + phase
            blind = hole is not None and hole[0] <= at <= hole[1]
            if read is not None and not blind and second * S < LENGTH_NS:
                events.append(CounterRead("GPU-a", at, read(at)))
        books.round(now, events)
    return books.rows()


def random_windows(rng: np.random.Generator, hole: Window | None = None) -> list[Window]:
    found = []
    while len(found) < WINDOWS_A_LOAD:
        length = int(np.exp(rng.uniform(np.log(0.2), np.log(30))) * S)
        a = int(rng.integers(2 * S, LENGTH_NS - length - 2 * S))
        if hole is None or (a < hole[1] and a + length > hole[0]):
            found.append((a, a + length))
    return found


@dataclass
class Coverage:
    """Windows with a known truth."""

    error_j: list[float] = field(default_factory=list)
    u_j: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    aliased: int = 0  # windows with that flag
    clusters: list[int] = field(default_factory=list)  # windows of each load: they share its luck

    def add(self, kind: str, row: dict[str, Any], truth_j: float) -> None:
        """One row of energies, and what is true."""
        self.error_j.append(row["energy_uj"] / 1e6 - truth_j)
        self.u_j.append(row["u_random_uj"] / 1e6)
        self.kinds.append(kind)
        self.aliased += "aliased" in row["flags"]

    @property
    def share(self) -> float:
        return float(np.mean(np.abs(self.error_j) <= np.array(self.u_j)))

    @property
    def lower_bound(self) -> float:
        """Of the true share, 95 % sure: by the spread between loads, whose windows are not independent."""
        held = (np.abs(self.error_j) <= np.array(self.u_j)).astype(float)
        ends = np.cumsum(self.clusters)
        by_load = np.array([part.sum() for part in np.split(held, ends[:-1])])
        missed = np.array(self.clusters) * self.share - by_load
        n = len(self.clusters)
        error = math.sqrt(float((missed**2).sum()) * n / max(n - 1, 1)) / len(held)
        return self.share - 1.645 * error

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """(share held, median half-width over p95 of the error) of each kind of load."""
        found = {}
        for kind in sorted(set(self.kinds)):
            mine = np.array(self.kinds) == kind
            error, u = np.abs(np.array(self.error_j)[mine]), np.array(self.u_j)[mine]
            found[kind] = (
                float(np.mean(error <= u)),
                float(np.median(u) / max(np.percentile(error, 95), 1e-9)),
            )
        return found

    @property
    def width(self) -> float:
        """Median half-width over the 95th percentile of the real error."""
        return float(np.median(self.u_j) / np.percentile(np.abs(self.error_j), 95))


SOURCES = ["ring", "instant", "average", "counter bridge"]


def measure(
    source: str, loads: int, seed: int = 1, *, with_counter: bool = False, round_ns: int = S // 2
) -> Coverage:
    """Windows of random loads; instant power is spared those near its period. A ring has a counter anyway."""
    rng = np.random.default_rng(seed)
    coverage = Coverage()
    bridge = source == "counter bridge"
    device = INFOS["ring" if bridge else source]
    if with_counter:
        device = replace(device, sensors=(COUNTER,))
    while len(coverage.clusters) < loads:
        load = random_load(rng, LENGTH_NS)
        if source == "instant" and is_near_a_period(load):
            continue
        hole = None
        if bridge:
            begin = int(rng.integers(5 * S, LENGTH_NS - 10 * S))
            hole = (begin, begin + int(rng.uniform(0.3, 5) * S))
        windows = random_windows(rng, hole)
        rows = energies(rng, device, load, windows, hole, round_ns)
        for row, (a, b) in zip(rows, windows, strict=True):
            assert ("bridged" in row["flags"]) == bridge
            coverage.add(load.kind, row, float(load.energy_j(b) - load.energy_j(a)))
        coverage.clusters.append(len(windows))
    return coverage
