"""Does the daemon's memory stay flat over a day, whole hours sealed on the way? What does the day cost then?

    python tests/bench/hours.py [--quick] [--out DIR] [--hours 24]

A day in a minute or two: the daemon's own recorder, ledger and store in one process, on a clock that this
file moves. Eight devices at 50 Hz, a stage, a counter read of each and a commit a minute, live files every
10 minutes, a seal every hour. Sockets and samplers are left out: daemon_cost.py has those. Of a whole day the
child process then makes one file, and thins it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, memory_mib, run

DEVICES = 8
GRID_NS = 20_000_000
SECOND = 1_000_000_000
STEP_S = 60
EXPORT_S = 600
FLAT_MIB = 0.05  # an hour: 0.4 GiB a year, of a daemon that upgrades restart


class Silent:
    """The recorder's Voice, with nobody to speak to."""

    def refuse(self, client: str, refusal: Any) -> None:
        raise AssertionError(refusal)

    def acknowledge(self, acks: dict[str, int]) -> None: ...

    def publish(self, topic: str, message: Any) -> None: ...


class Day:
    """A recorder whose time is moved by hand; BOOTTIME and store time are the same."""

    boot_id, offset_ns = "boot", 0

    def __init__(self, folder: Path) -> None:
        from energyd.inbox import Declared, Inbox
        from energyd.ledger import Ledger
        from energyd.recorder import Recorder
        from energyd.sources import DeviceInfo, DomainInfo
        from energyd.store import HOUR_NS, Layout
        from energyd.store.live import LiveFiles
        from energyd.store.load import load
        from energyd.store.write import HotStore

        self.now = self.began = 20_000 * 24 * HOUR_NS  # midnight, UTC
        self.inbox = Inbox()
        layout = Layout(folder)
        self.store = HotStore(layout)
        loaded = load(layout, self.store, "boot", self.now // HOUR_NS)
        ledger = Ledger(self, loaded.devices, "reboot")  # type: ignore[arg-type]
        self.recorder = Recorder(
            self.store, LiveFiles(layout), self, ledger, self.inbox, Silent(), loaded  # type: ignore[arg-type]
        )  # fmt: skip
        self.infos = [
            DeviceInfo(
                uuid=f"GPU-{d}", domain="gpu", name="Fake", source="ring", period_ns=GRID_NS,
                max_step_ns=100_000_000, power_limit_mw=700_000, accuracy=0.05, index=d, depth=119,
            )
            for d in range(DEVICES)
        ]  # fmt: skip
        self.inbox.put_events(
            [Declared(self.infos, [DomainInfo(domain="gpu", state="measured", source="ring")])]
        )
        self._rng = np.random.default_rng(1)
        self._seq = 0
        self._counter_mj = np.zeros(DEVICES, np.int64)

    def to_store(self, boottime_ns: int) -> int:
        """Timeline."""
        return boottime_ns

    def now_ns(self) -> int:
        """Timeline."""
        return self.now

    def step(self) -> None:
        """The next minute comes in and is committed."""
        from energyd.sources import CounterRead, Event, PowerSamples

        t = self.now + np.arange(1, STEP_S * SECOND // GRID_NS + 1, dtype=np.int64) * GRID_NS
        events: list[Event] = []
        for d, info in enumerate(self.infos):
            power = self._rng.integers(300_000, 600_000, len(t), dtype=np.int32)
            events.append(PowerSamples(info.uuid, t, power))
            self._counter_mj[d] += int(power.sum()) // 50
            events.append(CounterRead(info.uuid, int(t[-1]), int(self._counter_mj[d])))
        self.now += STEP_S * SECOND
        self.inbox.put_events(events)
        self.inbox.put_markers(self._markers())
        # What the recorder does once a minute of real time at most, it may do at any time of this one.
        self.recorder.keeping.next_seal = 0.0
        self.recorder.keeping.next_export = float("inf") if self.now % (EXPORT_S * SECOND) else 0.0
        self.recorder.tick()

    def _markers(self) -> list[Any]:
        """A stage of eight seconds."""
        from energyd.stages import Incoming
        from energyd_client import protocol as p

        t0, t1 = self.now - 9 * SECOND, self.now - SECOND
        stage_id = f"s{self._seq}"
        words = [p.StageBegin(0, t0, "run", stage_id, "step"), p.StageEnd(0, t1, "run", stage_id, "ok")]
        found = []
        for word in words:
            self._seq += 1
            word.seq = self._seq
            found.append(Incoming("client", word, word.t_ns, self.now, 0, 0, 0, None))
        return found


def trend(seen: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope of a straight line through the points, and its standard error."""
    if len(seen) < 3:
        raise SystemExit("too few hours were sealed to tell a trend: give --hours 5 or more")
    x, y = np.array(seen).T
    slope, level = np.polyfit(x, y, 1)
    rest = y - (slope * x + level)
    return float(slope), float(np.sqrt((rest @ rest) / (len(x) - 2) / ((x - x.mean()) @ (x - x.mean()))))


def afterwards(bench: Bench, folder: Path) -> None:
    """What making one file of the day takes, and thinning it, in the process that does it."""
    (day,) = (folder / "sealed" / "samples").iterdir()
    for what, more in (("made one file", []), ("thinned", ["--thin"])):
        command = [sys.executable, "-m", "energyd.store.upkeep_files", str(folder), day.name, *more]
        before, peak = resource.getrusage(resource.RUSAGE_CHILDREN), 0.0
        with subprocess.Popen(command, env=child_env()) as child:
            while child.poll() is None:
                peak = max(peak, _peak_mib(child.pid))
                time.sleep(0.005)
        if child.returncode:
            raise SystemExit(f"upkeep_files ended with {child.returncode}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        bench.add(f"the day {what}", cpu, "CPU s", note="its process from start to end")
        bench.add(f"the day {what}: peak of its process", peak, "MiB", target=250)


def _peak_mib(pid: int) -> float:
    """Highest so far; 0 of a process that has just ended."""
    try:
        return memory_mib(pid, "VmHWM")
    except OSError:
        return 0.0


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    hours = 6 if bench.options.quick else bench.options.hours
    step_s = 600 if bench.options.quick else STEP_S
    day = Day(folder)
    seen: list[tuple[float, float]] = []
    while (day.now - day.began) / SECOND < hours * 3600 + STEP_S:  # the last hour is sealed as well
        before = len(day.recorder.keeping.sealed.get("samples", []))
        day.step()
        if step_s > STEP_S:  # quick: the rest of the time passes without samples
            day.now += (step_s - STEP_S) * SECOND
        if len(day.recorder.keeping.sealed.get("samples", [])) > before:
            seen.append(((day.now - day.began) / 3600e9, memory_mib(os.getpid(), "VmRSS")))
    if day.recorder.degraded:
        raise SystemExit(f"the recorder is degraded: {day.recorder.degraded}")
    n = day.recorder.ledger.samples
    settled = seen[len(seen) // 4 :]  # the allocators' first hours are not a trend
    slope, error = trend(settled)
    day.store.close()
    peak = memory_mib(os.getpid(), "VmHWM")
    bench.raw |= {"hour_and_rss_mib": seen, "samples": n}
    bench.add(f"memory at its peak, {len(seen)} whole hours sealed", peak, "MiB", target=250,
              note=f"{n:,} samples, {DEVICES} devices")  # fmt: skip
    after = ", ".join(f"{mib:.0f}" for _, mib in settled)
    # Flat: even the most that the trend may be (95 %) is next to nothing. Noise must not pass for that.
    note = f"trend {slope:.3f}, standard error {error:.3f}; after each seal: {after} MiB"
    most = max(0.0, slope + 2 * error)
    bench.add("memory that an hour adds, at the most (95 %)", most, "MiB", target=FLAT_MIB, note=note)
    if hours == 24:
        afterwards(bench, folder)


if __name__ == "__main__":
    run(
        "hours", "does the daemon's memory stay flat over a day?", __doc__, measure,
        more=[("--hours", {"type": int, "default": 24})],
    )  # fmt: skip
