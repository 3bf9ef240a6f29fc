"""How many markers a second does a daemon with eight GPUs take, until each is acknowledged?

    python tests/bench/intake.py [--quick] [--out DIR]

Two processes speak the protocol over a DEALER each with frames packed beforehand, inside the credit window,
so that what is timed is what the daemon does: decode, track, commit, acknowledge. Two mixes: counts, as a
training loop sends one a step of a long stage; and whole stages on one GPU each (begin, count, end), for
which the daemon also works out every stage's energies. A row below says what the real client reaches.

A marker is one message, journaled and acknowledged: a whole stage is three (begin, count, end), in both
rows of whole stages; divide by three for stages a second. Acknowledged means stored: energies may follow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, cpu_s, run, run_child

CLIENTS = 2


def flood(mix: str, markers: int, go_at: float) -> dict[str, Any]:
    """Send that many and wait for the last acknowledgement."""
    import zmq

    from energyd_client import clock, endpoints, process
    from energyd_client import protocol as p

    client = process.new_client_id()
    run_id = f"r-{client}"
    frames = [p.pack(p.RunBegin(1, clock.now_ns(), run_id, "flood"))]
    seq = 1
    if mix == "counts":
        stage_id, now = f"{client}.0", clock.now_ns()
        frames.append(p.pack(p.StageBegin(2, now, run_id, stage_id, "train", None, ["0"])))
        for seq in range(3, markers + 1):
            frames.append(p.pack(p.Count(seq, now + seq, run_id, stage_id, {"tokens": 4096})))
    while mix == "stages" and seq < markers:
        stage_id, now = f"{client}.{seq}", clock.now_ns()
        gpu = [str(seq // 3 % 8)]
        frames.append(p.pack(p.StageBegin(seq + 1, now, run_id, stage_id, "step", None, gpu)))
        frames.append(p.pack(p.Count(seq + 2, now + 1000, run_id, stage_id, {"tokens": 4096})))
        frames.append(p.pack(p.StageEnd(seq + 3, now + 2000, run_id, stage_id, "ok")))
        seq += 3
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoints.default_endpoint())
    socket.send(p.pack(process.hello(client)))
    welcome = p.unpack(socket.recv())
    assert isinstance(welcome, p.Welcome), welcome
    time.sleep(max(0.0, go_at - time.time()))
    began, acked, sent = time.time(), 0, 0
    while acked < len(frames):
        while sent < len(frames) and sent - acked < welcome.credit:
            socket.send(frames[sent], copy=True)
            sent += 1
        word = p.unpack(socket.recv())
        assert isinstance(word, p.Ack), word
        acked = word.seq
    ended = time.time()
    socket.send(p.pack(p.Bye()))
    socket.close(500)
    context.term()
    return {"markers": len(frames), "began": began, "ended": ended}


def real_client(markers: int) -> dict[str, Any]:
    """The same through the client, from the first call to the last acknowledgement."""
    import energyd_client as energy

    began = time.time()
    with energy.run("flood") as run:
        for k in range(markers // 3):
            with run.stage("step", devices=[k % 8]) as stage:
                stage.count(tokens=4096)
    called = time.time()
    stored = energy.flush(100)
    return {"markers": markers, "began": began, "called": called, "ended": time.time(), "stored": stored}


PARTS = {
    "flood": lambda mix, n, at: flood(mix, int(n), float(at)),
    "client": lambda n: real_client(int(n)),
}


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    from fake_nvml.build import FakeNvml, build
    from real_daemon import Daemon, wait_for

    quick = bench.options.quick
    library = build(folder / "nvml")
    if library is None:
        bench.add("markers a second", None, "/s", target=50_000, at_least=True, note="gcc missing")
        return
    machine = FakeNvml(library, folder)
    machine.control("devices 8\n")
    daemon = Daemon(folder, child_env(**machine.env)).start()
    try:
        wait_for(lambda: daemon.status()["samples"] > 0)
        assert daemon.process is not None
        pid = daemon.process.pid
        total = 0
        for mix, most in (("counts", 200_000), ("stages", 60_000)):
            cpu = cpu_s(pid)
            found = _floods(daemon.env, mix, 1_000 if quick else most)
            bench.raw[mix] = found
            n = sum(f["markers"] for f in found)
            seconds = max(f["ended"] for f in found) - min(f["began"] for f in found)
            cpu = cpu_s(pid) - cpu
            what = f"markers a second acknowledged, {CLIENTS} clients, 8 GPUs, "
            what += "counts" if mix == "counts" else "whole stages"
            note = f"{n:,} in {seconds:.1f} s, {1e6 * cpu / n:.0f} µs of the daemon's CPU each"
            bench.add(what, n / seconds, "/s", target=50_000, at_least=True, note=note)
            total += n
        mine = run_child(__file__, "--part", "client", "999" if quick else "30000", env=daemon.env)
        bench.raw["client"] = mine
        bench.add("the real client alone", mine["markers"] / (mine["ended"] - mine["began"]), "/s",
                  note=f"all stored: {mine['stored']}")  # fmt: skip
        wanted = total + mine["markers"] + 2  # begin of each run is in total; the client's begin and end not
        kept = wait_for(lambda: _stored(daemon, wanted), 60)
        bench.add("markers lost or doubled", float(abs(kept - wanted)), "markers", target=0)
        wait_for(lambda: daemon.status()["open_stages"] == 0, 60)
    finally:
        daemon.stop()


def _stored(daemon: Any, at_least: int) -> int | None:
    (row,) = daemon.query("SELECT count(*) AS n FROM markers WHERE kind NOT IN ('process', 'aborted')")
    return int(row["n"]) if row["n"] >= at_least else None


def _floods(env: dict[str, str], mix: str, markers: int) -> list[dict[str, Any]]:
    at = time.time() + 2 + markers / 60_000  # they pack before they start
    command = [sys.executable, __file__, "--part", "flood", mix, str(markers // CLIENTS), str(at)]
    children = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    found = []
    for child in children:
        out, _ = child.communicate(timeout=200)
        found.append(json.loads(out.splitlines()[-1]))
    return found


if __name__ == "__main__":
    run("intake", "how many markers a second does the daemon take?", __doc__, measure, parts=PARTS)
