"""What does a doctor's check get to see? The daemon if there is one, the store, and fresh probes.

A driver can hang for ever, and no signal ends a process that hangs inside one. Probes therefore run in
processes of their own; one that does not answer in time is killed, or left behind where that fails too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from energyd.store.lock import living_holder
from energyd_client import endpoints
from energyd_client.errors import DaemonAbsent, EnergydError
from energyd_client.protocol import AskStatus
from energyd_client.request import ask

_ANSWER_S: Final = 5.0

State = Literal["ok", "note", "absent", "degraded"]
"""`note`: worth knowing, nothing to cure. `absent`: not here, and not needed. Only `degraded` is bad."""


@dataclass(frozen=True)
class Row:
    """One thing looked at: how it is, and the cure where it is not well."""

    check: str
    name: str
    state: State
    what: str
    cure: str | None = None


class Hung(Exception):
    """A probe did not answer in time; the text says so."""


@dataclass
class Case:
    """What the checks look at. `facts` collects what they found beyond their rows."""

    store: Path
    timeout_s: float
    endpoint: str = ""
    daemon: dict[str, Any] | None = None  # its status
    daemon_error: str | None = None  # somebody holds the store or the socket, and does not answer
    facts: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)

    def probed(self, which: str) -> dict[str, Any]:
        """What the probe `gpu` or `cpu` found. Raises Hung, or RuntimeError with its last words."""
        return self.probes[which].answer()


def open_case(store: Path | None, timeout_s: float) -> Case:
    """Find the daemon (of `store`, else of the environment, else the machine's) and start the probes."""
    case = Case(store=(store or endpoints.default_store()).absolute(), timeout_s=timeout_s)
    _find_daemon(case, store is not None)
    case.probes["gpu"] = Probe("gpu", timeout_s)
    if case.daemon is None:  # else the daemon's own word counts: it may be allowed what we are not
        case.probes["cpu"] = Probe("cpu", timeout_s)
    case.probes["socket"] = Probe("socket", timeout_s, case.endpoint)
    case.probes["store"] = Probe("store", timeout_s, str(case.store))
    users_own = case.store.is_relative_to(Path.home()) and os.geteuid() != 0
    case.probes["unit"] = Probe("unit", timeout_s, "--user" if users_own else "--system")
    return case


def close_case(case: Case) -> None:
    """Leave no probe behind that can be ended."""
    for probe in case.probes.values():
        probe.end()


def _find_daemon(case: Case, named: bool) -> None:
    endpoint = case.endpoint = endpoints.default_endpoint()
    if named:
        case.endpoint = f"ipc://{case.store / endpoints.SOCKET_NAME}"
        lock = case.store / "lock"
        try:
            holder = living_holder(lock)
        except OSError:
            holder = {}
        if not holder:
            return
        endpoint = case.endpoint = str(holder["endpoint"])
    try:
        case.daemon = ask(endpoint, AskStatus(req=1), timeout_s=_ANSWER_S)
    except DaemonAbsent as error:
        case.daemon_error = str(error) if named else None
    except EnergydError as error:
        case.daemon_error = str(error)
    else:
        case.store = Path(case.daemon["store"])


class Probe:
    """`doctor_child` in a process of its own."""

    def __init__(self, which: str, timeout_s: float, *where: str) -> None:
        self._which = which
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._answer: dict[str, Any] | None = None
        self._error: Exception | None = None
        # From / and with our own path spelled out: `-m` puts the working directory first.
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "energyd.places" if where else "energyd.doctor_child", which, *where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
        )

    def answer(self) -> dict[str, Any]:
        """What it found; waits until its time is over. Raises Hung or RuntimeError."""
        if self._answer is None and self._error is None:
            self._collect()
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def _collect(self) -> None:
        try:
            out, err = self._process.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            left = "" if self.end() else f"; process {self._process.pid} hangs inside it and cannot be ended"
            self._error = Hung(f"no answer in {self._timeout_s:g} s{left}")
            return
        if self._process.returncode:
            last = (err.strip().splitlines() or ["no word"])[-1]
            self._error = RuntimeError(f"the probe ended with code {self._process.returncode}: {last}")
            return
        self._answer = json.loads(out)

    def end(self) -> bool:
        """Kill it if it still runs; False if even that does not end it (a wait inside the kernel)."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.returncode = -9  # Popen must not wait for it at its own end
            return False
        return True
