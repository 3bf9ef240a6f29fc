"""What has a dead process left on disk, and is it dead?

A process holds an flock on its spool while it lives, in whatever pid namespace: a free lock is a death. The
file's owner comes from the kernel and is the credential of all that the file says.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from energyd.wire import WireError, decode
from energyd_client.protocol import MARKERS, MAX_FRAME_BYTES, Hello, Marker
from energyd_client.spool import CAP_BYTES, frames

log = logging.getLogger("energyd")

READ_BYTES: Final = 4 * MAX_FRAME_BYTES
"""Read at a time. More than the longest record, so that each read brings one at least."""


class NotASpool(Exception):
    """A file under a spool's name that no client has written."""


class DeadSpool:
    """A dead process's spool, read piece by piece. `close` it."""

    def __init__(self, path: Path, fd: int, owner: os.stat_result) -> None:
        self.path = path
        self.client = path.stem
        self.uid, self.gid = owner.st_uid, owner.st_gid
        self.done = False
        self._fd = fd
        self._messages = self._read()
        hello = next(self._messages, None)
        if not isinstance(hello, Hello) or hello.client != self.client:
            raise NotASpool(path)
        self.hello = hello

    def take(self, limit: int) -> list[Marker]:
        """Up to `limit` markers more, checked like anything that strangers send; `done` after the last."""
        markers: list[Marker] = []
        while len(markers) < limit and not self.done:
            message = next(self._messages, None)
            if message is None:
                self.done = True
            elif not isinstance(message, Hello):
                markers.append(message)
        return markers

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _read(self) -> Iterator[Hello | Marker]:
        """Message by message, as far as the records are whole; no more than a spool can hold."""
        offset, told = 0, False
        while offset <= CAP_BYTES:
            end = 0
            try:
                raw = os.pread(self._fd, READ_BYTES, offset)
            except OSError as error:
                log.warning("spool: %s: cannot be read: %s", self.path.name, error)
                return
            for record, whole in frames(raw):
                end = whole
                try:
                    message = decode(record)
                except WireError as error:
                    if not told:  # once a file, or a hostile one would fill the log
                        log.warning("spool: %s: passed over a message: %s", self.path.name, error)
                    told = True
                    continue
                if isinstance(message, (Hello, *MARKERS)):
                    yield message
            if end == 0:
                return
            offset += end


def open_dead(path: Path) -> DeadSpool | None:
    """The spool of a process that is dead; None while it lives, and for what we may not read.

    Raises NotASpool.
    """
    found = _open(path)
    if found is None:
        return None
    fd, owner, free = found
    try:
        if free:
            return DeadSpool(path, fd, owner)
    except (NotASpool, OSError) as error:
        os.close(fd)
        raise NotASpool(path) from error
    os.close(fd)
    return None


def owner(path: Path) -> tuple[int, bool] | None:
    """(uid of a spool's owner, whether its process lives); None if there is none or we may not look."""
    found = _open(path)
    if found is None:
        return None
    fd, held, free = found
    os.close(fd)
    return held.st_uid, not free


def _open(path: Path) -> tuple[int, os.stat_result, bool] | None:
    """Descriptor, owner, and whether the lock was free (it is ours then); a link is not followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # not ours to read, or gone
    try:
        owner = os.fstat(fd)
        if stat.S_ISREG(owner.st_mode):  # a pipe under that name must not hold us
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return fd, owner, False
            return fd, owner, True
    except OSError:
        pass
    os.close(fd)
    return None
