"""What does the daemon itself cost on a machine with eight GPUs: CPU, memory, and does it stay in time?

    python tests/bench/daemon_cost.py [--quick] [--out DIR] [--seconds 40]

A real daemon over the fake NVML library with eight devices, whose calls burn the CPU time that an H100's
driver does: ring 0.5 ms, counter 3 ms. The library counts what is spent inside its calls. Three spells:
nothing else; 100 markers a second from the real client; readers that query all the time while an hour ends
and is sealed. A CodeCarbon child, where the CPU is estimated by one, is told apart.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, cpu_s, memory_mib, run

RING_MS, COUNTER_MS = 0.5, 3.0
BURN = f"devices 8\nburn_ms {RING_MS} nvmlDeviceGetSamples\nburn_ms {COUNTER_MS} counter\n"
SETTLE_S = 8.0  # the first live files are written 2 s after the start


@dataclass
class Spell:
    """What a process used between two looks, in CPU seconds."""

    wall_s: float
    cpu_s: float
    nvml_s: float

    @property
    def percent(self) -> float:
        """Of one core."""
        return 100 * self.cpu_s / self.wall_s

    @property
    def outside_percent(self) -> float:
        """Of one core, outside NVML calls."""
        return 100 * (self.cpu_s - self.nvml_s) / self.wall_s


class Watch:
    """A daemon's CPU time and how much of it lay inside NVML."""

    def __init__(self, pid: int, spent: Path) -> None:
        self.pid, self._spent = pid, spent

    def look(self) -> tuple[float, float, float]:
        """Now: s on the wall, of CPU, of CPU in NVML calls."""
        nvml_ns, _ = struct.unpack("qq", self._spent.read_bytes())
        return time.monotonic(), cpu_s(self.pid), nvml_ns / 1e9

    def over(self, seconds: float) -> Spell:
        """The next so many seconds."""
        before = self.look()
        time.sleep(seconds)
        return Spell(*(b - a for a, b in zip(before, self.look(), strict=True)))


def hundred_a_second(seconds: str) -> dict[str, bool]:
    """In a process of its own: 100 markers a second, as stages with a count."""
    import energyd_client as energy

    with energy.run("steady") as run:
        until = time.monotonic() + float(seconds)
        due = time.monotonic()
        while time.monotonic() < until:
            with run.stage("step", devices=[0]) as stage:
                stage.count(tokens=4096)
            due += 0.03
            time.sleep(max(0.0, due - time.monotonic()))
    return {"stored": energy.flush(20)}


def late_in_the_hour(store: Path, before_end_s: float) -> None:
    """A store whose time, fixed at an earlier start in this boot, stands so long before an hour's end."""
    from energyd.store import HOUR_NS, Layout
    from energyd.store.columns import schema
    from energyd.store.write import Batch, HotStore
    from energyd_client import clock

    store.mkdir()
    hot = HotStore(Layout(store))
    end = (time.time_ns() // HOUR_NS + 1) * HOUR_NS
    now = end - int(before_end_s * 1e9)
    facts = {"boot_id": clock.boot_id(), "t_ns": now, "offset_ns": now - clock.now_ns(), "version": "0"}
    hot.hour(end // HOUR_NS - 1)
    hot.commit(Batch(rows={"boots": [tuple(facts.get(column) for column, _ in schema()["boots"])]}))
    hot.close()


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    from fake_nvml.build import FakeNvml, build
    from real_daemon import Daemon

    quick, seconds = bench.options.quick, bench.options.seconds
    settle = SETTLE_S
    if quick:
        seconds, settle = 1.0, 1.0
    library = build(folder / "nvml")
    if library is None:
        bench.add("CPU without markers", None, "% of a core", target=3, note="gcc missing")
        return
    machine = FakeNvml(library, folder)
    machine.control(BURN)
    spent = folder / "spent"
    daemon = Daemon(folder, child_env(**machine.env, FAKE_NVML_SPENT=str(spent)))
    # The hour ends in the midst of the last spell.
    late_in_the_hour(daemon.store, settle + 2.5 * seconds + 4)
    daemon.start()
    try:
        assert daemon.process is not None
        watch = Watch(daemon.process.pid, spent)
        time.sleep(settle)
        plain = watch.over(seconds)
        busy = _with_markers(watch, daemon, seconds)
        late_ms, queries = _with_readers(daemon, seconds)
        status = daemon.status()
        sealed = list((daemon.store / "sealed" / "samples").glob("*/*.parquet"))
        peak = memory_mib(daemon.process.pid, "VmHWM")
        child = [(pid, cpu_s(pid)) for pid in _children(daemon.process.pid)]
    finally:
        daemon.stop()
    _tell(bench, plain, busy)
    note = f"{queries} queries, {len(sealed)} hour sealed meanwhile; reads of the last minute"
    bench.add("sampler's lateness p99 while readers query", late_ms, "ms", target=20, note=note)
    bench.add("memory at its peak", peak, "MiB", target=250, note="a short hour; hours.py seals whole ones")
    bench.add("gaps meanwhile", float(status["gaps"]), "gaps", target=0)
    bench.raw["children_cpu_s"] = [s for _, s in child]
    for _, used in child:
        bench.add("CodeCarbon's child since the start", used, "CPU s", note="estimates the CPU: no RAPL here")


def _tell(bench: Bench, plain: Spell, busy: Spell) -> None:
    bench.raw |= {"plain": vars(plain), "busy": vars(busy)}
    nvml = 100 * plain.nvml_s / plain.wall_s
    bench.add("CPU without markers", plain.percent, "% of a core", target=3,
              note=f"{nvml:.2f} % inside NVML calls, over {plain.wall_s:.0f} s")  # fmt: skip
    bench.add("of it outside NVML calls", plain.outside_percent, "% of a core", target=1)
    bench.add("what 100 markers a second add", busy.outside_percent - plain.outside_percent, "% of a core",
              target=3, note=f"{busy.percent:.2f} % in all")  # fmt: skip


def _with_markers(watch: Watch, daemon: Any, seconds: float) -> Spell:
    command = [sys.executable, __file__, "--part", "markers", str(seconds + 2)]
    with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE) as program:
        time.sleep(1)
        spell = watch.over(seconds)
        program.communicate()
    return spell


def _with_readers(daemon: Any, seconds: float) -> tuple[float | None, int]:
    """Lateness p99 of the sampler while readers ask for a sum over everything, again and again."""
    until = time.monotonic() + seconds
    asked: list[int] = []

    def ask() -> None:
        while time.monotonic() < until:
            sums = "SELECT device, count(*) AS n, max(cum_uj) AS e FROM samples GROUP BY device"
            assert daemon.run("energyq", "--store", str(daemon.store), sums).returncode == 0
            asked.append(1)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return daemon.status()["late_ms_p99"], len(asked)


def _children(pid: int) -> list[int]:
    """Child processes."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


if __name__ == "__main__":
    run(
        "daemon_cost", "what does the daemon cost beside eight GPUs?", __doc__, measure,
        more=[("--seconds", {"type": float, "default": 40.0, "help": "of each of three spells"})],
        parts={"markers": hundred_a_second},
    )  # fmt: skip
