"""Does the stated doubt hold the truth where power comes through nvidia-ml-py and a driver's sensors?

Fake GPUs play random loads (tests/daemon/closed_form.py) in real time; what GpuSource reports of them
goes through the ledger and the accountant, as in tests/daemon/coverage.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from daemon.closed_form import MS, Load, S, is_near_a_period, random_load
from daemon.coverage import Coverage, settle
from daemon.sources.conftest import Drive, Outcome
from energyd.sources import CounterRead, Event, PowerSamples
from fake_nvml.build import FakeNvml

LOAD_NS = 4 * S
PIECE_NS = 24 * S  # each device plays its own piece of the curve: some four loads while one looks
SECONDS = 17.0
WINDOWS = 2080


def pieces(rng: np.random.Generator, devices: int) -> Load:
    """One curve: a random load every few seconds, none of them near a sensor's period."""
    t, w = [np.zeros(0, np.int64)], [np.zeros(0)]
    at, end = 0, devices * PIECE_NS
    while at < end:
        load = random_load(rng, LOAD_NS)
        if not is_near_a_period(load):
            inside = load.t_ns < min(LOAD_NS, end - at) - 10 * MS
            t.append(load.t_ns[inside] + at)
            w.append(load.w[inside])
            at += LOAD_NS
    return Load("pieces", np.append(np.concatenate(t), end), np.append(np.concatenate(w), w[1][0]))


class Truth:
    """The curve as every device plays it: again and again, each a piece ahead of the one before."""

    def __init__(self, curve: Load) -> None:
        self.curve = curve
        self.length_ns = int(curve.t_ns[-1])

    def energy_j(self, device: int, t_ns: int) -> float:
        rounds, rest = divmod(t_ns + device * PIECE_NS, self.length_ns)
        return rounds * float(self.curve.energy_j(self.length_ns)) + float(self.curve.energy_j(rest))


def cut(events: list[Event], hole: tuple[int, int]) -> list[Event]:
    """As if nobody had sampled in a hole."""
    left: list[Event] = []
    for e in events:
        if isinstance(e, PowerSamples):
            keep = (e.t_ns < hole[0]) | (e.t_ns > hole[1])
            if keep.any():
                left.append(replace(e, t_ns=e.t_ns[keep], power_mw=e.power_mw[keep]))
        elif not (isinstance(e, CounterRead) and hole[0] < e.t_ns < hole[1]):
            left.append(e)
    return left


@dataclass
class Scene:
    """What one fake machine is, and what of it is judged."""

    source: str
    devices: int
    holes: int  # windows are spread over so many cuts of each device's samples
    script: str


SCENES = [
    Scene("ring", 16, 1, "jitter_ms 8\n"),
    Scene("counter bridge", 4, 40, "jitter_ms 8\n"),  # few, so that each counter is read every 4 s
    Scene("instant", 16, 1, "missing ring\nmissing counter\n"),
    Scene("average", 16, 1, "missing ring\nmissing instant\nmissing counter\n"),
]


def measure(scene: Scene, curve: Load, outcome: Outcome, rng: np.random.Generator) -> Coverage:
    """Windows of what a source has reported, settled and set beside the truth."""
    truth = Truth(curve)
    coverage = Coverage()
    assert len(outcome.devices) == scene.devices
    for info in outcome.devices * scene.holes:
        index = info.index or 0
        events = [e for e in outcome.events if getattr(e, "uuid", None) == info.uuid]
        t_ns = np.concatenate([e.t_ns for e in events if isinstance(e, PowerSamples)])
        first, last = int(t_ns[0]) + MS, int(t_ns[-1]) - S
        hole = None
        if scene.source == "counter bridge":
            a = int(rng.integers(first + 4 * S, last - 7 * S))
            hole = (a, a + int(rng.uniform(0.3, 2.5) * S))
            events = cut(events, hole)
        windows: list[tuple[int, int]] = []
        while len(windows) < WINDOWS // scene.devices // scene.holes:
            length = int(np.exp(rng.uniform(np.log(0.2), np.log(8))) * S)
            a = int(rng.integers(first, last - length))
            if hole is None or (a < hole[1] and a + length > hole[0]):
                windows.append((a, a + length))
        for row, (a, b) in zip(settle(info, events, windows), windows, strict=True):
            assert ("bridged" in row["flags"]) == (hole is not None), row
            assert row["source"] == ("ring" if hole else scene.source)
            coverage.add("", row, truth.energy_j(index, b) - truth.energy_j(index, a))
        coverage.clusters.append(len(windows))
    return coverage


def test_the_doubt_of_what_the_fake_driver_shows_holds_the_truth_and_is_not_lazily_wide(
    fake_nvml_library: Path, tmp_path: Path, drive: Drive
) -> None:
    rng = np.random.default_rng(5)
    curves = {}
    with ThreadPoolExecutor() as pool:  # four machines at once: each takes its time in real time
        running = {}
        for scene in SCENES:
            folder = tmp_path / scene.source
            folder.mkdir()
            machine = FakeNvml(fake_nvml_library, folder)
            curve = curves[scene.source] = pieces(rng, scene.devices)
            machine.play(list(zip(curve.t_ns.tolist(), (curve.w * 1000).tolist(), strict=True)))
            machine.control(f"devices {scene.devices}\nahead_ms {PIECE_NS / MS:.0f}\n{scene.script}")
            running[scene.source] = pool.submit(drive, seconds=SECONDS, deadline_s=40.0, env=machine.env)
        outcomes = {source: future.result() for source, future in running.items()}
    for scene in SCENES:
        coverage = measure(scene, curves[scene.source], outcomes[scene.source], rng)
        assert len(coverage.u_j) >= 2000
        assert coverage.lower_bound >= 0.93, (scene.source, coverage.share)
        assert coverage.width <= 3, (scene.source, coverage.width)
