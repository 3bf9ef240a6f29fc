"""What do live subscribers get? Numbered messages per topic on XPUB, and the last value for late comers.

A slow subscriber loses messages (libzmq drops at its high-water mark, the daemon never waits); the gap in
`n` shows it. Where nobody listens, nothing is packed or sent: a stage has two news at least.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import zmq

from energyd_client import protocol as p

News = p.Samples | p.StageState | p.DeviceList | p.Health


class Publisher:
    """The XPUB socket. Used by the wire thread alone."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 1024)  # subscriptions are short
        bind_ipc(self.socket, endpoint)
        self._n: dict[str, int] = {}
        self._last: dict[str, News] = {}
        self._wanted: set[bytes] = set()  # prefixes of topics that somebody has subscribed to

    def publish(self, topic: str, message: News) -> None:
        """Send to whoever subscribed, and keep it for those who come later."""
        message.n = self._n[topic] = self._n.get(topic, 0) + 1
        if self._wanted and topic.encode().startswith(tuple(self._wanted)):
            self._send(topic, message)
        if isinstance(message, p.StageState) and message.state == "final":
            self._n.pop(topic, None)
            self._last.pop(topic, None)
        else:
            self._last[topic] = message

    def subscriptions(self) -> None:
        """Answer new subscriptions with the last values of their topics."""
        while True:
            try:
                frame = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if frame[:1] == b"\x00":  # the last who had subscribed to it
                self._wanted.discard(frame[1:])
            if frame[:1] != b"\x01":
                continue
            self._wanted.add(frame[1:])
            prefix = frame[1:].decode(errors="replace")
            for topic, message in self._last.items():
                if topic.startswith(prefix):
                    self._send(topic, message)

    def _send(self, topic: str, message: News) -> None:
        self.socket.send_multipart([topic.encode(), p.pack(message)], zmq.DONTWAIT)


def bind_ipc(socket: zmq.Socket[bytes], endpoint: str, listening: int | None = None) -> None:
    """Bind so that group members may connect (connecting needs write): mode 0770.

    `listening`: a descriptor that is bound there already (`activation`); it is libzmq's from then on.
    """
    if listening is not None:
        socket.setsockopt(zmq.USE_FD, listening)
        socket.bind(endpoint)
        socket.setsockopt(zmq.USE_FD, -1)  # else a second endpoint would listen there too
        return
    umask: Callable[[int], int] = os.umask
    before = umask(0o007)
    try:
        socket.bind(endpoint)
    finally:
        umask(before)
