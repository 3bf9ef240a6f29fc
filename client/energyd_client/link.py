"""How does one connection to the daemon open, speak, hear and close?

The socket alone: what is sent, kept and sent again is the sender's business.
"""

from __future__ import annotations

import time
from typing import Final

import zmq

from energyd_client import curve, notes
from energyd_client.errors import DaemonAbsent, DaemonTimeout, EnergydError, VersionMismatch
from energyd_client.protocol import Ack, Message, Refusal, Welcome, unpack

WELCOME_S: Final = 4.0
"""Longest wait for the daemon's answer to Hello: two seconds for one that systemd starts because we come."""


class Link:
    """A DEALER of its own context, for one thread. `close` never waits; only `end` may, a moment."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        # Kept in attributes, and the sender in a list: a forked child must never collect the sockets.
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None  # readable once the connection is lost

    def open(self, endpoint: str, hello: bytes, wait_s: float = WELCOME_S) -> Welcome | EnergydError:
        """Connect, greet, and wait for the Welcome; what went wrong, if something did."""
        if curve.is_remote(endpoint):
            return DaemonAbsent(endpoint, "markers go to the daemon of their own machine, never over TCP")
        if self._context is None:
            self._context = zmq.Context()  # starts libzmq's I/O thread: only when somebody listens
        self.socket = socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0  # credit is our bound: libzmq loses messages at a high-water mark
        socket.immediate = 1  # queue nothing for a daemon that is not there: sending fails instead
        # An idle client must notice that its daemon was replaced: the new one asks for a Hello.
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            return DaemonAbsent(endpoint, str(error))
        deadline = time.monotonic() + wait_s
        if socket.poll(_until(deadline), zmq.POLLOUT):
            self.send(hello)
        while socket.poll(_until(deadline), zmq.POLLIN):
            message = self.receive()
            if isinstance(message, Welcome):
                return message
            if isinstance(message, Refusal) and message.code == "version":
                return VersionMismatch(message.message, message.field)
        return DaemonTimeout(endpoint, wait_s)

    def send(self, data: bytes) -> bool:
        """Send without waiting; False if nobody is connected any more."""
        assert self.socket is not None
        try:
            self.socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def has_word(self) -> bool:
        """Whether a message waits."""
        return self.socket is not None and bool(self.socket.poll(0, zmq.POLLIN))

    def receive(self) -> Message | None:
        """One message of the daemon; None, counted, for what makes no sense."""
        assert self.socket is not None
        try:
            message = unpack(self.socket.recv_multipart(zmq.NOBLOCK)[-1])
            if _sane(message):
                return message
        except (ValueError, zmq.Again):
            pass
        notes.count("garbage")
        return None

    def close(self, linger_ms: int = 0) -> None:
        """Hang up; what is still in the socket may take `linger_ms` to leave."""
        if self.socket is None:
            return
        if self.monitor is not None:  # left open, it would keep the context from ever ending
            self.socket.disable_monitor()
            self.monitor.close(0)
        self.socket.close(linger_ms)
        self.socket = self.monitor = None

    def end(self, linger_ms: int) -> None:
        """Hang up for good. Waits at most `linger_ms`: the one socket is closed before its context ends."""
        self.close(linger_ms)
        if self._context is not None:
            self._context.term()


def _sane(message: Message) -> bool:
    """Whether the numbers that we reckon with are numbers; the daemon is trusted, but not its bugs."""
    if isinstance(message, Welcome):
        return isinstance(message.credit, int) and isinstance(message.last_seq, int)
    if isinstance(message, Ack):
        return isinstance(message.seq, int)
    return True


def _until(deadline: float) -> int:
    return max(0, int(1000 * (deadline - time.monotonic())) + 1)
