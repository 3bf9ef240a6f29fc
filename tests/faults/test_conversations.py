"""Whatever clients say, in whatever order: is what was accepted stored once, and nothing else?"""

from __future__ import annotations

import os
import time
from itertools import count
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from energyd_client import clock
from energyd_client import protocol as p
from real_daemon import Daemon, wait_for
from staged import status

NAMES = st.sampled_from(["a", "b", "c"])
NONSENSE = [b"", b"\xc1", b"\x93", b"GET / HTTP/1.1\r\n\r\n", msgpack.packb({"type": "end"})]
GARBAGE = st.sampled_from(NONSENSE) | st.binary(max_size=60)
numbers = count()


class Client:
    """One client as the test knows it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.name = f"talk-{next(numbers)}"
        self.last = 0  # highest number that the daemon took
        self.acked = 0
        self.accepted: set[int] = set()
        self.errors = 0
        self._context, self._endpoint = context, endpoint
        self.socket = self._connect()
        self.greet()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self._endpoint)
        return socket

    def anew(self) -> None:
        """A new connection of the same client."""
        self.settle()
        self.socket.close(0)
        self.socket = self._connect()
        self.greet()

    def greet(self) -> None:
        """Say HELLO until it is answered (what goes into a dying connection is lost)."""
        me = p.Hello(p.VERSION, self.name, os.getpid(), 1, clock.boot_id(), clock.timens_inode(), "0")
        for _ in range(50):
            self.socket.send(p.pack(me))
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                if self.socket.poll(50) and (said := self.hear())["type"] == "welcome":
                    assert said["last_seq"] == self.last
                    return
        raise AssertionError("no welcome")

    def hear(self) -> dict[str, Any]:
        said: dict[str, Any] = msgpack.unpackb(self.socket.recv(), strict_map_key=False)
        assert said["type"] in {"ack", "error", "welcome"}
        if said["type"] == "ack":
            assert self.acked <= said["seq"] <= self.last, "acks go forward, and never ahead of what was said"
            self.acked = said["seq"]
        self.errors += said["type"] == "error"
        return said

    def say(self, marker: p.Marker) -> None:
        self.socket.send(p.pack(marker))
        if marker.seq > self.last:
            self.accepted.add(marker.seq)
            self.last = marker.seq

    def settle(self) -> None:
        """Until everything is acknowledged."""
        deadline = time.monotonic() + 20
        while self.acked < self.last:
            assert time.monotonic() < deadline, f"acked {self.acked} of {self.last}"
            if self.socket.poll(100):
                self.hear()


class Conversation(RuleBasedStateMachine):
    """Up to a few clients that say valid, repeated, reordered, senseless and oversized things."""

    def __init__(self, daemon: Daemon, all_accepted: dict[str, set[int]]) -> None:
        super().__init__()
        self.daemon, self.all_accepted = daemon, all_accepted
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.key = next(numbers)  # runs and stages of this conversation only
        self.clients = [Client(self.context, daemon.endpoint) for _ in range(2)]

    def a(self, which: bool) -> Client:
        return self.clients[which]

    @rule(
        who=st.booleans(), step=st.sampled_from([1, 1, 1, 3, 0, -1]), kind=st.integers(0, 8),
        run=NAMES, name=NAMES, parent=st.none() | NAMES, late_ns=st.integers(-10**10, 10**11),
    )  # fmt: skip
    def mark(
        self, who: bool, step: int, kind: int, run: str, name: str, parent: str | None, late_ns: int
    ) -> None:
        client = self.a(who)
        seq, t_ns = max(1, client.last + step), max(0, clock.now_ns() + late_ns)
        run, stage = f"{self.key}-{run}", f"{self.key}-{name}"
        above = parent and f"{self.key}-{parent}"
        client.say(
            [
                p.RunBegin(seq, t_ns, run, name, {"k": 1}),
                p.RunLabels(seq, t_ns, run, {"k": name}),
                p.RunEnd(seq, t_ns, run, "ok"),
                p.StageBegin(seq, t_ns, run, stage, name, above),
                p.StageEnd(seq, t_ns, run, stage, "ok"),
                p.Count(seq, t_ns, run, stage, {"tokens": 3}),
                p.Metric(seq, t_ns, run, name, 0.5),
                p.ArtifactMade(seq, t_ns, run, stage, name, "model"),
                p.ProcessInfo(seq, t_ns, "0"),
            ][kind]
        )

    @rule(who=st.booleans(), data=GARBAGE)
    def talk_nonsense(self, who: bool, data: bytes) -> None:
        client = self.a(who)
        before = client.errors
        client.socket.send(data)
        while client.errors == before:  # every nonsense is answered, acks may come first
            assert client.socket.poll(10_000), data
            client.hear()

    @rule(who=st.booleans())
    def say_too_much_at_once(self, who: bool) -> None:
        client = self.a(who)
        client.settle()
        client.socket.send(bytes(p.MAX_FRAME_BYTES + 1))
        client.greet()

    @rule(who=st.booleans())
    def leave_and_come_back(self, who: bool) -> None:
        client = self.a(who)
        client.settle()
        client.socket.send(p.pack(p.Bye()))
        client.greet()

    @rule(who=st.booleans())
    def connect_anew(self, who: bool) -> None:
        self.a(who).anew()

    def teardown(self) -> None:
        try:
            for client in self.clients:
                client.settle()
                client.socket.send(p.pack(p.Bye()))
                self.all_accepted[client.name] = client.accepted
            wait_for(lambda: status(self.daemon)["open_stages"] == 0)
            log = self.daemon.log.read_text()
            assert "Traceback" not in log, log[-3000:]
        finally:
            self.context.destroy(0)


@pytest.mark.fault("Malformed messages")
def test_of_any_conversation_what_was_accepted_is_stored_once_and_no_stage_stays_open(daemon: Daemon) -> None:
    converse(daemon, 6, the_same_each_time=True)


@pytest.mark.fault("Malformed messages")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_of_two_hundred_conversations_too(daemon: Daemon) -> None:
    converse(daemon, 200, the_same_each_time=False)


def converse(daemon: Daemon, conversations: int, *, the_same_each_time: bool) -> None:
    """Have them, then compare the store with what was accepted."""
    daemon.start(source="simulated")
    accepted: dict[str, set[int]] = {}
    run_state_machine_as_test(
        lambda: Conversation(daemon, accepted),
        settings=settings(
            max_examples=conversations, stateful_step_count=20, deadline=None, database=None,
            derandomize=the_same_each_time, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    rows = daemon.query("SELECT client, seq FROM markers WHERE seq IS NOT NULL ORDER BY ALL")
    assert [(r["client"], r["seq"]) for r in rows] == sorted(
        (c, n) for c, seqs in accepted.items() for n in seqs
    )
    assert rows
    before = status(daemon)["samples"]
    wait_for(lambda: status(daemon)["samples"] > before)
    assert status(daemon)["gaps"] == 0
