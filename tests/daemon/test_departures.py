"""Is every death noticed, is everything that the dead left taken, and can nobody else be declared dead?

The intake with real sockets, real spools and real processes; the recorder's part (take, acknowledge) is
played by the test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from energyd import departures, peers, timeline
from energyd.inbox import ClientGone, Inbox
from energyd.intake import Intake
from energyd.spools import NotASpool, open_dead
from energyd_client import clock
from energyd_client import protocol as p
from energyd_client.spool import Spool
from real_daemon import wait_for


def hello(client: str) -> p.Hello:
    return p.Hello(p.VERSION, client, os.getpid(), 1, clock.boot_id(), clock.timens_inode(), "0")


def counts(n: int, first: int = 1) -> list[p.Count]:
    return [p.Count(seq, clock.now_ns(), "r", "s", {"n": 1}) for seq in range(first, first + n)]


class Wire:
    """An intake over a folder of spools, and what it has handed to the recorder."""

    def __init__(self, folder: Path, expected: dict[str, int | None]) -> None:
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.endpoint = f"ipc://{folder / 'e.sock'}"
        self.inbox = Inbox()
        line = timeline.begin(None, None)
        self.intake = Intake(
            self.endpoint, f"ipc://{folder / 'p.sock'}", self.spool, self.inbox, line, expected
        )
        self.taken: list[Any] = []

    def take(self) -> list[Any]:
        self.taken += self.inbox.take(1_000_000)[1]
        return self.taken

    def seqs(self) -> list[int]:
        return [i.message.seq for i in self.take() if not isinstance(i, ClientGone)]

    def gone(self) -> list[ClientGone]:
        return [i for i in self.take() if isinstance(i, ClientGone)]

    def leave(self, client: str, markers: list[p.Count], *, dead: bool = True) -> Spool:
        """A spool of `client`, whose process lives (ours) or is dead (its lock is free)."""
        left = Spool(self.spool, client, p.pack(hello(client)))
        for marker in markers:
            assert left.append(p.pack(marker))
        if dead:
            left.close(unlink=False)
        return left


@pytest.fixture
def make_wire(tmp_path: Path) -> Iterator[Callable[..., Wire]]:
    made: list[Wire] = []

    def make(expected: dict[str, int | None] | None = None) -> Wire:
        made.append(Wire(tmp_path, expected or {}))
        return made[-1]

    yield make
    for wire in made:
        wire.intake.stop()


GREET = """
import os, sys, time, zmq
from energyd_client import clock, protocol as p
from energyd_client.spool import Spool
from pathlib import Path
endpoint, folder, client = sys.argv[1:]
data = p.pack(p.Hello(p.VERSION, client, os.getpid(), 1, clock.boot_id(), clock.timens_inode(), "0"))
spool = Spool(Path(folder), client, data) if folder else None
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(endpoint)
socket.send(data)
assert socket.poll(10_000)
for seq in range(1, 4):
    marker = p.pack(p.Count(seq, clock.now_ns(), "r", "s", {"n": 1}))
    if spool: assert spool.append(marker)
