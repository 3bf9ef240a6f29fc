"""What is happening now? Live samples, stages, devices and health, as the daemon publishes them.

Publishing never waits for a slow reader: what a reader is too slow for is lost to it, and counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

import zmq

from energyd_client import curve
from energyd_client.protocol import DeviceList, Health, Message, Samples, StageState, unpack

ALL_TOPICS = ("samples/", "stages/", "devices", "health")


class Subscriber:
    """Iterate over live messages of a daemon; use as a context manager, in one thread.

    `endpoint` is where it publishes (`publish` in Welcome and in the answer to `ask_status`). `topics`
    are beginnings of topics, e.g. `samples/0`. Who comes late gets the last value of each topic first.
    `lost` counts messages that were published and did not arrive, `lost_by_topic` says where.
    """

    def __init__(self, endpoint: str, topics: Iterable[str] = ALL_TOPICS) -> None:
        self.endpoint = endpoint
        self.lost_by_topic: dict[str, int] = {}
        self.garbage = 0
        self._last: dict[str, int] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        try:
            for topic in topics:
                self._socket.subscribe(topic)
            curve.secure(self._socket, endpoint)
            self._socket.connect(endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """Messages lost so far, over all topics."""
        return sum(self.lost_by_topic.values())

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None if none comes within `timeout_s` seconds (None: wait for ever)."""
        while self._socket.poll(None if timeout_s is None else max(0, int(1000 * timeout_s))):
            frames = self._socket.recv_multipart()
            try:
                topic, message = frames[0].decode(), unpack(frames[1])
                if not isinstance(message, (Samples, StageState, DeviceList, Health)):
                    raise ValueError("not a published message")
                if not self._is_new(topic, message):
                    continue
            except (ValueError, IndexError, TypeError):
                self.garbage += 1
                continue
            return message
        return None

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = self.receive()
            if message is not None:
                yield message

    def _is_new(self, topic: str, message: Samples | StageState | DeviceList | Health) -> bool:
        last = self._last.get(topic)
        if message.n == last:
            return False  # said again for somebody who came late
        # A lower number is a daemon started anew; what its predecessor said last cannot be known.
        if last is not None and message.n > last + 1:
            self.lost_by_topic[topic] = self.lost_by_topic.get(topic, 0) + message.n - last - 1
        self._last[topic] = message.n
        if isinstance(message, StageState) and message.state == "final":
            del self._last[topic]  # nothing follows; a long watch must not remember every stage
        return True

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
