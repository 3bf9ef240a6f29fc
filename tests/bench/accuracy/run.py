"""What does each tool say of the same joules? Runs loads, a daemon and all tools at once, keeps raw data.

    python3 tests/bench/accuracy/run.py --out DIR [--loads idle,square-50ms,…] [--seconds-per-load 45]

Several calls add to the same DIR. It ends by itself after --budget-seconds: a load that no longer fits is
left out, a tool that fails is noted in DIR/log and in the report. `report.py DIR` makes the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.accuracy import paths
from bench.accuracy.children import Child
from bench.accuracy.loads import KIND_OF
from bench.accuracy.options import machine, parse
from bench.accuracy.session import LIVE_TOOLS, PROBES, RECORDING_TOOLS, Recording, Ticks
from bench.accuracy.store import Daemon

PREPARE_S = {"matmul": 6, "train": 25, "decode": 45, "nothing": 1}
"""Until a load is steady, for the budget; the real time is in the log."""
SETTLE_S = 3.0


class OutOfTime(Exception):
    """The budget is spent."""


class Bench:
    """One call of the benchmark."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()
        self.out: Path = options.out
        (self.out / "log").mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="acc"))
        self.ticks_at = f"ipc://{self.scratch / 't.sock'}"
        self.live: dict[str, Child] = {}
        self.recorders: dict[str, Child] = {}
        self.players: dict[str, Child] = {}
        self.pending: Recording | None = None
        self.summary: list[str] = []
        self.session: dict[str, Any] = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": shlex.join(["python3", "tests/bench/accuracy/run.py", *options.said]),
            "python": platform.python_version(), "cores": os.cpu_count(),
            "tools": {}, "loads": {},
        }  # fmt: skip

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def left_s(self) -> float:
        return float(self.options.budget_seconds) - (time.monotonic() - self.began)

    def start(self) -> None:
        """The daemon, the reference, every tool; and the loads' imports."""
        log = self.out / "log"
        self.session["machine"] = machine()
        self.daemon = Daemon(self.scratch, log / "energyd.log")
        self.reference = Child("reference", log / "reference.log", "bench.accuracy.reference", self.ticks_at)
        if not self.reference.await_ready(20):
            raise RuntimeError(f"no reference: {self.reference.failed}; see log/reference.log")
        self.ticks = Ticks(self.ticks_at)
        for kind in dict.fromkeys(KIND_OF[name] for name in self.options.loads):
            self.players[kind] = Child(kind, log / f"load-{kind}.log", "bench.accuracy.loads", kind)
        wanted = self.options.tools
        self.daemon.wait()  # its own client must find it
        for name in [n for n in (*LIVE_TOOLS, *RECORDING_TOOLS, *PROBES) if n.partition("@")[0] in wanted]:
            group = self.live if name in LIVE_TOOLS else self.recorders
            group[name] = Child(name, log / f"{name}.log", "bench.accuracy.worker", name, self.ticks_at)
        self.await_steps()
        deadline = time.monotonic() + 45
        for group in (self.live, self.recorders):
            for name, child in list(group.items()):
                ok = child.await_ready(deadline - time.monotonic())
                self.session["tools"][name] = {"version": child.version, "failed": child.failed}
                if not ok:
                    self.say(f"tool {name} left out: {child.failed}")
                    group.pop(name).close(1)
        self.say(f"{len(self.live) + len(self.recorders)} tools are ready, the counter steps every "
                 f"{self.ticks.period_ns() / 1e6:.1f} ms")  # fmt: skip

    def await_steps(self) -> None:
        """Until the counter's period can be told. Raises RuntimeError where it does not move."""
        deadline = time.monotonic() + 15
        while len(self.ticks.rows) < 20:
            if time.monotonic() > deadline:
                raise RuntimeError("the energy counter does not step; see log/reference.log")
            time.sleep(0.05)

    def play(self, number: int, name: str) -> None:
        """One load, from its begin to its end."""
        kind, seconds = KIND_OF[name], float(self.options.seconds_per_load)
        if self.left_s() < PREPARE_S[kind] + seconds + 12:
            self.note(name, "left out: out of time")
            return
        player = self.players[kind]
        if not player.ready and not player.await_ready(90):
            self.note(name, f"failed: {player.failed}")
            return
        player.tell(load=name, seed=self.options.seed + number)
        if player.hear(120) is None:
            self.note(name, f"failed: {player.failed or 'not steady in 120 s'}")
            return
        recording = Recording(name, self.ticks, self.options.seed + number, seconds, self.options.scale)
        recording.load.meta["session"] = self.session["began"]
        recording.load.meta["tools"] = {
            tool.partition("@")[0]: [said["failed"]]
            for tool, said in self.session["tools"].items()
            if said["failed"]
        }
        recording.order(self.live)
        self.say(f"{name}: steady, {len(recording.windows)} windows in {seconds:.0f} s")
        self.finish_pending()  # the last load's, while this one's windows pass in other processes
        time.sleep(max(0.0, (recording.end_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9) + 0.3)
        player.tell(stop=True)
        recording.collect(self.live, 12)
        self.pending = recording
        recording.load.meta["did"] = player.hear(20) or {"failed": player.failed or "did not stop"}
        self.pending_since = time.monotonic()

    def finish_pending(self) -> None:
        """Write the last load down, once everybody has its samples."""
        if self.pending is None:
            return
        recording, self.pending = self.pending, None
        time.sleep(max(0.0, SETTLE_S - (time.monotonic() - self.pending_since)))
        try:
            load = recording.finish(self.ticks, self.recorders, self.out, self.daemon.store)
        except Exception as error:
            self.note(recording.load.name, f"not kept: {type(error).__name__}: {error}")
            return
        self.note(load.name, f"kept {load.meta['did']} {load.meta['tools'] or ''}")

    def note(self, name: str, what: str) -> None:
        self.session["loads"][name] = what
        self.say(f"{name}: {what}")

    def run(self) -> None:
        """All loads, grouped by process, the last model out of memory before the next one."""
        for number, name in enumerate(self.options.loads):
            kind = KIND_OF[name]
            for other in [k for k in self.players if k != kind and self.players[k].ready]:
                self.players.pop(other).close(20)
            if kind in self.players and self.players[kind].failed:
                self.players.pop(kind).close(2)
            if kind not in self.players:
                log = self.out / "log" / f"load-{kind}.log"
                self.players[kind] = Child(kind, log, "bench.accuracy.loads", kind)
            self.play(number, name)
        self.finish_pending()

    def close(self) -> None:
        """End everything that was started; write the session down."""
        path = self.out / f"session-{self.session['began'].replace(':', '')}.json"
        path.write_text(json.dumps(self.session, indent=1, default=str) + "\n")
        for child in [*self.players.values(), *self.live.values(), *self.recorders.values()]:
            child.close(2)
        for thing in ("ticks", "reference"):
            if hasattr(self, thing):
                getattr(self, thing).close()
        if hasattr(self, "daemon"):
            self.daemon.stop()
        self.say("everything is stopped")


def main() -> int:
    """Run, whatever happens write down what there is, and print the short table."""
    paths.export()
    bench = Bench(parse(sys.argv[1:], str(__doc__)))

    def out_of_time(number: int, frame: Any) -> NoReturn:
        raise OutOfTime

    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, float(bench.options.budget_seconds))
    code = 1
    try:
        bench.start()
        bench.run()
        code = 0
    except OutOfTime:
        bench.say("out of time: keeping what there is")
        signal.setitimer(signal.ITIMER_REAL, 25)
        try:
            bench.pending_since = getattr(bench, "pending_since", 0.0)
            bench.finish_pending()
        except OutOfTime:
            pass
    finally:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(3))  # a stuck child must not hold the machine
        signal.setitimer(signal.ITIMER_REAL, 40)
        bench.close()
    from bench.accuracy.report import short

    print(short(bench.out), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
