"""How are the benchmark's processes started, spoken to and ended, whatever they do?"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Child:
    """One process that answers JSON lines. Its failures are words in `failed`, never exceptions."""

    def __init__(self, name: str, log: Path, *arguments: str) -> None:
        self.name, self.failed, self.version, self.ready = name, "", "", False
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._lines.put(json.loads(line))
            except ValueError:
                self._log.write(line)
        self._lines.put(None)

    def tell(self, **order: Any) -> None:
        """Give an order."""
        if self.failed or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self.failed = self.failed or f"its process ended: {error}"

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        """The next answer; None if it failed or said nothing in time."""
        if self.failed:
            return None
        try:
            answer = self._lines.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if answer is None:
            self.failed = f"its process ended (exit {self._process.poll()})"
        elif "failed" in answer:
            self.failed = str(answer["failed"])
            return None
        return answer

    def await_ready(self, timeout_s: float) -> bool:
        """Wait for its first word. A child that is too slow is given up."""
        answer = self.hear(timeout_s)
        if answer is None:
            self.failed = self.failed or f"not ready after {timeout_s:.0f} s"
            return False
        self.ready, self.version = True, str(answer.get("version", ""))
        return True

    def close(self, patience_s: float = 5.0) -> None:
        """Close its stdin, and kill it if that does not end it."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # with whatever it has started
            self._process.wait()
        self._log.close()
