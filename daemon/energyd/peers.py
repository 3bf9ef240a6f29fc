"""Who is on the other end of each socket, and is he still alive?

The kernel fills `Peer-Address` with uid, gid and pid of an ipc peer; a client cannot forge it. A pidfd on
that pid tells of its death at once, so that its open stages end when it did. Where there is no pidfd, the
lock of its spool tells (`energyd.departures`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from energyd_client import clock
from energyd_client.protocol import Hello


@dataclass
class Peer:
    """A client that has said HELLO."""

    identity: bytes  # of its socket; a reconnect brings a new one
    client: str
    clock_ok: bool  # its stamps are on our clock
    uid: int | None
    gid: int | None
    pid: int | None
    pidfd: int | None = None
    dead: bool = False  # before its HELLO was read
    busy_from: int | None = None  # this marker of it was turned away, and so is what follows


def credentials(address: str) -> tuple[int | None, int | None, int | None]:
    """(uid, gid, pid) from libzmq's `Peer-Address`: `localhost:UID:GID:PID` on ipc, else unknown."""
    parts = address.rsplit(":", 3)
    # An IPv6 address may look the same from its end: only what libzmq says of ipc begins like this.
    if len(parts) != 4 or parts[0] != "localhost" or not all(part.isdigit() for part in parts[1:]):
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
        pidfd, dead = _pidfd(pid)
        peer = Peer(identity, hello.client, clock_ok, uid, gid, pid, pidfd, dead)
        self.by_identity[identity] = self.by_client[hello.client] = peer
        return peer

    def forget(self, client: str) -> None:
        """Let go of a client."""
        peer = self.by_client.pop(client, None)
        if peer is not None:
            self.by_identity.pop(peer.identity, None)
            self.unwatch(peer)

    def unwatch(self, peer: Peer) -> None:
        """Its death is known."""
        if peer.pidfd is not None:
            os.close(peer.pidfd)
            peer.pidfd = None

    def close(self) -> None:
        """Let go of all."""
        for client in list(self.by_client):
            self.forget(client)


def _pidfd(pid: int | None) -> tuple[int | None, bool]:
    """What tells of a process's death, if there is such a thing; whether it is dead already."""
    if pid is None:
        return None, False
    try:
        return os.pidfd_open(pid), False
    except ProcessLookupError:
        return None, True
    except OSError:
        return None, False  # the kernel has none, or no descriptor is left: the spool's lock tells instead
