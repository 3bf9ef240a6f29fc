"""How do the parts become a daemon? Start in order, run until told to stop, stop in order."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from energyd import timeline
from energyd.activation import handed_over
from energyd.answers import Answers
from energyd.config import RELOADED, Config, ConfigError
from energyd.exporters import Exports
from energyd.extent import Survey
from energyd.inbox import Inbox
from energyd.intake import Intake
from energyd.ledger import Ledger
from energyd.notify import notify
from energyd.recorder import Recorder
from energyd.releasing import RELEASABLE
from energyd.restarting import Freshness
from energyd.sampler import Sampler, late_ms_p99
from energyd.shipping import Shipper
from energyd.sources.discover import discover
from energyd.store import HOUR_NS, Layout
from energyd.store.lake import LakeError, address
from energyd.store.live import LiveFiles
from energyd.store.load import Loaded, load
from energyd.store.lock import DaemonLock
from energyd.store.rebuild import REASON as DAMAGED
from energyd.store.salvage import ROWS_LOST, Mended, open_hot
from energyd.store.upkeep import Upkeep
from energyd_client import clock, endpoints
from energyd_client import protocol as p
from energyd_client.version import __version__

log = logging.getLogger("energyd")

PENDING_WAIT_S: Final = 3.0
"""How long a stop waits for a sample to follow the stages that have just ended."""

SWITCH_S: Final = 0.000_2
"""How long a busy thread keeps the interpreter from the others. The wire thread lets go of it at every
frame, and at Python's 5 ms waited for a busy recorder as often: half as many markers were acknowledged."""

SOURCE_WAIT_S: Final = 5.0
"""How long a start waits for its sources; a slower one is declared when it is there."""


