"""A small daemon's side of the wire, real sockets and all, for tests of the client."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
import zmq

import energyd_client
from energyd_client import lifetime, notes, place, runs
from energyd_client.protocol import (
    CREDIT,
    MARKERS,
    VERSION,
    Ack,
    Answer,
    Bye,
    Hello,
    Refusal,
    Welcome,
    pack,
    unpack,
)  # fmt: skip

CLIENT_FOLDER = str(Path(energyd_client.__file__).parents[1])


def violations(value: Any, hint: Any, where: str) -> list[str]:
    """Where `value` breaks a type or Bound of protocol.py: a slow restatement of the daemon's decoder."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = violations(value, inner[0], where)
        for bound in () if found else inner[1:]:
            size = value if isinstance(value, int) else len(value)
            low = bound.ge if isinstance(value, int) else bound.min_length
            high = bound.le if isinstance(value, int) else bound.max_length
            if (low is not None and size < low) or (high is not None and size > high):
                found.append(f"{where}: {value!r:.80} is not within {low}..{high}")
        return found
    if origin in (Union, types.UnionType):
        return min((violations(value, one, where) for one in inner), key=len)
    if origin is dict and isinstance(value, dict):
        pairs = [(inner[0], k) for k in value] + [(inner[1], v) for v in value.values()]
        return [f for one, part in pairs for f in violations(part, one, where)]
    if origin is list and isinstance(value, list):
        return [f for part in value for f in violations(part, inner[0], where)]
    return [] if type(value) is (origin or hint) else [f"{where}: {value!r:.80} is no {hint}"]


