"""Who is on the other end of each socket, and is he still alive?

The kernel fills `Peer-Address` with uid, gid and pid of an ipc peer; a client cannot forge it. A pidfd on
that pid tells of its death at once, so that its open stages end when it did. What a dead process had
stamped but not delivered lies in its spool, whose flock it held while it lived.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from energyd.wire import WireError, decode
from energyd_client import clock
from energyd_client.protocol import MARKERS, Hello, Marker
from energyd_client.spool import read_frames

log = logging.getLogger("energyd")


@dataclass
class Peer:
    """A client that has said HELLO."""

    identity: bytes  # of its socket; a reconnect brings a new one
    client: str
    clock_ok: bool  # its stamps are on our clock
    uid: int | None
    gid: int | None
    pid: int | None
    pidfd: int | None


def credentials(address: str) -> tuple[int | None, int | None, int | None]:
    """(uid, gid, pid) from libzmq's `Peer-Address`: `localhost:UID:GID:PID` on ipc, else unknown."""
    parts = address.rsplit(":", 3)
    if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
        return None, None, None
    uid, gid, pid = (int(part) for part in parts[1:])
    return uid, gid, pid or None  # pid 0: not visible from our pid namespace


class Peers:
    """The connected clients."""

    def __init__(self) -> None:
        self.by_identity: dict[bytes, Peer] = {}
        self.by_client: dict[str, Peer] = {}
        self._timens = clock.timens_inode()

    def welcome(self, identity: bytes, hello: Hello, address: str) -> Peer:
        """Take a client in; it replaces its own earlier connection."""
        uid, gid, pid = credentials(address)
        clock_ok = hello.boot_id == clock.boot_id() and hello.timens == self._timens
        self.forget(hello.client)
        peer = Peer(identity, hello.client, clock_ok, uid, gid, pid, _pidfd(pid))
        self.by_identity[identity] = self.by_client[hello.client] = peer
        return peer

    def forget(self, client: str) -> None:
        """Let go of a client."""
        peer = self.by_client.pop(client, None)
        if peer is not None:
            self.by_identity.pop(peer.identity, None)
            if peer.pidfd is not None:
                os.close(peer.pidfd)

    def close(self) -> None:
        """Let go of all."""
        for client in list(self.by_client):
            self.forget(client)


@dataclass(frozen=True)
class DeadSpool:
    """What a dead process left."""

    path: Path
    hello: Hello
    uid: int
    gid: int
    markers: list[Marker]


def dead_spools(folder: Path) -> Iterator[DeadSpool]:
    """Spools whose process is gone. The caller unlinks each once its markers are stored."""
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix == ".spool")
    except OSError:
        return
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # not ours to read, or gone
        try:
            owner = os.fstat(fd)
            if not stat.S_ISREG(owner.st_mode):
                continue  # a pipe under that name must not hold us
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            hello, markers = _messages(fd)
        except OSError:
            continue  # its process lives
        finally:
            os.close(fd)
        if hello is None or hello.client != path.stem:
            log.warning("spool: %s is none of this protocol; set aside", path)
            path.rename(path.with_suffix(".bad"))
            continue
        yield DeadSpool(path, hello, owner.st_uid, owner.st_gid, markers)


def _messages(fd: int) -> tuple[Hello | None, list[Marker]]:
    """Who wrote a spool and his markers, checked like anything that strangers send."""
    hello: Hello | None = None
    markers: list[Marker] = []
    for frame in read_frames(fd):
        try:
            message = decode(frame)
        except WireError as error:
            log.warning("spool: passed over a message: %s", error)
            continue
        if isinstance(message, Hello):
            hello = message
        elif isinstance(message, MARKERS):
            markers.append(message)
    return hello, markers


def _pidfd(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # died already, or the kernel has none: the spool's lock tells instead