class Service:
    """One daemon. `run` returns when it was told to stop."""

    def __init__(
        self, config: Config, again: Callable[[], Config] | None = None, lease_fd: int | None = None
    ) -> None:
        self.config = config
        self._lease_fd = lease_fd  # at its end of file nobody wants us any more
        self._settings = again or (lambda: config)  # read anew
        self._reload = threading.Event()
        self.unstored: str | None = None  # what the last commit could not store, once it has ended
        self.again: str | None = None  # why a fresh process is to go on, once it has ended for that
        self._stop = threading.Event()
        self._started_ns = 0
        self._listening: int | None = None  # our socket, where systemd holds it
        self._samplers: list[Sampler] = []
        self._line: timeline.Timeline
        self._survey: Survey
        self._shipper: Shipper | None = None

    def run(self, ready: Any = None) -> None:
        """Serve until SIGTERM, SIGINT or the end of a trace. `ready()` is called once clients may come.

        Raises ConfigError, AlreadyRunning, StoreError or SourceError before it is ready.
        """
        sys.setswitchinterval(SWITCH_S)
        self._listening = handed_over(_socket_path(self.config))
        with contextlib.ExitStack() as stack:
            self._serve(stack, ready)

    def stop(self, *_: object) -> None:
        """Ask it to end."""
        self._stop.set()

    def reload(self, *_: object) -> None:
        """Ask it to read its settings anew."""
        self._reload.set()

    def _serve(self, stack: contextlib.ExitStack, ready: Any) -> None:
        config = self.config
        _lake_must_have_address(config)  # before anything is opened that a refusal would leave open
        layout = Layout(config.store)
        _folders(config)
        store_lock = _lock(layout.lock)
        stack.callback(lambda: store_lock.release(self.unstored))
        socket_lock = _lock(Path(f"{_socket_path(config)}.lock"))
        stack.callback(socket_lock.release)
        exports = Exports(config)
        stack.callback(exports.close)

        sources = discover(config.source, speed=config.speed, interval_s=config.interval_s)
        store, mended = open_hot(layout)
        stack.callback(store.close)
        now_guess = time.time_ns() // HOUR_NS
        loaded = load(layout, store, clock.boot_id(), now_guess)
        self._line = line = timeline.begin(loaded.boot_offset_ns, loaded.newest_t_ns)
        self._started_ns = line.now_ns()
        inbox = Inbox()
        ledger = Ledger(line, loaded.devices, _why_silent(loaded, store_lock, mended))
        left = [*(s[0] for s in loaded.stages), *loaded.runs]
        expected = {row["client"]: row["uid"] for row in left if row["client"]}
        intake = Intake(
            config.endpoint, config.publish, config.spool, inbox, line, expected,
            None if config.listen is None else (config.listen, config.store), self._listening,
        )  # fmt: skip
        recorder = Recorder(store, LiveFiles(layout), line, ledger, inbox, intake, loaded)
        _complain(recorder, mended)
        store.set_meta(ROWS_LOST, "0")
        recorder.keeping.upkeep = Upkeep(layout, config.keep)
        stack.callback(recorder.keeping.upkeep.close)
        recorder.note("boots", (line.boot_id, self._started_ns, line.offset_ns, recorder.host_id,
                                socket.gethostname(), __version__))  # fmt: skip
        self._survey = Survey(config.store, recorder)
        self._survey.look()
        self._shipper = _shipper(config, recorder, line, stack)
        answers = Answers(config, recorder, lambda: self._about(intake), self._release)
        intake.answer, intake.stored = answers, recorder.clients.stored
        recorder.after_commit = lambda _: notify("WATCHDOG=1")

        self._samplers = [Sampler(source, inbox) for source in sources]
        self._begin_sampling(recorder)
        recorder.start()
        intake.start()
        exports.start()
        self._announce(store_lock, socket_lock)
        notify("READY=1", f"STATUS=sampling into {config.store}")
        log.info("energyd %s: store %s, socket %s", __version__, config.store, config.endpoint)
        if ready is not None:
            ready()
        try:
            self._wait(recorder, answers, intake)
        finally:
            notify("STOPPING=1")
            self._shut_down(recorder, intake)

    def _announce(self, *locks: DaemonLock) -> None:
        """Say in the locks' files who holds them."""
        facts = {
            "pid": os.getpid(),
            "endpoint": self.config.endpoint,
            "publish": self.config.publish,
            "version": __version__,
            "started_ns": self._started_ns,
            "store": str(self.config.store),
        }
        for lock in locks:
            lock.announce(facts)

    def _begin_sampling(self, recorder: Recorder) -> None:
        """Start every sampler and wait a little for what it finds. Raises SourceError."""
        recorder.awaits_sources = lambda: self._awaits_sources(recorder.ledger)
        for sampler in self._samplers:
            sampler.start()
        deadline = time.monotonic() + SOURCE_WAIT_S
        for sampler in self._samplers:
            if not sampler.ready.wait(max(0.0, deadline - time.monotonic())):
                log.warning("source %s is slow to start; its devices follow", sampler.source.name)
            elif sampler.failure is not None:
                raise sampler.failure

    def _awaits_sources(self, ledger: Ledger) -> bool:
        """Whether a source has yet to say its devices. Under the recorder's lock."""
        is_open = all(sampler.ready.is_set() for sampler in self._samplers)
        return not is_open or any(info.is_starting for info in ledger.domain_infos.values())

    def _wait(self, recorder: Recorder, answers: Answers, intake: Intake) -> None:
        """Publish health once a second until told to stop, a trace played once is over, or a lease is."""
        freshness = Freshness()
        while not self._stop.wait(1.0):
            with recorder.lock:
                domains = list(recorder.ledger.domain_infos.values())
            self._survey.look()
            self.again = freshness.lost(domains)
            if self.again is not None:
                return
            if self._reload.is_set():
                self._reload.clear()
                self._read_anew(recorder)
                if intake.gate is not None:
                    intake.gate.reload()
            intake.publish("health", p.Health(0, answers.status()))
            if recorder.taking.exhausted and not recorder.tracker.stages:
                log.info("the trace is over")
                return
            if self._lease_is_over() and not (recorder.tracker.runs or recorder.tracker.stages):
                log.info("who started us is gone, and nothing is open")
                return

    def _lease_is_over(self) -> bool:
        return self._lease_fd is not None and bool(select.select([self._lease_fd], [], [], 0)[0])

    def _read_anew(self, recorder: Recorder) -> None:
        """Take over what can change while we run; what cannot, or cannot be read, is said and stays."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        before = self.config
        try:
            after = self._settings()
        except ConfigError as error:
            log.error("reload: %s; everything stays as it was", error)
        else:
            changed = [f.name for f in fields(Config) if getattr(before, f.name) != getattr(after, f.name)]
            kept = [name for name in changed if name not in RELOADED]
            self.config = replace(before, **{name: getattr(after, name) for name in RELOADED})
            if recorder.keeping.upkeep is not None:
                recorder.keeping.upkeep.keep = self.config.keep
            taken = [name for name in changed if name in RELOADED]
            log.info("reload: %s", f"{', '.join(taken)} taken over" if taken else "nothing to take over")
            if kept:
                log.warning("reload: %s changed, which only a restart takes over", ", ".join(kept))
        notify("READY=1", f"STATUS=sampling into {before.store}")

    def _shut_down(self, recorder: Recorder, intake: Intake) -> None:
        recorder.awaits_sources = lambda: False
        deadline = time.monotonic() + PENDING_WAIT_S
        while time.monotonic() < deadline and _pending(recorder):
            time.sleep(0.05)
        for sampler in self._samplers:
            sampler.stop()
        recorder.stop()
        intake.stop()
        self.unstored = recorder.unstored

    def _release(self, for_s: int) -> dict[str, Any]:
        """Have sources that others may need let go, or (0) take them back."""
        leaves = {s.source.name: s.leave for s in self._samplers if s.source.name in RELEASABLE}
        until = [leave.take(for_s) for leave in leaves.values()]
        return {
            "sources": list(leaves),
            "until_ns": self._line.to_store(max(until)) if until else None,
        }

    def _about(self, intake: Intake) -> dict[str, Any]:
        away = [until for s in self._samplers if (until := s.leave.until_ns) is not None]
        return {
            "pid": os.getpid(),
            "version": __version__,
            "started_ns": self._started_ns,
            "sources": [s.source.name for s in self._samplers],
            "keep": dict(vars(self.config.keep)),
            "lake": None if self._shipper is None else self._shipper.facts(),
            **self._survey.facts(),
            "released_until_ns": self._line.to_store(max(away)) if away else None,
            "late_ms_p99": late_ms_p99(self._samplers),
            "refused": sum(intake.refused.values()),
            "turned_away": intake.credit.turned_away,
            "clients": len(intake.peers.by_client),
        }


def _pending(recorder: Recorder) -> bool:
    with recorder.lock:
        waiting = any(s.state == "ended" for s in recorder.tracker.stages.values())
    return waiting or recorder.inbox.waiting > 0


def _complain(recorder: Recorder, mended: Mended) -> None:
    """Say what was damaged: in the log, and in status for as long as this daemon lives."""
    for line in mended.said:
        log.error("store: %s", line)
    if mended.said:
        recorder.complain("damage", f"store: {'; '.join(mended.said)}; cure: stop, then `energyd recover`")


def _lake_must_have_address(config: Config) -> None:
    """Raises ConfigError where the lake's address is none."""
    try:
        if config.lake is not None:
            address(config.lake)
    except LakeError as error:
        raise ConfigError(str(error)) from None


