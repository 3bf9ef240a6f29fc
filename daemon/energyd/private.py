"""Which daemon measures a command: the one that runs, or one of our own for as long as the command takes?"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from energyd.config import Config, resolve
from energyd.launch import await_samples, launch
from energyd.store.lock import living_holder
from energyd_client import endpoints, reach

STOP_WAIT_S: Final = 30.0


class Found:
    """A daemon to measure with. `close` lets it go if it is ours; what it stored stays."""

    def __init__(self, endpoint: str, spool: Path, store: Path | None) -> None:
        self.endpoint, self.spool, self.store = endpoint, spool, store
        self.process: subprocess.Popen[bytes] | None = None
        self.complete = True  # every device had a sample before the command began
        self._lease: int | None = None

    @property
    def is_private(self) -> bool:
        """Whether it lives for us alone."""
        return self.process is not None

    def start(self, config: Config) -> None:
        """Make it ours: a daemon that ends once we are gone and nothing is open. Raises LaunchError."""
        watched, self._lease = os.pipe()  # not inheritable: our end closes with us, however we die
        try:
            self.process = launch(config, [], lease_fd=watched)
        finally:
            os.close(watched)
        self.complete = await_samples(self.endpoint)

    def close(self) -> bool:
        """Let a private daemon store everything and end. False: it stays for what is still open."""
        if self._lease is None or self.process is None:
            return True
        left_behind = self._still_open() > 0
        os.close(self._lease)
        self._lease = None
        if not left_behind:
            self.process.terminate()
            try:
                self.process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                pass  # it still stores; it ends by itself
        self.process.returncode = self.process.returncode or 0  # Popen must not complain that it lives on
        return not left_behind

    def _still_open(self) -> int:
        """Runs and stages of programs that the command left running; 0 where nobody answers."""
        from energyd_client.errors import EnergydError
        from energyd_client.protocol import AskStatus
        from energyd_client.request import ask

        try:
            body = ask(self.endpoint, AskStatus(req=1), timeout_s=3)
            return int(body["open_runs"]) + int(body["open_stages"])
        except EnergydError:
            return 0


def find(store: Path | None, source: str) -> Found:
    """The daemon on `store`, or (None) the machine's; a private one is started where there is none.

    `source`: of a private one. Raises LaunchError and ConfigError.
    """
    if store is None and reach.obstacle(endpoints.default_endpoint()) is None:
        return Found(endpoints.default_endpoint(), endpoints.default_spool(), None)
    if store is not None:
        holder = _holder(store.absolute() / "lock")
        if holder is not None:
            return Found(holder, _spool(store.absolute()), store.absolute())
    folder = store.absolute() if store is not None else Path(tempfile.mkdtemp(prefix="energyd-run-"))
    config = _config(folder, source)
    found = Found(config.endpoint, config.spool, folder)
    found.start(config)
    return found


def _config(folder: Path, source: str) -> Config:
    """A private daemon's settings: all of it in its folder, but the socket where that path is too long."""
    socket = folder / endpoints.SOCKET_NAME
    if len(os.fsencode(str(socket))) + len(".live") > endpoints.MAX_IPC_PATH:
        socket = Path(tempfile.mkdtemp(prefix="energyd-")) / endpoints.SOCKET_NAME
    config = resolve(store=folder, endpoint=f"ipc://{socket}", source=source)
    return replace(config, spool=folder / "spool")


def _holder(lock: Path) -> str | None:
    """The endpoint of the daemon that lives on a store; None if none does."""
    try:
        return str(living_holder(lock)["endpoint"])
    except (FileNotFoundError, KeyError):
        return None


def _spool(store: Path) -> Path:
    own = store / "spool"
    return own if own.is_dir() else endpoints.default_spool()
