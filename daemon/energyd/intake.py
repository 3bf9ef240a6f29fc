"""What do clients say and ask? The one thread that owns the sockets: markers in, acks and answers out.

It never touches the disk and never waits for the recorder. A message that is refused gets a reply that
names the field; the connection goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from energyd.inbox import ClientGone, Inbox
from energyd.peers import DeadSpool, Peer, Peers, dead_spools
from energyd.publisher import Publisher, bind_ipc
from energyd.stages import Incoming
from energyd.timeline import Timeline
from energyd.wire import WireError, decode
from energyd_client import clock
from energyd_client import protocol as p
from energyd_client.version import __version__

log = logging.getLogger("energyd")

BURST: Final = 2_000
"""Frames read before the other sockets get their turn."""

SPOOL_SCAN_S: Final = 1.0
REJOIN_S: Final = 10.0
"""After a start, how long a process that an earlier daemon knew may take to say HELLO again."""

ARRIVAL_DOUBT_NS: Final = 100_000_000
"""Doubt of a stamp replaced by its arrival: senders batch for 20 ms, and again after a reconnect."""

FUTURE_NS: Final = 1_000_000_000
"""A stamp further ahead than this is not believed."""

Answerer = Callable[[p.Question], dict[str, Any] | p.Refusal]


class Intake:
    """ROUTER and XPUB. Implements the recorder's Voice; its methods may be called from any thread."""

    def __init__(
        self,
        endpoint: str,
        publish: str,
        spool: Path,
        inbox: Inbox,
        timeline: Timeline,
        stored_seq: dict[str, int],
        expected: set[str],
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        # At a high-water mark libzmq loses what clients wrote (4.6 % measured): the credit window bounds.
        self._router.setsockopt(zmq.RCVHWM, 0)
        self._router.setsockopt(zmq.SNDHWM, 0)
        self._router.setsockopt(zmq.MAXMSGSIZE, p.MAX_FRAME_BYTES)
        self._router.setsockopt(zmq.LINGER, 200)
        bind_ipc(self._router, endpoint)
        self._publisher = Publisher(self._context, publish)
        self._publish_endpoint = publish
        self._spool = spool
        self._inbox = inbox
        self._timeline = timeline
        self._stored_seq = stored_seq  # the recorder's: what a reconnecting client need not send again
        self._expected = expected  # clients with something open whom we have not heard yet
        self._expect_until = time.monotonic() + REJOIN_S
        self.peers = Peers()
        self.refused: dict[str, int] = {}
        self.answer: Answerer = lambda question: p.Refusal("not_ready", "the daemon is starting")
        self._outbox: deque[tuple[str, Any, Any]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._collected: dict[str, tuple[int, Path]] = {}  # client: last seq, spool that waits for its commit
        self._thread = threading.Thread(target=self._loop, name="wire")

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
        os.eventfd_write(self._bell, 1)

    # ---- the wire thread ---------------------------------------------------------------------------------

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._publisher.socket, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        watched: dict[int, str] = {}  # pidfd: client
        next_scan = 0.0
        while not self._stop.is_set():
            ready = dict(poller.poll(int(SPOOL_SCAN_S * 1000)))
            try:
                if self._bell in ready:
                    os.eventfd_read(self._bell)
                self._receive()
                self._publisher.subscriptions()
                for fd in [fd for fd in watched if fd in ready]:
                    poller.unregister(fd)
                    self._died(watched.pop(fd))
                if time.monotonic() >= next_scan:
                    next_scan = time.monotonic() + SPOOL_SCAN_S
                    self._scan()
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
        self._context.term()
        self.peers.close()
        os.close(self._bell)

    def _receive(self) -> None:
        markers: list[Incoming | ClientGone] = []
        arrived = self._timeline.now_ns()
        for _ in range(BURST):
            try:
                frames = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            identity, frame = frames[0].bytes, frames[-1]
            try:
                if len(frames) != 2:
                    raise WireError("malformed", f"{len(frames) - 1} frames; a message is one")
                message = decode(frame.buffer)
                self._message(identity, message, frame, arrived, markers)
            except WireError as error:
                self._refuse_frame(identity, frame, error)
        if markers:
            self._inbox.put_markers(markers)

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
        elif isinstance(message, p.AskStatus | p.AskTail | p.AskStage):
            reply = self.answer(message)
            if isinstance(reply, p.Refusal):
                reply.req = message.req
                self._send(identity, reply)
            else:
                self._send(identity, p.Answer(message.req, reply))
        elif peer is None:
            raise WireError("hello_first", "say HELLO before anything else")
        elif isinstance(message, p.Bye):
            out.append(ClientGone(peer.client, arrived_ns, 0))
            self.peers.forget(peer.client)
        else:
            assert isinstance(message, p.MARKERS)
            out.append(self._incoming(peer, message, arrived_ns))

    def _hello(self, identity: bytes, hello: p.Hello, address: str) -> None:
        peer = self.peers.welcome(identity, hello, address)
        self._expected.discard(peer.client)
        last = self._stored_seq.get(peer.client, 0)
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
                self._release_spool(to, what)
                what = p.Ack(what)
            if peer is not None:
                self._send(peer.identity, what)

    def _send(self, identity: bytes, message: p.Message) -> None:
        try:
            self._router.send_multipart([identity, p.pack(message)], zmq.DONTWAIT)
        except zmq.ZMQError:
            pass  # gone meanwhile; what it must know it asks again

    # ---- the dead ------------------------------------------------------------------------------------------

    def _died(self, client: str) -> None:
        """A process is gone: take what it had left in socket and spool, then close what it left open."""
        now = self._timeline.now_ns()
        self._receive()  # its last words may still lie in the socket
        self.peers.forget(client)
        self._collect(next((s for s in dead_spools(self._spool) if s.hello.client == client), None))
        self._inbox.put_markers([ClientGone(client, now, 0)])

    def _scan(self) -> None:
        """Spools of processes that died while no daemon, or an earlier one, was there."""
        for spool in dead_spools(self._spool):
            client = spool.hello.client
            if client not in self.peers.by_client and client not in self._collected:
                self._collect(spool)
                self._expected.discard(client)
                # When it died is not known, only that it had lived until its last marker.
                now = self._timeline.now_ns()
                last = self._timeline.to_store(spool.markers[-1].t_ns) if spool.markers else now
                last = min(last, now) if spool.hello.boot_id == clock.boot_id() else now
                self._inbox.put_markers([ClientGone(client, last, now - last)])
        if self._expected and time.monotonic() > self._expect_until:
            now = self._timeline.now_ns()
            gone = [ClientGone(c, now, int(REJOIN_S * 1e9)) for c in self._expected]
            self._inbox.put_markers(gone)
            self._expected.clear()

    def _release_spool(self, client: str, stored_seq: int) -> None:
        """A dead client's spool goes once its last marker is stored, and not before."""
        last_seq, path = self._collected.get(client, (0, None))
        if path is not None and stored_seq >= last_seq:
            path.unlink(missing_ok=True)
            del self._collected[client]

    def _collect(self, spool: DeadSpool | None) -> None:
        if spool is None:
            return
        hello = spool.hello
        clock_ok = hello.boot_id == clock.boot_id() and hello.timens == clock.timens_inode()
        peer = Peer(b"", hello.client, clock_ok, spool.uid, spool.gid, hello.pid, None)
        now = self._timeline.now_ns()
        if spool.markers:
            self._collected[hello.client] = (spool.markers[-1].seq, spool.path)
            self._inbox.put_markers([self._incoming(peer, m, now) for m in spool.markers])
        else:
            spool.path.unlink(missing_ok=True)


def _address(frame: zmq.Frame) -> str:
    try:
        address = frame.get("Peer-Address")
    except zmq.ZMQError:
        return ""
    return address if isinstance(address, str) else str(address)