def _shipper(
    config: Config, recorder: Recorder, line: timeline.Timeline, stack: contextlib.ExitStack
) -> Shipper | None:
    """Begin to ship, if there is a lake."""
    if config.lake is None:
        return None

    def hour() -> int:
        with recorder.lock:
            return recorder.marks.hour

    shipper = Shipper(config, recorder.host_id, hour, line.now_ns, recorder.complain)
    stack.callback(shipper.stop)
    shipper.start()
    return shipper


def _why_silent(loaded: Loaded, store_lock: DaemonLock, mended: Mended) -> str:
    """The reason of the gap between what is stored and the first sample of this start."""
    if mended.rows_lost:
        return DAMAGED
    if store_lock.left.get("unstored"):
        return "unstored"
    return "daemon_down" if loaded.same_boot else "reboot"


def _socket_path(config: Config) -> Path:
    path = endpoints.ipc_path(config.endpoint)
    assert path is not None  # as the settings were checked
    return path


def _folders(config: Config) -> None:
    """Make store, spool and socket folder. Raises ConfigError naming path, uid and cure."""
    socket_path = _socket_path(config)
    with _explained(config.store):
        config.store.mkdir(mode=0o750, parents=True, exist_ok=True)
        probe = config.store / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    with _explained(socket_path.parent):
        socket_path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with _explained(config.spool):
        if not config.spool.exists():
            config.spool.mkdir(parents=True)
            # Members of the group write their own spools and cannot remove those of others.
            try:
                config.spool.chmod(0o3770)
            except PermissionError:  # the unit's RestrictSUIDSGID
                config.spool.rmdir()  # one without that bit would take spools that the daemon cannot read
                raise ConfigError(
                    f"the service may not make its spool {config.spool} itself\n"
                    "  cure: systemd-tmpfiles --create energyd.conf, or energyd install-service"
                ) from None


def _lock(path: Path) -> DaemonLock:
    """Raises AlreadyRunning, or ConfigError where the file may not be opened."""
    with _explained(path, f"as its owner, or another --store and {endpoints.ENV_ENDPOINT}"):
        return DaemonLock(path)


@contextlib.contextmanager
def _explained(
    path: Path, cure: str = "--store DIR with a folder that you may write, or start the system service"
) -> Iterator[None]:
    """An OSError as one message with path, uid and cure: ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error} (uid {os.geteuid()})\n  cure: {cure}"
        ) from error


def handle_signals(service: Service) -> None:
    """SIGTERM and SIGINT end it in order; SIGHUP has it read its settings anew.

    In a terminal SIGHUP means that this was closed, and ends it as Ctrl-C does.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty()
    signal.signal(signal.SIGHUP, service.stop if terminal else service.reload)
    signal.signal(signal.SIGTERM, service.stop)
    signal.signal(signal.SIGINT, service.stop)