print("greeted", flush=True)
time.sleep(60)
"""


def greeting_process(wire: Wire, client: str, *, spool: bool = True) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", GREET, wire.endpoint, str(wire.spool) if spool else "", client],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"greeted\n"
    process.stdout.close()
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_killed_client_is_noticed_and_its_spool_taken(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire()
    wire.intake.start()
    kill(greeting_process(wire, "c-1"))
    (gone,) = wait_for(wire.gone)
    assert (gone.client, gone.doubt_ns, gone.uid) == ("c-1", 0, os.geteuid())
    assert wire.seqs() == [1, 2, 3]
    assert wire.taken[-1] is gone  # after its last word


def test_a_killed_client_whose_pid_cannot_be_seen_is_noticed_by_its_spools_lock(
    make_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_pidfd", lambda pid: (None, False))
    wire = make_wire()
    wire.intake.start()
    process = greeting_process(wire, "c-1")
    wait_for(lambda: wire.intake.peers.by_client)
    kill(process)
    (gone,) = wait_for(wire.gone)
    assert wire.seqs() == [1, 2, 3]
    assert 0 < gone.doubt_ns < 20e9  # it died since the last look at its lock
    assert wire.intake.peers.by_client == {}


def test_a_client_that_died_before_its_greeting_was_read_is_noticed_without_a_spool(
    make_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    real = peers.credentials
    monkeypatch.setattr(peers, "credentials", lambda address: (*real(address)[:2], dead.pid))
    wire = make_wire()
    wire.intake.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(wire.endpoint)
        socket.send(p.pack(hello("c-1")))
        for marker in counts(3):
            socket.send(p.pack(marker))
        assert [g.client for g in wait_for(wire.gone)] == ["c-1"]
    assert wire.seqs() == [1, 2, 3]


def test_after_a_restart_a_silent_client_that_holds_its_spool_is_not_declared_dead(
    make_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "REJOIN_S", 0.0)
    monkeypatch.setattr(departures, "SCAN_S", 0.02)
    uid = os.geteuid()
    wire = make_wire({"alive": uid, "vanished": uid, "dead": uid})
    held = wire.leave("alive", counts(2), dead=False)
    wire.leave("dead", counts(2))
    wire.intake.start()
    wait_for(lambda: {g.client for g in wire.gone()} == {"dead", "vanished"})
    held.close(unlink=False)  # now it dies too
    wait_for(lambda: [g.client for g in wire.gone()].count("alive") == 1)
    assert wire.seqs() == [1, 2] * 2


def test_a_long_spool_is_read_in_pieces_each_after_the_one_before_is_stored(
    make_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "UNSTORED", 1_000)
    wire = make_wire()
    spool = wire.leave("c-1", counts(4_500))
    wire.leave("c-2", counts(3))
    wire.intake.start()
    stored, told = 0, dict[str, int]()
    while stored < 4_503:
        wait_for(lambda have=stored: len(wire.seqs()) > have)
        assert len(wire.seqs()) - stored <= 1_000
        assert spool.path.exists() or told.get("c-1") == 4_500
        stored = len(wire.seqs())
        told = {i.client: i.message.seq for i in wire.taken if not isinstance(i, ClientGone)}
        wire.intake.acknowledge(told)
    wait_for(lambda: not list(wire.spool.iterdir()))
    assert len(wire.gone()) == 2
    of_first = [i for i in wire.taken if i.client == "c-1"]
    assert [i.message.seq for i in of_first[:-1]] == list(range(1, 4_501))
    assert isinstance(of_first[-1], ClientGone)


def test_a_spool_whose_owner_is_another_user_than_its_client_is_set_aside(
    make_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "SCAN_S", 0.02)
    wire = make_wire({"victim": os.geteuid() + 1})  # so the stored run says
    wire.leave("victim", counts(3))
    wire.intake.start()
    wait_for((wire.spool / "victim.bad").exists)
    assert wire.take() == []


def test_a_hello_with_the_id_of_another_users_client_is_a_conflict(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire({"victim": os.geteuid() + 1})
    wire.intake.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(wire.endpoint)
        socket.send(p.pack(hello("victim")))
        assert socket.poll(10_000)
        answer = p.unpack(socket.recv())
        assert isinstance(answer, p.Refusal)
        assert (answer.code, answer.field) == ("conflict", "client")
    assert wire.intake.peers.by_client == {}


def test_a_file_that_is_no_spool_is_set_aside_and_a_pipe_or_link_is_not_opened(
    make_wire: Callable[..., Wire],
) -> None:
    wire = make_wire()
    (wire.spool / "junk.spool").write_bytes(b"\x07" * 100)
    wire.leave("renamed", counts(1)).path.rename(wire.spool / "other.spool")
    os.mkfifo(wire.spool / "pipe.spool")
    (wire.spool / "link.spool").symlink_to("/etc/passwd")
    wire.intake.start()
    wait_for(lambda: len(list(wire.spool.glob("*.bad"))) == 2)
    assert open_dead(wire.spool / "pipe.spool") is None
    assert open_dead(wire.spool / "link.spool") is None
    with pytest.raises(NotASpool):
        open_dead(wire.spool / "junk.bad")
    assert wire.take() == []


def test_a_marker_in_a_spool_that_makes_no_sense_is_passed_over(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire()
    left = wire.leave("c-1", counts(2), dead=False)
    left.append(b"\xc1nonsense")
    left.append(p.pack(counts(1, 3)[0]))
    left.close(unlink=False)
    wire.intake.start()
    assert wait_for(wire.gone)
    assert wire.seqs() == [1, 2, 3]


def test_markers_that_were_in_the_socket_at_a_death_are_all_taken(make_wire: Callable[..., Wire]) -> None:
    """More than one burst of them, and no spool to fall back on."""
    wire = make_wire()
    code = GREET.split("assert socket.poll", maxsplit=1)[0] + (
        "for seq in range(1, 3_001):\n"
        "    socket.send(p.pack(p.Count(seq, clock.now_ns(), 'r', 's', {'n': 1})))\n"
        "socket.close(10_000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, wire.endpoint, "", "c-1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.wait(30)
    wire.intake.start()  # only now does anybody read
    assert wait_for(wire.gone)
    assert wire.seqs() == list(range(1, 3_001))
