"""How often does a stage's stated doubt hold the truth, and how wide is it?

Known loads, the daemon's own way: samples and counter reads go into the ledger, markers into the tracker,
and rows of `energies` come out of the accountant. `make bench-coverage` prints the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
from energyd.sources import CounterRead, DeviceInfo, PowerSamples, SensorInfo
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


def energies(
    rng: np.random.Generator, device: DeviceInfo, load: Load, windows: list[tuple[int, int]],
    hole: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The daemon's rows for some windows of a load. `hole`: nothing is sampled there."""
    if device.source == "ring":
        t_ns, power_mw = ring(rng, load, LENGTH_NS)
    else:
        window_ns = S if device.source == "average" else int(rng.choice([25, 100])) * MS
        t_ns, power_mw = polled(rng, load, LENGTH_NS, window_ns, device.lag_ns)
    ledger = Ledger(Timeline("boot", 0), {}, "daemon_down")
    ledger.declare([device], [], 0)
    tracker = Tracker()
    accountant = Accountant(tracker, ledger.logs, ledger.known)
    accountant.counters = ledger.tracks
    accountant.devices = {
        0: Device(device.source, "measured", device.period_ns, 0.05, 5.0, counter_period_ns(device))
    }
    seq = count(1)

    def mark(cls: type, t_ns: int, **fields: Any) -> None:
        message = cls(seq=next(seq), t_ns=t_ns, run_id="r", **fields)
        assert tracker.apply(Incoming("c", message, t_ns, t_ns, uid=0, pid=1)) is None

    read = counter(rng, load) if device.sensors else None
    phase = int(rng.integers(0, S))
    edges = sorted(
        [(a, "begin", f"{k:02}") for k, (a, _) in enumerate(windows)]
        + [(b, "end", f"{k:02}") for k, (_, b) in enumerate(windows)]
    )
    for now in range(S, LENGTH_NS + 3 * S, S // 2):  # as the recorder's rounds: markers, samples, settling
        while edges and edges[0][0] <= now:
            t, kind, name = edges.pop(0)
            if kind == "begin":
                mark(p.StageBegin, t, stage_id=name, name=name)
            else:
                mark(p.StageEnd, t, stage_id=name, status="ok")
        blind = hole is not None and hole[0] <= now < hole[1] + S // 2
        new = (t_ns > now - S // 2) & (t_ns <= now)
        if hole is not None:
            new &= (t_ns < hole[0]) | (t_ns > hole[1])
        if new.any():
            ledger.samples_in(PowerSamples("GPU-a", t_ns[new], power_mw[new]), now)
        if read is not None and now % S == 0 and not blind and now < LENGTH_NS:
            at = now - S // 2 + phase // 2
            ledger.counter_in(CounterRead("GPU-a", at, read(at)))
        ledger.settle(now)
        accountant.resolve_begins()
        accountant.settle(now)
    rows = [dict(zip(NAMES, row, strict=True)) for row in tracker.rows["energies"]]
    return sorted(rows, key=lambda row: row["stage_id"])


def random_windows(rng: np.random.Generator, hole: tuple[int, int] | None = None) -> list[tuple[int, int]]:
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

    error_j: list[float]
    u_j: list[float]

    @property
    def share(self) -> float:
        return float(np.mean(np.abs(self.error_j) <= np.array(self.u_j)))

    @property
    def lower_bound(self) -> float:
        """Of the true share, 95 % sure (Wilson)."""
        n, x, z = len(self.u_j), self.share, 1.645
        middle = x + z * z / (2 * n)
        return (middle - z * math.sqrt(x * (1 - x) / n + z * z / (4 * n * n))) / (1 + z * z / n)

    @property
    def width(self) -> float:
        """Median half-width over the 95th percentile of the real error."""
        return float(np.median(self.u_j) / np.percentile(np.abs(self.error_j), 95))


SOURCES = ["ring", "instant", "average", "counter bridge"]


def measure(source: str, loads: int, seed: int = 1) -> Coverage:
    rng = np.random.default_rng(seed)
    coverage = Coverage([], [])
    bridge = source == "counter bridge"
    device = INFOS["ring" if bridge else source]
    done = 0
    while done < loads:
        load = random_load(rng, LENGTH_NS)
        if source == "instant" and is_near_a_period(load):
            continue
        done += 1
        hole = None
        if bridge:
            begin = int(rng.integers(5 * S, LENGTH_NS - 10 * S))
            hole = (begin, begin + int(rng.uniform(0.3, 5) * S))
        windows = random_windows(rng, hole)
        for row, (a, b) in zip(energies(rng, device, load, windows, hole), windows, strict=True):
            assert ("bridged" in row["flags"]) == bridge
            coverage.error_j.append(row["energy_uj"] / 1e6 - float(load.energy_j(b) - load.energy_j(a)))
            coverage.u_j.append(row["u_random_uj"] / 1e6)
    return coverage
