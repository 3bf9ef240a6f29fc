"""Can a client that floods fill the daemon's memory, and does one that is turned away lose anything?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from energyd import timeline
from energyd.credit import BOUND, BOUND_ALL, Credit
from energyd.inbox import Inbox
from energyd.intake import Intake
from energyd.peers import Peer
from energyd.unread import MOST
from energyd_client import clock
from energyd_client import protocol as p
from real_daemon import wait_for


def peer(client: str) -> Peer:
    return Peer(client.encode(), client, True, 1, 1, 1)


def test_what_follows_a_marker_turned_away_is_so_too_until_that_one_comes_again() -> None:
    credit, one = Credit(), peer("c")
    assert all(credit.take(one, seq) for seq in range(1, BOUND + 1))
    assert credit.take(one, BOUND + 1) is None
    assert credit.take(one, BOUND + 2) is False
    credit.stored("c", BOUND)
    assert credit.take(one, BOUND + 3) is False  # though there is room: else BOUND + 1 would be a duplicate
    assert credit.take(one, BOUND + 1) is True
    assert credit.take(one, BOUND + 2) is True
    assert credit.turned_away == 3


def test_neither_a_new_connection_nor_a_new_name_makes_room() -> None:
    credit = Credit()
    assert all(credit.take(peer("c"), seq) for seq in range(1, BOUND + 1))
    assert credit.take(peer("c"), 1) is None  # another connection of it
    for n in range(1, BOUND_ALL // BOUND):
        assert all(credit.take(peer(f"c{n}"), seq) for seq in range(1, BOUND + 1))
    assert credit.take(peer("late"), 1) is None
    credit.stored("c", BOUND)
    assert credit.take(peer("late"), 1) is True


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[tuple[Intake, Inbox, str]]:
    inbox, endpoint = Inbox(), f"ipc://{tmp_path / 'e.sock'}"
    line = timeline.begin(None, None)
    made = Intake(endpoint, f"ipc://{tmp_path / 'p.sock'}", tmp_path / "spool", inbox, line, {})
    made.start()
    yield made, inbox, endpoint
    made.stop()


def test_a_flooding_peer_fills_its_bound_and_is_told_once_and_others_go_on(
    intake: tuple[Intake, Inbox, str],
) -> None:
    wire, inbox, endpoint = intake
    with zmq.Context() as context, context.socket(zmq.DEALER) as flood, context.socket(zmq.DEALER) as other:
        for socket, client in ((flood, "flood"), (other, "other")):
            socket.linger = 0
            socket.sndhwm = 0
            socket.connect(endpoint)
            hello = p.Hello(p.VERSION, client, 1, 1, clock.boot_id(), clock.timens_inode(), "0")
            socket.send(p.pack(hello))
            assert isinstance(p.unpack(socket.recv()), p.Welcome)
        for seq in range(1, 3 * BOUND):
            flood.send(p.pack(p.Count(seq, clock.now_ns(), "r", "s", {"n": 1})))
        wait_for(lambda: wire.credit.turned_away == 2 * BOUND - 1)
        other.send(p.pack(p.Count(1, clock.now_ns(), "r", "s", {"n": 1})))
        wait_for(lambda: inbox.waiting == BOUND + 1)
        said = p.unpack(flood.recv())
        assert isinstance(said, p.Refusal)
        assert (said.code, said.seq) == ("busy", BOUND + 1)
        assert not flood.poll(0)
        wire.acknowledge({"flood": BOUND})
        assert p.unpack(flood.recv()) == p.Ack(BOUND)
        flood.send(p.pack(p.Count(BOUND + 1, clock.now_ns(), "r", "s", {"n": 1})))
        wait_for(lambda: inbox.waiting == BOUND + 2)


def test_who_asks_and_never_reads_is_told_busy_and_answered_again_once_he_reads(
    intake: tuple[Intake, Inbox, str],
) -> None:
    wire, _, endpoint = intake
    wire.answer = lambda question, uid: {"body": b"x" * (4 << 20)}
    asked = 40
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf, context.socket(zmq.DEALER) as other:
        for socket in (deaf, other):
            socket.linger = 0
            socket.rcvhwm = 1  # what is not received stays with the daemon
            socket.connect(endpoint)
        for req in range(asked):
            deaf.send(p.pack(p.AskTail(req)))
        other.send(p.pack(p.AskTail(1)))  # its turn comes: nobody waits for who does not read
        assert isinstance(p.unpack(other.recv()), p.Answer)
        said = [p.unpack(deaf.recv()) for _ in range(asked)]
        answers = sum(isinstance(word, p.Answer) for word in said)
        assert {word.code for word in said if isinstance(word, p.Refusal)} == {"busy"}
        # What it may leave unread, the answer beyond, and what is under way in its own buffers.
        assert MOST // (4 << 20) <= answers < asked / 2

        def answered() -> bool:
            deaf.send(p.pack(p.AskTail(asked)))
            return isinstance(p.unpack(deaf.recv()), p.Answer)

        wait_for(answered)


def test_who_rings_while_the_bell_is_read_leaves_it_to_be_rung_again(
    intake: tuple[Intake, Inbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, read, met = intake[0], os.eventfd_read, []

    def read_while_news_come(fd: int) -> int:
        wire.publish("devices", p.DeviceList(0, []))
        met.append(read(fd))
        return met[-1]

    monkeypatch.setattr(os, "eventfd_read", read_while_news_come)
    wire.publish("devices", p.DeviceList(0, []))
    wait_for(lambda: bool(met))
    wait_for(lambda: not wire._rung)  # else nobody would ring for what comes next
