"""Do subscribers hear what they asked for, and is nothing sent where nobody listens?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from energyd import publisher as under_test
from energyd.publisher import Publisher
from energyd_client import protocol as p
from real_daemon import wait_for


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def samples(device: int, t_ns: int) -> p.Samples:
    return p.Samples(0, device, [t_ns], [1], 1)


def test_nothing_is_packed_while_nobody_listens_and_who_comes_hears_the_last_and_all_that_follows(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[p.Message] = []
    pack = p.pack
    monkeypatch.setattr(under_test.p, "pack", lambda message: packed.append(message) or pack(message))
    endpoint = f"ipc://{tmp_path}/p.sock"
    publisher = Publisher(context, endpoint)
    for t_ns in (1, 2):
        publisher.publish("samples/0", samples(0, t_ns))
        publisher.publish("samples/1", samples(1, t_ns))
    assert packed == []
    with context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.setsockopt(zmq.RCVTIMEO, 20_000)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"samples/0")
        subscriber.connect(endpoint)
        assert publisher.socket.poll(20_000)
        publisher.subscriptions()
        publisher.publish("samples/0", samples(0, 3))
        publisher.publish("samples/1", samples(1, 3))
        heard = [p.unpack(subscriber.recv_multipart()[1]) for _ in range(2)]
        assert [(m.n, m.t_ns) for m in heard] == [(2, [2]), (3, [3])]  # type: ignore[union-attr]
        assert len(packed) == 2

    def gone() -> bool:
        publisher.subscriptions()
        before = len(packed)
        publisher.publish("samples/0", samples(0, 4))
        return len(packed) == before

    wait_for(gone)  # the last listener's end is told by the socket
    publisher.socket.close()
