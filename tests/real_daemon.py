"""A real daemon and real clients, each in its own process, over a fresh store; energyq's answers about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_process
from energyd_client.protocol import AskStatus
from energyd_client.request import ask


def wait_for(what: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true answer; fails the test when none comes in time.

    It rests twice as long as it asked: on two cores, who asks without rest holds up what he waits for.
    """
    deadline = time.monotonic() + timeout_s
    while (began := time.monotonic()) < deadline:
        found = what()
        if found:
            return found
        time.sleep(min(0.25, max(0.02, 2 * (time.monotonic() - began))))
    raise AssertionError(f"never came true: {what}")


class Daemon:
    """One store and the daemon on it."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.store = folder / "s"
        self.endpoint = f"ipc://{folder / 'e.sock'}"
        self.spool = folder / "spool"
        self.log = folder / "log"
        self.env = {
            **os.environ,
            **env,
            "ENERGYD_ENDPOINT": self.endpoint,
            "ENERGYD_SPOOL": str(self.spool),
            "PYTHONUNBUFFERED": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, source: str = "auto", wait: bool = True) -> Daemon:
        self.spawn(self.command(*options, source=source))
        if wait:
            wait_for(self.holder)
        return self

    def command(self, *options: str, source: str = "auto") -> list[str]:
        command = [sys.executable, "-m", "energyd", "start", "--foreground", "--store", str(self.store)]
        return [*command, "--source", source, *options]

    def spawn(self, command: list[str]) -> None:
        """Run what becomes the daemon, with what it says in the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def holder(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        text = (self.store / "lock").read_text() if (self.store / "lock").exists() else ""
        found: dict[str, Any] = json.loads(text) if text else {}
        return found if found.get("pid") == self.process.pid else {}

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any]:
        """As `energyd status --json` has it."""
        return ask(self.endpoint, AskStatus(0), 10)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """As `energyq --format json` has it."""
        return in_process.rows(self.store, sql)

    def plain(self, sql: str) -> tuple[Any, ...]:
        """One row as any DuckDB tool reads it. It opens anew when the catalogue was renewed meanwhile."""
        import duckdb  # not every test of a daemon needs it

        def once() -> tuple[Any, ...] | None:
            try:
                con = duckdb.connect(str(self.store / "energy.duckdb"), read_only=True)
            except duckdb.IOException:
                return None  # see store/catalogue.py
            with con:
                return con.execute(sql).fetchone()

        found: tuple[Any, ...] = wait_for(once)
        return found

    def run(self, module: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=60, check=False, **more
        )

    def program(self, code: str) -> subprocess.Popen[str]:
        """A Python program that finds this daemon."""
        command = [sys.executable, "-c", "import energyd_client as energy, time\n" + code]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.env, stdout=pipe, stderr=pipe, text=True)

    def finish(self, code: str) -> str:
        """Run a program to its end; what it printed."""
        process = self.program(code)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert err == "", err
        return out
