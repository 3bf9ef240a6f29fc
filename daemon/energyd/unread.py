"""How much of what a peer was told does it leave unread? Bodies of answers are large, and a peer may ask on.

libzmq counts messages, not bytes: 8,000 tails of some MB would fill any memory. It does say when it has let
go of a frame that it did not copy: written to the kernel's buffer, or its peer is gone.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import zmq

MOST: Final = 16 << 20
"""Bytes unread of one peer, and the one answer that goes beyond."""
MOST_ALL: Final = 256 << 20
"""Of all peers together, and one answer more."""


class Unread:
    """Answers on their way. Used by the wire thread alone."""

    def __init__(self) -> None:
        self._sent: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}

    def may_ask(self, identity: bytes) -> bool:
        """Whether what waits leaves room for another answer."""
        for other in list(self._sent):
            waiting = self._sent[other]
            while waiting and waiting[0][0].done:
                waiting.popleft()
            if not waiting:
                del self._sent[other]
        mine, every = self._bytes(identity), sum(map(self._bytes, self._sent))
        return mine < MOST and every < MOST_ALL

    def send(self, router: zmq.Socket[bytes], identity: bytes, body: bytes) -> None:
        """Send an answer and keep count of it. Raises zmq.ZMQError."""
        frame = zmq.Frame(body, copy=False, track=True, copy_threshold=0)
        router.send_multipart([identity, frame], zmq.DONTWAIT, copy=False)
        assert frame.tracker is not None
        self._sent.setdefault(identity, deque()).append((frame.tracker, len(body)))

    def _bytes(self, identity: bytes) -> int:
        return sum(n for _, n in self._sent.get(identity, ()))
