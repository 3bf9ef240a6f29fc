"""What takes how much power right now, and what have the open stages cost so far?

`energyd top`: learns from the daemon where it publishes, listens, and draws. On a terminal it redraws a
few times a second until `q` (`s` sorts, `f` freezes); elsewhere it prints one plain line, or one JSON
object, per interval. It asks the daemon once and then only listens: nothing that is watched gets slower.
"""

from __future__ import annotations

import copy
import json
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live

from energyd.top_look import UNPRICED, Look, Rates
from energyd.top_state import S_NS, TopState
from energyd.top_text import as_json, line
from energyd.top_view import screen
from energyd_client import clock
from energyd_client.curve import live_endpoint
from energyd_client.errors import EnergydError, PermissionRefused
from energyd_client.protocol import AskStatus
from energyd_client.request import ask
from energyd_client.subscriber import ALL_TOPICS, Subscriber

DRAW_S: Final = 0.25
LINE_S: Final = 1.0
ASK_TIMEOUT_S: Final = 3.0
FIRST_WORD_S: Final = 3.0
"""How long `--once` waits for health, samples and open stages; health comes once a second."""

GONE_S: Final = 10.0
"""A log is not a screen that somebody looks at: lines end when the daemon was silent for so long."""
MAX_TAKE: Final = 5_000
HINT_WIDTH: Final = 76
"""Columns from which the keys are named and not only listed."""

OK, NO_DAEMON, DEGRADED, PERMISSION = 0, 3, 4, 5


def run_top(
    endpoint: str,
    *,
    interval_s: float | None = None,
    once: bool = False,
    json_output: bool = False,
    seconds: float | None = None,
    rates: Rates = UNPRICED,
) -> int:
    """Watch the daemon at `endpoint`; the exit code: 0, 3 no daemon, 4 degraded (`once`), 5 permission.

    `interval_s`: seconds between frames (default 0.25) or lines (default 1). `once`: one frame, line
    or object, then out. `seconds`: stop after so long. `rates`: of CO2e and money.
    Errors go to stderr: what, where, cure.
    """
    try:
        told = str(ask(endpoint, AskStatus(req=1), ASK_TIMEOUT_S)["publish"])
        publish = live_endpoint(endpoint, told)
        with Subscriber(publish, ALL_TOPICS) as feed:
            return watch(
                feed, endpoint, interval_s=interval_s, once=once, json_output=json_output, seconds=seconds,
                rates=rates,
            )  # fmt: skip
    except EnergydError as error:
        _complain(str(error))
        return PERMISSION if isinstance(error, PermissionRefused) else NO_DAEMON


def watch(
    feed: Subscriber,
    where: str,
    *,
    interval_s: float | None = None,
    once: bool = False,
    json_output: bool = False,
    seconds: float | None = None,
    rates: Rates = UNPRICED,
) -> int:
    """Show what `feed` brings, until told to stop; `where` is for people. See `run_top`."""
    state = TopState()
    end_ns = None if seconds is None else clock.now_ns() + int(seconds * S_NS)
    if once:
        return _once(state, feed, json_output, Look(rates=rates))
    if json_output or not _is_terminal():
        return _lines(state, feed, where, interval_s or LINE_S, end_ns, json_output, rates)
    return _live(state, feed, interval_s or DRAW_S, end_ns, Look(rates=rates))


def _once(state: TopState, feed: Subscriber, json_output: bool, look: Look) -> int:
    deadline_ns = clock.now_ns() + int(FIRST_WORD_S * S_NS)
    while clock.now_ns() < deadline_ns:
        _take(state, feed, 0.05)
        if state.is_whole():
            break
    now_ns = clock.now_ns()
    if json_output:
        _say(json.dumps(as_json(state, now_ns, look.rates)))
    else:
        console = Console()
        body, foot = screen(state, now_ns, time.time(), console.width, max(24, console.height), look=look)
        console.print(Group(body, "", foot))
    return OK if state.status is not None and state.status.get("state") == "ok" else DEGRADED


def _lines(
    state: TopState,
    feed: Subscriber,
    where: str,
    interval_s: float,
    end_ns: int | None,
    json_output: bool,
    rates: Rates,
) -> int:
    told: set[str] = set()
    try:
        next_ns = clock.now_ns()
        while True:
            next_ns += int(interval_s * S_NS)
            until_ns = next_ns if end_ns is None else min(next_ns, end_ns)
            while (now_ns := clock.now_ns()) < until_ns:
                _take(state, feed, (until_ns - now_ns) / S_NS)
            if json_output:
                text = json.dumps(as_json(state, now_ns, rates))
            else:
                text = line(state, now_ns, time.time(), told)
            _say(text)
            if end_ns is not None and now_ns >= end_ns:
                return OK
            if (state.silent_s(now_ns) or 0) > GONE_S:
                _complain(f"energyd fell silent\nat {where}\nsee: energyd status")
                return NO_DAEMON
    except KeyboardInterrupt:
        return OK
    except BrokenPipeError:  # `energyd top | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _live(state: TopState, feed: Subscriber, interval_s: float, end_ns: int | None, look: Look) -> int:
    console = Console()
    layout = Layout()
    body, foot = Layout(name="body", ratio=1), Layout(name="foot", size=1)
    layout.split_column(body, foot)
    frozen: tuple[TopState, int, float] | None = None  # the picture that stands still
    view = Live(layout, console=console, screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), _end_as_interrupt(), _keys() as pressed, view as live:
        while end_ns is None or clock.now_ns() < end_ns:
            _take(state, feed, 0)
            # The size is asked anew each time: a resize shows at the next frame.
            width, height = console.size
            shown, at_ns, wall_s = frozen or (state, clock.now_ns(), time.time())
            hint = f"  s sort: {look.order}  f freeze  q quits" if width >= HINT_WIDTH else "  s f q"
            upper, lower = screen(shown, at_ns, wall_s, width, height, hint, look, frozen is not None)
            body.update(upper)
            foot.update(lower)
            live.refresh()
            key = (pressed(interval_s) or "").lower()
            if key == "q":
                break
            if key == "s":
                look = look.next_order()
            if key in {"f", " "}:
                # What is heard meanwhile goes on being taken, so that nothing is lost by looking.
                frozen = None if frozen else (copy.deepcopy(state), clock.now_ns(), time.time())
    return OK


def _take(state: TopState, feed: Subscriber, timeout_s: float) -> None:
    """Everything that is here, or the first that comes within `timeout_s`."""
    message = feed.receive(timeout_s)
    taken = 0
    while message is not None:
        state.take(message, clock.now_ns())
        taken += 1
        # A daemon that talks faster than we take must not keep us from drawing.
        message = feed.receive(0) if taken < MAX_TAKE else None
    state.lost = feed.lost


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def _end_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP leave like Ctrl-C does, so that the terminal is put back as it was."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """A function that waits so many seconds for a key: single keys, no echo, Ctrl-C still interrupts."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(seconds: float) -> str | None:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 1).decode(errors="replace") if ready else None

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
