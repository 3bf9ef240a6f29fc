"""What does a stage's begin and end cost the program that is measured, beside what other tools ask?

    python tests/bench/client_cost.py [--quick] [--out DIR]

A real daemon over the simulated source; the client with its spool, sender thread and acknowledgements, in
a process of its own. Paced calls are compared with two bare appending writes of the same size to the same
folder, taken in turns in the same loop, each after the same sleep: what finds its caches cold, finds them
cold in all of them. Two more take their turns, to tell what of the rest is Python's own: the least that
reads the clock and writes (`Stamp`), and the least that is a marker (`LeastMarker`: locked, numbered,
checked, queued, current in its context, but without a name, a parent, an error or a fork to think of).
Peers measure one fake GPU whose counter burns 2.8 ms of CPU a read, as an H100's does.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, memory_mib, peers, percentile, run, run_child

COUNTER_MS = 2.8
PACES = {  # seconds between the starts of two pairs, pairs
    "every 2 ms": (0.002, 4_000),
    "every 50 ms": (0.05, 500),
}
PEERS = ("zeus-window", "codecarbon", "nvitop-1s")
PEER_NAMES = {
    "zeus-window": "ZeusMonitor begin_window + end_window",
    "codecarbon": "CodeCarbon start_task + stop_task",
    "nvitop-1s": "nvitop activate + collect + deactivate",
}


# ---- in the measured process -----------------------------------------------------------------------------


def back_to_back(rounds: int) -> dict[str, Any]:
    """Nanoseconds of a begin and end together, one pair after the other, while the sender sends."""
    import energyd_client as energy

    took: list[int] = []
    with energy.run("cost") as run:
        pairs(run, 500)
        for _ in range(rounds):
            energy.flush(60)  # the daemon is not what is asked here: what waits must not fill memory
            took += pairs(run, 2_000)
    stored = energy.flush(60)
    return {"ns": summary(took), "stored": stored, "losses": energy.losses()}


def pairs(run: Any, n: int) -> list[int]:
    took = []
    for _ in range(n):
        stage = run.stage("step")
        t = time.perf_counter_ns()
        stage.begin()
        stage.end()
        took.append(time.perf_counter_ns() - t)
    return took


def paced(period_s: float, n: int, folder: Path, computing: bool) -> dict[str, Any]:
    """A pair, two bare writes and both kinds of floor in turns, evenly spaced over the period."""
    import energyd_client as energy
    from energyd_client import lifetime

    stop = threading.Event()
    if computing:
        threading.Thread(target=compute, args=(stop,), daemon=True).start()
    fd = os.open(folder / f"bare-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    with energy.run("cost") as run:
        run.stage("step").begin().end()
        box = lifetime.opened()
        assert box is not None
        size = box.spool.size
        stage = run.stage("step").begin()
        middle = box.spool.size
        stage.end()
        first, second = os.urandom(middle - size), os.urandom(box.spool.size - middle)

        def bare() -> int:
            t = time.perf_counter_ns()
            os.write(fd, first)
            os.write(fd, second)
            return time.perf_counter_ns() - t

        turns: dict[str, Callable[[], int]] = {
            "ns": lambda: pairs(run, 1)[0],
            "write_ns": bare,
            "stamp_ns": lambda: pair(Stamp(fd, first, second)),
            "least_ns": lambda: pair(LeastMarker(fd, first[24:], second[24:])),
        }
        took: dict[str, list[int]] = {name: [] for name in turns}
        for _ in range(n):
            for name, turn in turns.items():
                time.sleep(period_s / len(turns))
                took[name].append(turn())
    stop.set()
    os.close(fd)
    stored = energy.flush(60)
    return {**{name: summary(ns) for name, ns in took.items()}, "bytes": [len(first), len(second)],
            "stored": stored, "losses": energy.losses()}  # fmt: skip


def wake(n: int) -> dict[str, Any]:
    """What it would cost a marker each 50 ms to wake the sender."""
    import energyd_client as energy
    from energyd_client import lifetime

    took = []
    with energy.run("cost"):
        box = lifetime.opened()
        assert box is not None
        assert box._sender is not None
        for _ in range(n):
            time.sleep(0.05)
            t = time.perf_counter_ns()
            box._sender.wake()
            took.append(time.perf_counter_ns() - t)
    return {"ns": summary(took)}


def pair(stage: Any) -> int:
    t = time.perf_counter_ns()
    stage.begin()
    stage.end()
    return time.perf_counter_ns() - t


class Stamp:
    """The clock and one write at either end."""

    def __init__(self, fd: int, first: bytes, second: bytes) -> None:
        self.fd, self.first, self.second = fd, first, second

    def begin(self) -> None:
        self.t0_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        os.write(self.fd, self.first)

    def end(self) -> None:
        self.t1_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        os.write(self.fd, self.second)


class LeastMarker(Stamp):
    """What no marker in Python can do without, in as few calls as that takes."""

    lock = threading.RLock()
    queue: ClassVar[deque[tuple[int, bytes]]] = deque(maxlen=1_000)
    here: ContextVar[Any] = ContextVar("here", default=None)
    seq = 0

    def begin(self) -> None:
        t_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with self.lock:
            seq = LeastMarker.seq = LeastMarker.seq + 1
            data = b"".join((seq.to_bytes(8, "big"), t_ns.to_bytes(8, "big"), self.first))
            os.write(self.fd, b"".join((zlib.crc32(data).to_bytes(8, "little"), data)))
            self.queue.append((seq, data))
        self.outer = self.here.get()
        self.here.set(self)

    def end(self) -> None:
        t_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with self.lock:
            seq = LeastMarker.seq = LeastMarker.seq + 1
            data = b"".join((seq.to_bytes(8, "big"), t_ns.to_bytes(8, "big"), self.second))
            os.write(self.fd, b"".join((zlib.crc32(data).to_bytes(8, "little"), data)))
            self.queue.append((seq, data))
        self.here.set(self.outer)


def compute(stop: threading.Event) -> None:
    """A thread that never lets go of the interpreter lock by itself."""
    x = 1
    while not stop.is_set():
        for _ in range(1000):
            x = x * 1_103_515_245 % 2_147_483_647


def growth(markers: int, parts: int) -> dict[str, Any]:
    """Memory and spool after each part, once all of it is acknowledged; stages with 18 counts each."""
    import energyd_client as energy
    from energyd_client import lifetime

    seen = []
    began = time.monotonic()
    with energy.run("growth") as run:
        for part in range(parts):
            for i in range(markers // parts // 20):
                with run.stage("step") as stage:
                    for _ in range(18):
                        stage.count(tokens=4096)
                if i % 500 == 499:
                    energy.flush(100)  # what waits fills memory, at most 10,000 markers: growth is asked
            energy.flush(100)
            box = lifetime.opened()
            assert box is not None
            time.sleep(0.05)  # the spool shrinks just after the flush is told
            rss = memory_mib(os.getpid(), "VmRSS")
            seen.append(((part + 1) * markers // parts, rss, box.spool.size / 2**20))
    return {"seen": seen, "stored": energy.flush(60), "losses": energy.losses(),
            "markers_s": markers / (time.monotonic() - began)}  # fmt: skip


def start() -> dict[str, Any]:
    """CPU and memory of the import and of the first marker, in this fresh process."""
    before_mib, before_s = memory_mib("self", "VmRSS"), time.process_time()
    import energyd_client as energy

    imported_s, imported_mib = time.process_time(), memory_mib("self", "VmRSS")
    with energy.run("start") as run:
        with run.stage("first"):
            pass
        marked_s, marked_mib = time.process_time(), memory_mib("self", "VmRSS")
    return {"import_ms": 1000 * (imported_s - before_s), "import_mib": imported_mib - before_mib,
            "first_ms": 1000 * (marked_s - imported_s), "first_mib": marked_mib - imported_mib}  # fmt: skip


def free(rounds: int) -> dict[str, Any]:
    """Nanoseconds of a pair where ENERGYD_DISABLE is set."""
    import energyd_client as energy

    with energy.run("cost") as run:
        took = [ns for _ in range(rounds) for ns in pairs(run, 2_000)]
    return {"ns": summary(took), "zmq": "zmq" in sys.modules, "threads": threading.active_count()}


def sender(seconds: float) -> dict[str, Any]:
    """Share of a core that the sender takes with a marker each half second, and with none."""
    import energyd_client as energy
    from energyd_client.sender import ALERT_S

    found = {}
    with energy.run("cost") as run, run.stage("step") as stage:
        for name, marking in (("alert", True), ("idle", False)):
            time.sleep(0.5 if marking else ALERT_S + 0.5)
            began_s, began = time.process_time(), time.monotonic()
            while time.monotonic() < began + seconds:
                time.sleep(0.5)
                if marking:
                    stage.count(n=1)
            found[name] = (time.process_time() - began_s) / (time.monotonic() - began)
    return found


def peer(name: str, seconds: float) -> dict[str, Any]:
    """The same pair of calls on another tool."""
    sys.path += peers()
    from bench.accuracy.tools import LIVE

    tool = LIVE[name]()
    took: list[int] = []
    for _ in range(3):
        tool.begin("warm")
        tool.end("warm")
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(took) < 10:
        t = time.perf_counter_ns()
        tool.begin("step")
        tool.end("step")
        took.append(time.perf_counter_ns() - t)
    tool.close()
    return {"ns": summary(took), "version": tool.version}


def summary(ns: list[int]) -> dict[str, float]:
    return {"n": len(ns), "p50": percentile(ns, 0.5), "p90": percentile(ns, 0.9), "p99": percentile(ns, 0.99),
            "max": max(ns), "mean": sum(ns) / len(ns)}  # fmt: skip


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "back_to_back": lambda n: back_to_back(int(n)),
    "paced": lambda s, n, folder, computing: paced(float(s), int(n), Path(folder), computing == "1"),
    "growth": lambda n, parts: growth(int(n), int(parts)),
    "start": start,
    "free": lambda n: free(int(n)),
    "wake": lambda n: wake(int(n)),
    "sender": lambda s: sender(float(s)),
    "peer": lambda name, s: peer(name, float(s)),
}


# ---- the whole -------------------------------------------------------------------------------------------


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    from fake_nvml.build import FakeNvml, build
    from real_daemon import Daemon

    quick = bench.options.quick
    daemon = Daemon(folder, child_env()).start(source="simulated")
    try:
        env = {**daemon.env}
        mine = run_child(__file__, "--part", "back_to_back", "1" if quick else "8", env=env)
        bench.raw["back_to_back"] = mine
        p50_us = mine["ns"]["p50"] / 1000
        library = build(folder / "nvml")
        peer_rows = [(name, *_peer(library, folder, name, 0.2 if quick else 5, FakeNvml)) for name in PEERS]
        bench.raw["peers"] = {name: found for name, found, _ in peer_rows}
        for i, (name, found, why) in enumerate(peer_rows):
            what = "begin + end, back to back, p50" + (f", beside {name.partition('-')[0]}" if i else "")
            known = PEER_NAMES[name] + (f" {found['version']}" if found else "")
            bench.add(what, p50_us, "µs", target=15 if not i else None, peer=known, note=why,
                      peer_figure=found and found["ns"]["p50"] / 1000)  # fmt: skip
        bench.add("begin + end, back to back, p99", mine["ns"]["p99"] / 1000, "µs")
        _start_and_idle(bench, env, quick)
        for name, (period_s, n) in PACES.items():
            _paced(bench, name, period_s, 20 if quick else n, daemon, folder, computing=False)
        _paced(bench, "every 10 ms beside a computing thread", 0.01, 20 if quick else 500, daemon, folder,
               computing=True)  # fmt: skip
        _growth(bench, 2_000 if quick else 1_000_000, env)
    finally:
        daemon.stop()


def _peer(library: Path | None, folder: Path, name: str, seconds: float, fake: Any) -> tuple[Any, Any]:
    if library is None:
        return None, "gcc missing: no fake NVML library"
    machine = fake(library, folder)
    machine.control(f"burn_ms {COUNTER_MS} counter\n")
    smi = folder / "bin" / "nvidia-smi"  # CodeCarbon believes in NVIDIA GPUs where this command answers
    smi.parent.mkdir(exist_ok=True)
    smi.write_text("#!/bin/sh\necho fake\n")
    smi.chmod(0o755)
    try:
        env = child_env(**{k: machine.env[k] for k in ("LD_LIBRARY_PATH", "FAKE_NVML_CONTROL")})
        env["PATH"] = f"{smi.parent}:{env['PATH']}"
        return run_child(__file__, "--part", "peer", name, str(seconds), env=env), ""
    except (RuntimeError, ValueError, OSError) as error:
        return None, str(error)[:200]


def _paced(
    bench: Bench, name: str, period_s: float, n: int, daemon: Any, folder: Path, *, computing: bool
) -> None:
    arguments = [str(period_s), str(n), str(folder), str(int(computing))]
    found = run_child(__file__, "--part", "paced", *arguments, env=daemon.env)
    bench.raw[name] = found
    for which in ("p50", "p99"):
        pair, write = found["ns"][which], found["write_ns"][which]
        bench.add(f"begin + end, {name}, {which}, over two bare writes", pair / write, "times", target=2,
                  note=f"{pair / 1000:.1f} µs against {write / 1000:.1f} µs, {n} of each")  # fmt: skip
        for key, what in (("stamp_ns", "clock and write alone"), ("least_ns", "the least that is a marker")):
            floor = found[key][which]
            bench.add(f"… {what}, {which}", floor / write, "times", note=f"{floor / 1000:.1f} µs")


def _start_and_idle(bench: Bench, env: dict[str, str], quick: bool) -> None:
    tries = 1 if quick else 7  # the least: noise only adds
    disabled = {**env, "ENERGYD_DISABLE": "1"}
    for name, where in (("", env), (", ENERGYD_DISABLE=1", disabled)):
        starts = [run_child(__file__, "--part", "start", env=where) for _ in range(tries)]
        bench.raw[f"start{name}"] = starts
        for key, what in (("import", "import"), ("first", "first run and stage")):
            bench.add(f"{what}{name}, CPU", min(s[f"{key}_ms"] for s in starts), "ms")
            bench.add(f"{what}{name}, memory", min(s[f"{key}_mib"] for s in starts), "MiB")
    found = bench.raw["free"] = run_child(__file__, "--part", "free", "1" if quick else "8", env=disabled)
    bench.add("begin + end, back to back, ENERGYD_DISABLE=1, p50", found["ns"]["p50"] / 1000, "µs",
              note=f"zmq imported: {found['zmq']}, threads: {found['threads']}")  # fmt: skip
    found = bench.raw["sender"] = run_child(__file__, "--part", "sender", "1" if quick else "10", env=env)
    bench.add("the sender, a marker each 0.5 s", 100 * found["alert"], "% of a core")
    bench.add("the sender, no markers", 100 * found["idle"], "% of a core")
    found = bench.raw["wake"] = run_child(__file__, "--part", "wake", "5" if quick else "200", env=env)
    bench.add("waking the sender, which no marker does, every 50 ms, p50", found["ns"]["p50"] / 1000, "µs")


def _growth(bench: Bench, markers: int, env: dict[str, str]) -> None:
    found = run_child(
        __file__, "--part", "growth", str(markers), "4" if bench.options.quick else "20", env=env
    )
    bench.raw["growth"] = found
    (_, first_mib, _), *_, (_, last_mib, _) = found["seen"]
    note = f"from {first_mib:.1f} MiB; {found['losses'] or 'nothing'} lost; all stored: {found['stored']}"
    bench.add(f"memory that {markers:,} markers add to the client", last_mib - first_mib, "MiB", target=1,
              note=note)  # fmt: skip
    bench.add(
        "largest spool after its acknowledgements", max(s for _, _, s in found["seen"]), "MiB", target=4
    )


if __name__ == "__main__":
    run("client_cost", "what do a stage's begin and end cost the program?", __doc__, measure, parts=PARTS)
