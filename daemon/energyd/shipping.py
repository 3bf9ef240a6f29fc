"""When are sealed segments shipped to the lake, and how does that stand? A thread, off unless asked for.

It links what was sealed into the outbox and has a child process (`store/ship_files.py`) send it. A lake that
is away costs a link a file; it is tried again after 5 s, then ever later, up to 10 minutes.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from energyd.config import Config
from energyd.store.lake import address
from energyd.store.outbox import Outbox, Waiting
from energyd.store.ship_files import Order, Outcome
from energyd_client.version import __version__

log = logging.getLogger("energyd")

STEP_S: Final = 1.0
RETRY_S: Final = 5.0
"""After which a lake that was away is asked again, at first; then twice as long each time."""
MOST_RETRY_S: Final = 600.0
MOST_TOLD: Final = 5
"""Refused segments of one shipping that are logged one by one."""


@dataclass
class Standing:
    """What status tells of it."""

    url: str
    files: int = 0  # shipped since the start
    bytes: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0
    waiting_since_hour: int | None = None  # t_ns // 3600e9
    owed_days: int = 0  # dropped from the outbox, to come from the store
    refused_files: int = 0
    error: str | None = None
    shipped_ns: int | None = None  # store time of the last success
    clock_s: float | None = None
    clock_doubt_s: float | None = None


class Shipper:
    """Ships one store. `hour()` is the first hour that is not sealed, `now_ns()` store time."""

    def __init__(
        self,
        config: Config,
        host_id: str,
        hour: Callable[[], int],
        now_ns: Callable[[], int],
        complain: Callable[[str, str | None], None],
    ) -> None:
        assert config.lake is not None
        self._config = config
        self._hour, self._now_ns, self._complain = hour, now_ns, complain
        self._outbox = Outbox(config.store, config.outbox_bytes, config.ship_each)
        self.standing = Standing(address(config.lake).url)
        about = {"hostname": socket.gethostname(), "version": __version__}
        keys = None if config.lake_keys is None else str(config.lake_keys)
        self._order = Order(str(config.store), host_id, config.lake, keys, config.ship, about)
        self._child: subprocess.Popen[str] | None = None
        self._not_before = 0.0
        self._retry_s = RETRY_S
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="shipper")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and the child with it: what it has not shipped stays in the outbox."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._out.close()
            self._said.close()

    def facts(self) -> dict[str, Any]:
        """As status has it."""
        with self._lock:
            return asdict(self.standing)

    def _loop(self) -> None:
        while not self._stop.wait(STEP_S):
            try:
                self._step()
            except Exception:  # a bug here must not end the shipping, and never the measuring
                log.exception("lake: unexpected error, going on")
                self._not_before = time.monotonic() + MOST_RETRY_S

    def _step(self) -> None:
        if self._child is not None:
            if self._child.poll() is None:
                return
            self._ended()
        try:
            waiting = self._outbox.collect(self._hour())
        except OSError as error:
            self._say(f"cannot write {self._outbox.root}: {error.strerror}", for_good=False)
            return
        self._note(waiting)
        if waiting and time.monotonic() >= self._not_before:
            self._begin()

    def _begin(self) -> None:
        command = [sys.executable, "-m", "energyd.store.ship_files"]
        # Files, not pipes: nobody reads until it has ended, and why 400 segments are refused fills a pipe.
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._out, stderr=self._said, text=True
        )
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(asdict(self._order)))
        self._child.stdin.close()
        self._child.stdin = None

    def _ended(self) -> None:
        assert self._child is not None
        code, self._child = self._child.returncode, None
        with self._out, self._said:
            for file in (self._out, self._said):
                file.seek(0)
            out, said = self._out.read(), self._said.read()
        try:
            outcome = Outcome(**json.loads(out))
        except (ValueError, TypeError):
            told = (said.strip().splitlines() or [f"exit {code}"])[-1]
            outcome = Outcome(error=f"the shipping process failed: {told}")
        with self._lock:
            self.standing.files += outcome.files
            self.standing.bytes += outcome.bytes
            if outcome.clock_s is not None:
                self.standing.shipped_ns = self._now_ns()
                self.standing.clock_s = outcome.clock_s
                self.standing.clock_doubt_s = outcome.clock_doubt_s
        for why in outcome.refused[:MOST_TOLD]:
            log.error("lake: %s", why)
            self._complain("lake-refused", f"lake: {why.splitlines()[0]}")
        if (more := len(outcome.refused) - MOST_TOLD) > 0:
            log.error("lake: %d more were refused, see outbox/refused", more)
        if outcome.error is None:
            if self.standing.error is not None:
                log.info("lake: %s takes segments again", self.standing.url)
            self._retry_s, self._not_before = RETRY_S, 0.0
            self._say(None, for_good=False)
            return
        self._not_before = time.monotonic() + (MOST_RETRY_S if outcome.for_good else self._retry_s)
        self._retry_s = min(self._retry_s * 2, MOST_RETRY_S)
        self._say(outcome.error, for_good=outcome.for_good)

    def _say(self, error: str | None, *, for_good: bool) -> None:
        """Keep why it does not go; log it once. What somebody must mend makes the daemon DEGRADED."""
        if error is not None and error != self.standing.error:
            log.error("lake: %s", error)
        with self._lock:
            self.standing.error = error
        self._complain("lake", f"lake: {error.splitlines()[0]}" if error and for_good else None)

    def _note(self, waiting: list[Waiting]) -> None:
        with self._lock:
            self.standing.waiting_files = len(waiting)
            self.standing.waiting_bytes = sum(w.size_bytes for w in waiting)
            self.standing.waiting_since_hour = waiting[0].end_hour - 1 if waiting else None
            self.standing.owed_days = len(self._outbox.state.owed)
            self.standing.refused_files = self._outbox.refused()
