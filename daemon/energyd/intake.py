"""What do clients say and ask? The one thread that owns the sockets: markers in, acks and answers out.

It never touches the disk and never waits for the recorder. A message that is refused gets a reply that
names the field; the connection goes on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from energyd.config import ConfigError
from energyd.credit import BOUND, Credit
from energyd.departures import Departures
from energyd.inbox import ClientGone, Inbox
from energyd.peers import Peer, Peers, credentials
from energyd.publisher import Publisher, bind_ipc
from energyd.remote import Gate
from energyd.stages import Incoming, same_user
from energyd.timeline import Timeline
from energyd.unread import Unread
from energyd.wire import WireError, decode
from energyd_client import protocol as p
from energyd_client.curve import live_endpoint
from energyd_client.version import __version__

log = logging.getLogger("energyd")

BURST: Final = 2_000
"""Frames read before the other sockets get their turn."""

ARRIVAL_DOUBT_NS: Final = 100_000_000
"""Doubt of a stamp replaced by its arrival: senders batch for 20 ms, and again after a reconnect."""

FUTURE_NS: Final = 1_000_000_000
"""A stamp further ahead than this is not believed."""

Answerer = Callable[[p.Question, int | None], dict[str, Any] | p.Refusal]
"""From a question and the uid that asks, as the kernel told it."""


class Intake:
    """ROUTER and XPUB. Implements the recorder's Voice; its methods may be called from any thread."""

    def __init__(
        self,
        endpoint: str,
        publish: str,
        spool: Path,
        inbox: Inbox,
        timeline: Timeline,
        expected: dict[str, int | None],
        listen: tuple[str, Path] | None = None,
        listening: int | None = None,
    ) -> None:
        """`listen`: an endpoint on the network, and the store whose keys are asked there.

        `listening`: the descriptor of `endpoint`, where systemd has bound it.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        # At a high-water mark libzmq loses what clients wrote (4.6 % measured): it lies, for each peer, far
        # above what the credit allows. Only who floods meets it, or who does not read what he is told.
        self._router.setsockopt(zmq.RCVHWM, 2 * BOUND)
        self._router.setsockopt(zmq.SNDHWM, 2 * BOUND)
        self._router.setsockopt(zmq.MAXMSGSIZE, p.MAX_FRAME_BYTES)
        self._router.setsockopt(zmq.LINGER, 200)
        bind_ipc(self._router, endpoint, listening)
        self._publisher = Publisher(self._context, publish)
        self._publish_endpoint = publish
        self.gate: Gate | None = None
        if listen is not None:
            self._open_gate(*listen)
        self._inbox = inbox
        self._timeline = timeline
        self.peers = Peers()
        self._departures = Departures(spool, self.peers, expected, inbox, timeline, self._incoming)
        self.credit = Credit()
        self._unread = Unread()
        self.refused: dict[str, int] = {}
        self.stored: Callable[[str], int] = lambda client: 0  # what a client need not send again
        self.answer: Answerer = lambda question, uid: p.Refusal("not_ready", "the daemon is starting")
        self._outbox: deque[tuple[str, Any, Any]] = deque()
        self._rung = False  # the wire thread will look into the outbox after it has set this back
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="wire")

    def _open_gate(self, endpoint: str, store: Path) -> None:
        self.gate = gate = Gate(self._context, store)
        try:
            gate.bind(self._router, endpoint)
            gate.bind(self._publisher.socket, live_endpoint(endpoint, ""))
        except ConfigError:
            for socket in (self._router, self._publisher.socket, gate.socket):
                socket.close(0)
            self._context.term()
            raise

    # ---- called by other threads -----------------------------------------------------------------------

    def refuse(self, client: str, refusal: p.Refusal) -> None:
        """Tell a client that a marker of his was refused."""
        self._post(("send", client, refusal))

    def acknowledge(self, acks: dict[str, int]) -> None:
        """Tell clients what is stored."""
        for client, seq in acks.items():
            self._post(("ack", client, seq))

    def publish(self, topic: str, message: p.Message) -> None:
        """Tell subscribers."""
        self._post(("publish", topic, message))

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is due, close the sockets."""
        self._stop.set()
        os.eventfd_write(self._bell, 1)
        self._thread.join()

    def _post(self, item: tuple[str, Any, Any]) -> None:
        self._outbox.append(item)
        if not self._rung:  # a commit has hundreds of news: one system call for all of them
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def _unring(self) -> None:
        """Before the outbox is looked into, or what comes then would wait."""
        os.eventfd_read(self._bell)
        # Only now: who rang between the two would have his ring read away, and nobody would ring again.
        self._rung = False

    # ---- the wire thread ---------------------------------------------------------------------------------

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._publisher.socket, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        if self.gate is not None:
            poller.register(self.gate.socket, zmq.POLLIN)
        watched: dict[int, str] = {}  # pidfd: client
        while not self._stop.is_set():
            ready = dict(poller.poll(int(self._departures.wait_s() * 1000)))
            try:
                if self._bell in ready:
                    self._unring()
                if self.gate is not None:
                    self.gate.answer()
                drained = self._receive()
                self._publisher.subscriptions()
                for fd in [fd for fd in watched if fd in ready]:
                    poller.unregister(fd)
                    self._departures.died(watched.pop(fd))
                self._departures.turn(drained)
                self._speak()
            except Exception:  # nothing a peer sends may end the service
                log.exception("wire: unexpected error, going on")
            current = {peer.pidfd: c for c, peer in self.peers.by_client.items() if peer.pidfd is not None}
            for fd in watched.keys() - current.keys():
                poller.unregister(fd)
            for fd in current.keys() - watched.keys():
                poller.register(fd, zmq.POLLIN)
            watched = current
        self._speak()
        self._router.close()
        self._publisher.socket.close()
        if self.gate is not None:
            self.gate.close()
        self._context.term()
        self.peers.close()
        self._departures.close()
        os.close(self._bell)

    def _receive(self) -> bool:
        """Take what came, up to a burst; whether the socket was found empty."""
        markers: list[Incoming | ClientGone] = []
        arrived = self._timeline.now_ns()
        drained = False
        for _ in range(BURST):
            try:
                identity = self._router.recv(zmq.DONTWAIT)
            except zmq.Again:
                drained = True
                break
            frame = self._router.recv(zmq.DONTWAIT, copy=False)  # the rest of a message is there too
            more = 0
            while frame.more:
                frame, more = self._router.recv(zmq.DONTWAIT, copy=False), more + 1
            try:
                if more:
                    raise WireError("malformed", f"{more + 1} frames; a message is one")
                message = decode(frame.buffer)
                self._message(identity, message, frame, arrived, markers)
            except WireError as error:
                self._refuse_frame(identity, frame, error)
        if markers:
            self._inbox.put_markers(markers)
        return drained

    def _message(
        self,
        identity: bytes,
        message: p.Message,
        frame: zmq.Frame,
        arrived_ns: int,
        out: list[Incoming | ClientGone],
    ) -> None:
        peer = self.peers.by_identity.get(identity)
        if isinstance(message, p.Hello):
            self._hello(identity, message, _address(frame))
        elif isinstance(message, p.Question):
            self._answer(identity, message, credentials(_address(frame))[0])
        elif peer is None:
            raise WireError("hello_first", "say HELLO before anything else")
        elif isinstance(message, p.Bye):
            if peer.busy_from is None:  # else its spool knows more, and its death tells
                out.append(ClientGone(peer.client, arrived_ns, 0, peer.uid))
                self.peers.forget(peer.client)
        else:
            assert isinstance(message, p.MARKERS)
            taken = self.credit.take(peer, message.seq)
            if taken:
                out.append(self._incoming(peer, message, arrived_ns))
            elif taken is None:
                self._turn_away(peer, message.seq)

    def _answer(self, identity: bytes, question: p.Question, uid: int | None) -> None:
        if self._unread.may_ask(identity):
            reply = self.answer(question, uid)
        else:
            reply = p.Refusal("busy", "read the answers to what was asked before, then ask again")
        if isinstance(reply, p.Refusal):
            reply.req = question.req
            self._send(identity, reply)
            return
        try:
            self._unread.send(self._router, identity, p.pack(p.Answer(question.req, reply)))
        except zmq.ZMQError:
            pass  # gone meanwhile

    def _hello(self, identity: bytes, hello: p.Hello, address: str) -> None:
        if self.gate is not None and credentials(address)[0] is None:
            raise WireError("forbidden", "markers come over this machine's socket file, not over the network")
        uid, owner = credentials(address)[0], self._departures.owner(hello.client)
        if not same_user(uid, owner):
            raise WireError("conflict", f"client {hello.client} belongs to uid {owner}, not {uid}", "client")
        peer = self.peers.welcome(identity, hello, address)
        self._departures.greeted(peer.client)
        if peer.dead:
            self._departures.died(peer.client)
        last = self.stored(peer.client)
        self._send(
            identity,
            p.Welcome(p.VERSION, __version__, self._publish_endpoint, peer.clock_ok, p.CREDIT, last),
        )

    def _incoming(self, peer: Peer, message: p.Marker, arrived_ns: int) -> Incoming:
        t_ns = self._timeline.to_store(message.t_ns)
        doubt = 0
        if not peer.clock_ok or t_ns > arrived_ns + FUTURE_NS:
            t_ns, doubt = arrived_ns, ARRIVAL_DOUBT_NS
        return Incoming(peer.client, message, t_ns, arrived_ns, doubt, peer.uid, peer.gid, peer.pid)

    def _turn_away(self, peer: Peer, seq: int) -> None:
        if self.credit.turned_away == 1:  # once, or the log would be flooded too
            log.warning("wire: %s (uid %s): more is said than can be stored", peer.client, peer.uid)
        text = "too many markers wait to be stored: send this one and what follows after the next ack"
        self._send(peer.identity, p.Refusal("busy", text, None, seq))

    def _refuse_frame(self, identity: bytes, frame: zmq.Frame, error: WireError) -> None:
        peer = self.peers.by_identity.get(identity)
        who = peer.client if peer else _address(frame)
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        if self.refused[error.code] == 1:  # once a kind, or a hostile peer would fill the log
            log.warning("wire: refused a message of %s: %s", who, error)
        self._send(identity, p.Refusal(error.code, str(error), error.field, error.seq))

    def _speak(self) -> None:
        while self._outbox:
            kind, to, what = self._outbox.popleft()
            if kind == "publish":
                self._publisher.publish(to, what)
                continue
            peer = self.peers.by_client.get(to)
            if kind == "ack":
                self._departures.stored(to, what)
                self.credit.stored(to, what)
                what = p.Ack(what)
            if peer is not None:
                self._send(peer.identity, what)

    def _send(self, identity: bytes, message: p.Message) -> None:
        try:
            self._router.send_multipart([identity, p.pack(message)], zmq.DONTWAIT)
        except zmq.ZMQError:
            pass  # gone meanwhile; what it must know it asks again


def _address(frame: zmq.Frame) -> str:
    try:
        address = frame.get("Peer-Address")
    except zmq.ZMQError:
        return ""
    return address if isinstance(address, str) else str(address)
