"""What survives if this process is killed before the daemon has stored its markers?

One file per process, `<client>.spool`: frames of [u32 length][u32 crc32][message], little-endian. The
first message is the Hello. The writer holds a flock on it, so a spool whose lock is free is a dead
process's, whatever pid namespace that lived in. Each marker is one appending write and no fsync: a
killed process loses nothing that the kernel has taken, and a power cut is no promise of ours.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from energyd_client.protocol import MAX_FRAME_BYTES

CAP_BYTES: Final = 64 * 2**20
"""A spool never grows beyond this."""

RELEASE_BYTES: Final = 2**20
"""A spool beyond this is emptied as soon as everything in it is acknowledged."""

REWRITE_BYTES: Final = 4 * 2**20
"""A spool beyond this is written anew with only what is outstanding: a steady flow is never all acked."""

_HEAD: Final = struct.Struct("<II")


class Spool:
    """The writer's side. Not thread-safe: its owner holds a lock. No method raises for a sick disk."""

    def __init__(self, folder: Path, client: str, hello: bytes) -> None:
        self.path = folder / f"{client}.spool"
        self.reason: str | None = None  # why nothing is kept
        self.size = 0
        self._hello = _frame(hello)
        self._fd = -1
        try:
            self._fd = _create(self.path, self._hello)
            self.size = len(self._hello)
        except OSError as error:
            self.reason = f"{error.strerror or error}: {folder}"

    def append(self, data: bytes) -> bool:
        """Keep one message. False if it could not be kept, with `reason`."""
        frame = _frame(data)
        if self._fd < 0:
            return False
        if self.size + len(frame) > CAP_BYTES:
            self.reason = f"the spool is full ({CAP_BYTES >> 20} MiB)"
            return False
        try:
            written = os.write(self._fd, frame)
            if written < len(frame):  # no space: a torn frame would hide all that follows it
                os.ftruncate(self._fd, self.size)
                self.reason = "no space left for the spool"
                return False
        except OSError as error:
            self.reason = error.strerror or str(error)
            return False
        self.size += written
        return True

    def read(self, offset: int, limit_bytes: int) -> tuple[list[bytes], int]:
        """Messages from `offset` on, about `limit_bytes` of them, and the offset after the last."""
        try:
            raw = os.pread(self._fd, max(limit_bytes, MAX_FRAME_BYTES + _HEAD.size), offset)
        except OSError:
            raw = b""
        whole = list(frames(raw))
        return [data for data, _ in whole], offset + (whole[-1][1] if whole else 0)

    def release(self, outstanding: Sequence[bytes]) -> None:
        """Forget the acknowledged part, if the file is worth the work. `outstanding`: all that is not."""
        if self._fd < 0 or self.size <= RELEASE_BYTES:
            return
        try:
            if not outstanding:
                os.ftruncate(self._fd, len(self._hello))
                self.size = len(self._hello)
            elif self.size > REWRITE_BYTES and sum(map(len, outstanding)) < self.size // 2:
                content = b"".join([self._hello, *map(_frame, outstanding)])
                fd = _create(self.path, content)
                os.close(self._fd)
                self._fd, self.size = fd, len(content)
        except OSError:
            pass  # the old file is whole, only larger than it need be

    def close(self, *, unlink: bool) -> None:
        """Let go of the file; `unlink` it when the daemon has everything."""
        if self._fd < 0:
            return
        if unlink:
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                pass  # the daemon collects and removes what dead processes leave
        os.close(self._fd)  # last: it gives up the lock
        self._fd = -1


def _create(path: Path, content: bytes) -> int:
    """A spool with `content` and our lock on it, which appears under its name only when it has both.

    A reader sees the file that was there before or this one, never half. Raises OSError.
    """
    new = path.with_suffix(".new")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o640)
    try:
        os.fchmod(fd, 0o640)  # whatever the umask: the daemon reads it as a member of the group
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(fd, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        new.rename(path)
    except OSError:
        os.close(fd)
        new.unlink(missing_ok=True)
        raise
    return fd


def _frame(data: bytes) -> bytes:
    return b"".join((len(data).to_bytes(4, "little"), zlib.crc32(data).to_bytes(4, "little"), data))


def frames(raw: bytes) -> Iterator[tuple[bytes, int]]:
    """Whole messages of `raw` and where each ends; stops at the first that is torn or damaged."""
    start = 0
    while start + _HEAD.size <= len(raw):
        length, crc = _HEAD.unpack_from(raw, start)
        end = start + _HEAD.size + length
        data = raw[start + _HEAD.size : end]
        if not 0 < length <= MAX_FRAME_BYTES or end > len(raw) or zlib.crc32(data) != crc:
            return
        yield data, end
        start = end
