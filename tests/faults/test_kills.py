"""Is every marker whose call returned stored once, whoever is killed and when?"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from real_daemon import Daemon, wait_for

# Writes what returned to a file of its own after each call: what a kill -9 leaves there is the truth.
CLIENT = """
import os, sys, time
import energyd_client as energy
path, markers, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
run = energy.run("r").begin()
def returned(kind, key): os.write(fd, f"{run.run_id} {kind} {key}\\n".encode())
returned("run_begin", "")
for i in range(markers // 3):
    stage = run.stage("s").begin()
    returned("begin", stage.stage_id)
    time.sleep(pause_s)
    run.metric("m", i)
    returned("metric", float(i))
    time.sleep(pause_s)
    stage.end()
    returned("end", stage.stage_id)
    time.sleep(pause_s)
run.end()
returned("run_end", "")
"""


class Client:
    """A program that marks until it is through, or killed."""

    def __init__(self, daemon: Daemon, path: Path, markers: int, pause_s: float) -> None:
        self.path, self.killed = path, False
        command = [sys.executable, "-c", CLIENT, str(path), str(markers), str(pause_s)]
        self.process = subprocess.Popen(command, env=daemon.env, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.killed = self.process.poll() is None
        self.process.kill()
        self.process.wait()

    def returned(self) -> set[tuple[str, str, str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return {tuple(line.split(" ")) for line in text.splitlines()}  # type: ignore[misc]


def havoc(daemon: Daemon, folder: Path, clients: int, markers: int, kills: int, pause_s: float) -> None:
    """Kill `kills` times, a fifth of them the daemon; then compare what returned with what is stored."""
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)  # noqa: T201 (shown when it fails)
    rng = random.Random(seed)
    daemon.start(source="simulated")
    made: list[Client] = []

    def start_client() -> None:
        made.append(Client(daemon, folder / f"returned-{len(made)}", markers, pause_s))

    try:
        for _ in range(clients):
            start_client()
        done: Counter[str] = Counter()
        while done.total() < kills or not done["daemon"]:
            time.sleep(rng.uniform(0.05, 0.5))
            if rng.random() < 0.2:
                daemon.kill()
                done["daemon"] += 1
                daemon.start(source="simulated", wait=False)
                continue
            alive = [c for c in made if c.process.poll() is None and c.path.exists()]
            if alive:
                victim = rng.choice(alive)
                victim.kill()
                done["client"] += victim.killed
                start_client()
        for client in made:
            client.process.wait(timeout=300)
    finally:
        for client in made:
            client.process.kill()
            client.process.wait()
    assert done["daemon"] + done["client"] >= kills, done
    wait_for(daemon.holder)
    try:
        wait_for(lambda: not list(daemon.spool.glob("*.spool")), 30)
    except AssertionError:
        left = {p.name: p.stat().st_size for p in daemon.spool.iterdir()}
        raise AssertionError(f"not collected: {left}\n{daemon.log.read_text()[-3000:]}") from None
    compare(daemon, made)
    before = daemon.query("SELECT count(*) AS n FROM samples")[0]["n"]
    wait_for(lambda: daemon.query("SELECT count(*) AS n FROM samples")[0]["n"] > before)
    reasons = {row["reason"] for row in daemon.query("SELECT DISTINCT reason FROM gaps")}
    assert reasons <= {"daemon_down"}, reasons
    wait_for(lambda: not daemon.status()["open_stages"])


def compare(daemon: Daemon, made: list[Client]) -> None:
    rows = daemon.query(
        "SELECT client, seq, run_id, kind, stage_id, body->>'value' AS value FROM markers "
        "WHERE seq IS NOT NULL AND kind <> 'process'"
    )
    assert len({(r["client"], r["seq"]) for r in rows}) == len(rows), "a marker is stored twice"
    keys = [(r["run_id"], r["kind"], r["value"] or r["stage_id"] or "") for r in rows]
    assert [k for k, n in Counter(keys).items() if n > 1] == [], "a marker is stored twice under two numbers"
    stored: dict[str, set[tuple[str, str, str]]] = {}
    for key in keys:
        stored.setdefault(key[0], set()).add(key)
    known: set[str] = set()
    for client in made:
        returned = client.returned()
        for run_id in {key[0] for key in returned}:
            known.add(run_id)
            there = stored.get(run_id, set())
            assert returned - there == set(), "its call returned, and it is not stored"
            assert len(there - returned) <= client.killed, there - returned
    # A client killed inside its very first call has told nothing: one marker of it may be there.
    silent = sum(client.killed and not client.returned() for client in made)
    strangers = stored.keys() - known
    assert len(strangers) <= silent
    assert all(len(stored[run_id]) == 1 for run_id in strangers)


@pytest.mark.fault(
    "kill -9 of daemon and clients at random moments",
    seen="Programs go on and are not told. A gap `daemon_down`, bridged by the hardware's counter where "
    "there is one; stages of a killed program are `aborted`.",
    lost="No marker whose call returned, and none is stored twice; samples while no daemon ran.",
)
def test_of_twenty_kills_no_returned_marker_is_lost_and_none_is_doubled(
    daemon: Daemon, tmp_path: Path
) -> None:
    havoc(daemon, tmp_path, clients=12, markers=300, kills=20, pause_s=0.03)


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_of_two_hundred_kills_under_sixty_four_clients_none_either(daemon: Daemon, tmp_path: Path) -> None:
    havoc(daemon, tmp_path, clients=64, markers=2_000, kills=200, pause_s=0.05)
