"""How does a process start a daemon beside itself, and know that it is ready?

The daemon says over a pipe when clients may come, or why not. With a lease (the other end of a pipe that
the starter holds) it ends by itself once the starter is gone and nothing is open any more.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Final

from energyd.config import Config
from energyd.exits import CONFIG, FAILED
from energyd_client import endpoints

ENV_READY: Final = "ENERGYD_READY_FD"
ENV_LEASE: Final = "ENERGYD_LEASE_FD"
START_WAIT_S: Final = 60.0
FIRST_SAMPLES_S: Final = 10.0


class LaunchError(Exception):
    """It did not come up: what, where, cure in the text; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def launch(config: Config, more: list[str], lease_fd: int | None = None) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own and wait until it is ready; its log lies in its store.

    `more`: options besides those of `config` that are always handed over. `lease_fd`: the reading end of a
    pipe that the caller keeps open as long as it wants the daemon. Raises LaunchError.
    """
    log_path = config.store / "energyd.log"
    try:
        config.store.mkdir(mode=0o750, parents=True, exist_ok=True)
        log_file = log_path.open("ab")
        os.fchmod(log_file.fileno(), 0o640)  # as all of the store: the world does not read
    except OSError as error:
        raise LaunchError(
            f"cannot write {log_path}: {error.strerror}\n  cure: --store DIR with a folder you may write",
            CONFIG,
        ) from error
    reader, writer = os.pipe()
    handed = {ENV_READY: writer} if lease_fd is None else {ENV_READY: writer, ENV_LEASE: lease_fd}
    command = [
        sys.executable, "-m", "energyd", "start", "--foreground", "--store", str(config.store),
        "--interval", str(config.interval_s), "--source", config.source, "--speed", str(config.speed),
        *more,
    ]  # fmt: skip
    environment = {
        **os.environ, **{name: str(fd) for name, fd in handed.items()},
        endpoints.ENV_ENDPOINT: config.endpoint, endpoints.ENV_SPOOL: str(config.spool),
    }  # fmt: skip
    try:
        with log_file:
            child = subprocess.Popen(
                command, env=environment, pass_fds=list(handed.values()), stdin=subprocess.DEVNULL,
                stdout=log_file, stderr=log_file, start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        news = _read_news(reader)
    finally:
        os.close(reader)
    if news is None:
        child.poll()
        raise LaunchError(f"the daemon did not come up (exit {child.returncode})\n  see: {log_path}", FAILED)
    if not news["ok"]:
        child.wait()
        raise LaunchError(str(news["message"]), int(news["code"]))
    return child


def await_samples(endpoint: str) -> bool:
    """Wait until every device has a sample, so that a program started next is measured from its first line.

    False if some device had none in time. CodeCarbon's estimate is the slow one: its imports take seconds.
    """
    from energyd_client.errors import EnergydError
    from energyd_client.protocol import AskStatus
    from energyd_client.request import ask

    deadline = time.monotonic() + FIRST_SAMPLES_S
    while time.monotonic() < deadline:
        try:
            body = ask(endpoint, AskStatus(req=1), timeout_s=5)
        except EnergydError:
            return True  # a trace played once may be over already
        answered = {d["domain"] for d in body["domains"]}
        starting = any(d.get("is_starting") for d in body["domains"])
        sampled = all(d["last_t_ns"] is not None for d in body["devices"])
        if {"gpu", "cpu"} <= answered and sampled and not starting:
            return True
        time.sleep(0.05)
    return False


def inherited_fd(name: str) -> int | None:
    """The descriptor that the starter handed over under `name`, kept from our own children."""
    fd = os.environ.pop(name, None)
    if not fd:
        return None
    os.set_inheritable(int(fd), False)
    return int(fd)


def _read_news(fd: int) -> dict[str, Any] | None:
    ready, _, _ = select.select([fd], [], [], START_WAIT_S)
    data = os.read(fd, 65536) if ready else b""
    return json.loads(data) if data else None
