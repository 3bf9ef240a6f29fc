"""Who writes to this store? One daemon, by flock, taken before any bind or open.

libzmq silently steals a socket path that is bound twice, and DuckDB tells only of its own file, so this
lock is what keeps two daemons apart. Its text tells readers where the daemon listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Final

READER_GRACE_S: Final = 2.0
"""A reader without a daemon holds a shared lock while it copies hot.duckdb (11 ms measured)."""


class AlreadyRunning(Exception):
    """Another daemon holds the lock. `holder` is what its lock file says."""

    def __init__(self, path: Path, holder: dict[str, Any]) -> None:
        self.holder = holder
        store = holder.get("store", path.parent)
        super().__init__(
            f"already running: pid {holder.get('pid', '?')} holds {path}\n"
            f"  cure: `energyd stop --store {store}`, or another --store or ENERGYD_ENDPOINT"
        )


class DaemonLock:
    """The exclusive lock of one store or one socket, held until `release` or death."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        deadline = time.monotonic() + READER_GRACE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = read_holder(path)
                if time.monotonic() > deadline or _alive(holder):
                    os.close(self._fd)
                    raise AlreadyRunning(path, holder) from None
                time.sleep(0.02)
        self.left = read_holder(path)  # what the one before, who is gone, left: see `release`
        os.ftruncate(self._fd, 0)

    def announce(self, facts: dict[str, Any]) -> None:
        """Write who holds the lock and where to reach him, as one line of JSON."""
        text = json.dumps(facts).encode() + b"\n"
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self, unstored: str | None = None) -> None:
        """Let the next daemon, or a reader, in; `unstored` tells them what did not get into the store."""
        text = json.dumps({"unstored": unstored}).encode() + b"\n" if unstored else b""
        os.pwrite(self._fd, text, 0)  # over the old text: on a full disk there is no other place
        os.ftruncate(self._fd, len(text))
        os.close(self._fd)


def read_holder(path: Path) -> dict[str, Any]:
    """What the lock file says of its holder; empty if nobody announced itself."""
    try:
        found = json.loads(path.read_text() or "{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held(path: Path) -> bool:
    """Whether a daemon holds the lock now. Raises OSError if the file cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def living_holder(path: Path) -> dict[str, Any]:
    """What the daemon that holds the lock now says of itself; empty if none does. Raises OSError."""
    return read_holder(path) if held(path) else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the announced daemon lives (a shared lock of a mere reader announces nobody)."""
    try:
        os.kill(int(holder["pid"]), 0)
    except (KeyError, ValueError, TypeError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