class FakeDaemon:
    """Speaks ROUTER like energyd: welcomes, stores in memory, acks what it has stored, refuses on demand.

    `stored[client]` are the markers kept, in order, without duplicates; `heard` is everything as it came.
    """

    def __init__(self, endpoint: str, *, credit: int = CREDIT) -> None:
        self.endpoint = endpoint
        self.credit = credit
        self.acking = True
        self.greet = True
        self.version_refused = False
        self.refuse: Callable[[Any], Refusal | None] = lambda marker: None
        self.answer: Callable[[Any], Any] = lambda question: Refusal(
            "not_found", "no such stage", req=question.req
        )
        self.heard: list[Any] = []
        self.stored: dict[str, list[Any]] = {}
        self.violations: list[str] = []
        self.most_unacked = 0
        self._last: dict[str, int] = {}
        self._say: list[bytes] = []
        self._peers: dict[bytes, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> FakeDaemon:
        self._stop.clear()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(5)
        return self

    def stop(self) -> None:
        """Die as kill -9 does: the socket goes, what was heard and not acked is forgotten."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None
        Path(self.endpoint[6:]).unlink(missing_ok=True)

    def say(self, data: bytes) -> None:
        """Send raw bytes to every client that is greeted."""
        self._say.append(data)

    @property
    def markers(self) -> list[Any]:
        """All stored markers but ProcessInfo, of all clients, in order of arrival of the clients."""
        return [m for c in self.stored.values() for m in c if m.TYPE != "process"]

    def types(self) -> list[str]:
        return [m.TYPE for m in self.markers]

    def _work(self, ready: threading.Event) -> None:
        self._peers = {}
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.rcvhwm = router.sndhwm = 0
            router.maxmsgsize = 65_536
            router.bind(self.endpoint)
            ready.set()
            while not self._stop.is_set():
                while self._say:
                    data = self._say.pop(0)
                    for peer in self._peers:
                        router.send_multipart([peer, data])
                dirty: set[bytes] = set()
                timeout = 10
                while router.poll(timeout):
                    peer, data = router.recv_multipart()
                    self._take(router, peer, unpack(data), dirty)
                    timeout = 0
                for peer in self._peers if self.acking else ():
                    client = self._peers[peer]
                    if self.stored[client] and self._last.get(client, 0) < self.stored[client][-1].seq:
                        self._last[client] = self.stored[client][-1].seq
                        router.send_multipart([peer, pack(Ack(self._last[client]))])

    def _take(self, router: Any, peer: bytes, message: Any, dirty: set[bytes]) -> None:
        self.heard.append(message)
        hints = get_type_hints(type(message), include_extras=True)
        for field in fields(message):
            where = f"{message.TYPE}.{field.name}"
            self.violations += violations(getattr(message, field.name), hints[field.name], where)
        if isinstance(message, Hello):
            if self.version_refused:
                refusal = Refusal(
                    "version", f"daemon speaks {VERSION + 1}, client {message.v}: upgrade the client", "v"
                )
                router.send_multipart([peer, pack(refusal)])
            elif self.greet:
                self._peers = {p: c for p, c in self._peers.items() if c != message.client}
                self._peers[peer] = message.client
                self.stored.setdefault(message.client, [])
                welcome = Welcome(VERSION, "test", "", True, self.credit, self._last.get(message.client, 0))
                router.send_multipart([peer, pack(welcome)])
        elif isinstance(message, MARKERS):
            if peer not in self._peers:
                router.send_multipart([peer, pack(Refusal("hello_first", "who are you?", seq=message.seq))])
                return
            client = self._peers[peer]
            kept = self.stored[client]
            if not kept or message.seq > kept[-1].seq:
                refusal = self.refuse(message)
                if refusal is not None:
                    refusal.seq = message.seq
                    router.send_multipart([peer, pack(refusal)])
                    return
                kept.append(message)
            self.most_unacked = max(self.most_unacked, message.seq - self._last.get(client, 0))
        elif not isinstance(message, Bye):
            reply = self.answer(message)
            if reply is not None:
                router.send_multipart([peer, reply if isinstance(reply, bytes) else pack(reply)])

    def forget_unacked(self) -> None:
        """Between stop and start: lose what was never acknowledged, as a crash before the commit does."""
        for client, kept in self.stored.items():
            self.stored[client] = [m for m in kept if m.seq <= self._last.get(client, 0)]


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Workplace:
    """Endpoint, spool and program runner of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/energyd.sock"
        self.spool = folder / "spool"
        self.spool.mkdir()

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ENERGYD_")}
        ours = {
            "ENERGYD_ENDPOINT": self.endpoint,
            "ENERGYD_SPOOL": str(self.spool),
            "PYTHONPATH": CLIENT_FOLDER,
        }
        return kept | ours | more

    def run(self, program: str, *, timeout_s: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program text in a fresh interpreter and wait for it."""
        return subprocess.run(
            [sys.executable, "-c", program], env=self.environment(**env), cwd=self.folder,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def spools(self) -> list[Path]:
        return sorted(self.spool.glob("*.spool"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A fresh client in this process, pointed at nothing but tmp_path."""
    here = Workplace(tmp_path)
    for name in [n for n in os.environ if n.startswith("ENERGYD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENERGYD_ENDPOINT", here.endpoint)
    monkeypatch.setenv("ENERGYD_SPOOL", str(here.spool))
    notes.forget()
    yield here
    if runs._implicit.run is not None and runs._implicit.run.is_open:
        runs._implicit.run.end()
    runs._implicit.run = None
    lifetime.close()
    assert place.here() is None
    assert place.any_run() is None
    notes.forget()


@pytest.fixture
def daemon(workplace: Workplace) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(workplace.endpoint).start()
    yield fake
    lifetime.close()  # while it can still answer
    fake.stop()
    assert fake.violations == []


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def make_daemon(workplace: Workplace) -> Iterator[Callable[..., FakeDaemon]]:
    made: list[FakeDaemon] = []

    def make(**options: Any) -> FakeDaemon:
        made.append(FakeDaemon(workplace.endpoint, **options))
        return made[-1]

    yield make
    lifetime.close()
    for fake in made:
        fake.stop()
        assert fake.violations == []


__all__ = ["Answer", "FakeDaemon", "Workplace"]
