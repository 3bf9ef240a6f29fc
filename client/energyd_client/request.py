"""What does the daemon answer to one question?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import zmq

from energyd_client import curve, reach
from energyd_client.endpoints import default_endpoint
from energyd_client.errors import (
    DaemonAbsent,
    DaemonRefused,
    DaemonTimeout,
    EnergydError,
    KeyRefused,
    VersionMismatch,
)
from energyd_client.protocol import Answer, AskStage, Question, Refusal, pack, unpack

_numbers = count(1)
RETRY_S = 0.1


def ask(endpoint: str, question: Question, timeout_s: float) -> dict[str, Any]:
    """The body of the answer to `question`, whose `req` is set here. Shapes: PROTOCOL.md.

    Raises DaemonAbsent, PermissionRefused, DaemonTimeout (after `timeout_s` seconds), DaemonRefused or
    its child VersionMismatch. Opens a connection of its own, so any thread and process may call.
    """
    obstacle = reach.obstacle(endpoint)
    if obstacle is not None:
        raise obstacle
    question.req = next(_numbers)
    deadline = time.monotonic() + timeout_s
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 0
        link.rcvhwm = 0
        curve.secure(link, endpoint)
        with _refusals(link) as refusals:
            try:
                link.connect(endpoint)
            except zmq.ZMQError as error:
                raise DaemonAbsent(endpoint, str(error)) from None
            link.send(pack(question))
            while link.poll(max(0, int(1000 * (deadline - time.monotonic())))):
                try:
                    message = unpack(link.recv_multipart()[-1])
                except ValueError:
                    continue
                if isinstance(message, Answer) and message.req == question.req:
                    return message.body
                if isinstance(message, Refusal) and message.req in (None, question.req):
                    raise _refusal(message)
            if refusals.poll(0):
                what = f"the daemon at {endpoint} does not allow your key"
                raise KeyRefused(
                    what, "there: energyd keys allow KEY NAME, with what `energyd keys show` says here"
                )
    raise DaemonTimeout(endpoint, timeout_s)


@contextmanager
def _refusals(link: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    """Readable once the other side has refused our key. Left open, it would keep the context from ending."""
    monitor = link.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    try:
        yield monitor
    finally:
        link.disable_monitor()
        monitor.close(0)


def stage_result(stage_id: str, timeout_s: float, power: bool) -> dict[str, Any] | None:
    """The answer to `ask_stage` once the energy is final, or the latest within `timeout_s`, or None."""
    deadline = time.monotonic() + timeout_s
    latest: dict[str, Any] | None = None
    while (left := deadline - time.monotonic()) > 0:
        try:
            latest = ask(default_endpoint(), AskStage(0, stage_id, power), left)
            if latest.get("state") == "final":
                break
        except DaemonRefused as refusal:
            if refusal.code != "not_found":  # its begin may still be on the way
                break
        except EnergydError:
            break
        time.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
    return latest


def _refusal(message: Refusal) -> DaemonRefused:
    if message.code == "version":
        return VersionMismatch(message.message, message.field)
    return DaemonRefused(message.code, message.message, message.field)
