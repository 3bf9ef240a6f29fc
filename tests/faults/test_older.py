"""Does what an older release left, and says, mean the same to this one? (tests/older/README.md)"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import msgpack
import pytest
import zmq

from damaged import ask, finished_run
from real_daemon import Daemon, wait_for

OLDER = Path(__file__).parents[1] / "older"


@pytest.fixture
def left(daemon: Daemon) -> Daemon:
    """A daemon's place with what an older one left in it: a store with an open run, and that run's spool."""
    daemon.store.mkdir()
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{daemon.store / 'hot.duckdb'}' AS hot (STORAGE_VERSION 'v1.2.0'); USE hot")
        con.execute((OLDER / "hot.sql").read_text())
    daemon.spool.mkdir()
    (spool,) = OLDER.glob("*.spool")
    shutil.copy(spool, daemon.spool)
    return daemon


def finals(daemon: Daemon, run: str, n: int) -> list[dict[str, Any]]:
    """The `n` stages of a run, once their energy is known."""
    sql = (
        "SELECT s.name, s.status, s.counts->>'label' AS labels FROM stages s JOIN runs r USING (run_id)"
        f" WHERE r.name = '{run}' AND s.state = 'final' ORDER BY s.t0_ns"
    )
    found: list[dict[str, Any]] = wait_for(lambda: len(rows := ask(daemon, sql)) == n and rows)
    return found


def energies(daemon: Daemon, run: str) -> list[dict[str, Any]]:
    return ask(
        daemon,
        "SELECT e.stage, e.device, e.energy_j, e.counter_j, e.coverage FROM stage_energy e JOIN runs r"
        f" USING (run_id) WHERE r.name = '{run}' ORDER BY ALL",
    )


@pytest.mark.fault("A daemon upgraded over an older store")
def test_a_newer_daemon_goes_on_with_the_runs_that_an_older_one_left_open(left: Daemon) -> None:
    with duckdb.connect() as con:
        con.execute((OLDER / "hot.sql").read_text())
        had = con.execute("SELECT device, energy_uj / 1e6 FROM energies ORDER BY device").fetchall()
    left.start(source="simulated")
    outer, inner = finals(left, "open", 2)
    assert outer == {"name": "outer", "status": "aborted", "labels": None}
    assert inner == {"name": "inner", "status": "ok", "labels": "7"}  # told by the spool alone
    assert len(energies(left, "open")) == 2 * len(had)
    assert [(e["device"], e["energy_j"]) for e in energies(left, "whole")] == had
    finished_run(left, "newer")
    assert all(e["energy_j"] > 0 for e in energies(left, "newer"))
    assert not list(left.spool.glob("*.spool"))
    assert left.run("energyq", "--store", str(left.store), "verify").returncode == 0


@pytest.mark.fault("An older client")
def test_the_frames_of_an_older_client_are_stored_and_answered_as_it_expects(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    frames = [bytes.fromhex(line) for line in (OLDER / "frames.hex").read_text().split()]
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.RCVTIMEO, 20_000)
        client.setsockopt(zmq.LINGER, 0)
        client.connect(daemon.endpoint)
        client.send(frames[0])
        welcome = msgpack.unpackb(client.recv())
        assert welcome["type"] == "welcome", welcome
        assert {"v", "publish", "clock_ok", "credit"} <= set(welcome)  # what that client reads
        for frame in frames[1:-1]:
            client.send(frame)
        said = {}
        while said.get("seq") != 7:
            said = msgpack.unpackb(client.recv())
            assert said["type"] == "ack", said
        client.send(frames[-1])
    assert finals(daemon, "whole", 1) == [{"name": "a", "status": "ok", "labels": "5"}]
    (run,) = ask(daemon, "SELECT status, labels->>'pipeline' AS pipeline FROM runs WHERE t1_ns IS NOT NULL")
    assert run == {"status": "ok", "pipeline": "kd"}
    assert ask(daemon, "SELECT name, value, n FROM metrics") == [
        {"name": "exact_match", "value": 0.5, "n": 10}
    ]
