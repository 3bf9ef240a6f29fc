"""Who has gone, and what had he still to say? Deaths told by a pidfd or a spool's free lock.

A dead client's last words may lie in the socket and in its spool. Both are taken, the spool piece by piece
and each piece only when the one before is stored; then what the client left open is closed. Part of the
wire thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from energyd.inbox import ClientGone, Inbox
from energyd.peers import Peer, Peers
from energyd.spools import DeadSpool, NotASpool, open_dead, owner
from energyd.stages import Incoming, same_user
from energyd.timeline import Timeline
from energyd_client import clock
from energyd_client.protocol import Marker

log = logging.getLogger("energyd")

SCAN_S: Final = 1.0
"""How often the folder of spools is looked through."""

DRAIN_S: Final = 0.05
"""How long after a death its socket is still read. What comes later is in the spool."""

REJOIN_S: Final = 10.0
"""After a start, how long a process that an earlier daemon knew and that holds no spool may stay away."""

UNSTORED: Final = 4_000
"""Markers of spools that may wait for their commit; a spool keeps the rest as well as memory would."""

READERS: Final = 64
"""Spools read at a time."""

Stamp = Callable[[Peer, Marker, int], Incoming]


@dataclass
class _Collection:
    """A dead client's spool on its way into the store."""

    spool: DeadSpool
    peer: Peer
    gone: ClientGone | None  # None: when it died is not known, only what it stamped last
    unstored: int = 0  # markers of the last piece
    last_seq: int = 0  # once this is stored the next piece may follow
    last_ns: int | None = None  # its last stamp, in store time


class Departures:
    """Watches for deaths and collects what the dead left."""

    def __init__(
        self,
        folder: Path,
        peers: Peers,
        expected: dict[str, int | None],
        inbox: Inbox,
        timeline: Timeline,
        stamp: Stamp,
    ) -> None:
        self._folder = folder
        self._peers = peers
        self._expected = expected  # client with something open whom we have not heard yet: its uid
        self._inbox = inbox
        self._timeline = timeline
        self._stamp = stamp
        self._expect_until = time.monotonic() + REJOIN_S
        self._dying: dict[str, tuple[ClientGone, float]] = {}  # until when its socket is read
        self._collections: dict[str, _Collection] = {}
        self._left_alone: set[Path] = set()  # cannot be removed, or renamed
        self._next_scan = 0.0
        self._more = False  # the last scan left some for later
        self._scanned_ns = timeline.now_ns()

    def owner(self, client: str) -> int | None:
        """The uid that a client id belongs to, as far as known: of its socket, its run, or its spool."""
        peer = self._peers.by_client.get(client)
        if peer is not None:
            return peer.uid
        if client in self._collections:
            return self._collections[client].spool.uid
        known = self._expected.get(client)
        if known is not None:
            return known
        found = owner(self._folder / f"{client}.spool")
        # A living process's file may lie on a mount that maps uids; a dead one's is all there is to go by.
        return found[0] if found is not None and not found[1] else None

    def greeted(self, client: str) -> None:
        """It lives."""
        self._expected.pop(client, None)
        self._dying.pop(client, None)

    def died(self, client: str, doubt_ns: int = 0) -> None:
        """A client that has greeted is gone."""
        peer = self._peers.by_client.get(client)
        if peer is not None and client not in self._dying:
            self._peers.unwatch(peer)
            gone = ClientGone(client, self._timeline.now_ns(), doubt_ns, peer.uid)
            self._dying[client] = gone, time.monotonic() + DRAIN_S

    def wait_s(self) -> float:
        """How long the wire thread may sleep."""
        return DRAIN_S if self._dying else SCAN_S

    def turn(self, drained: bool) -> None:
        """Go on. `drained`: the socket was found empty."""
        now = time.monotonic()
        for client, (gone, until) in list(self._dying.items()):
            if drained and now >= until:
                del self._dying[client]
                self._last_words(client, gone)
        if now >= self._next_scan:
            self._next_scan = now + SCAN_S
            self._scan()
            if now > self._expect_until:
                self._give_up()

    def stored(self, client: str, seq: int) -> None:
        """A commit holds everything of a client up to `seq`: go on with its spool, or remove it."""
        collection = self._collections.get(client)
        if collection is not None and seq >= collection.last_seq:
            collection.unstored = 0
            self._next_piece(collection)
        for other in list(self._collections.values()):
            if not other.unstored:  # it had no room
                self._next_piece(other)

    def close(self) -> None:
        """Let go of all; what is not stored stays on disk."""
        for collection in self._collections.values():
            collection.spool.close()

    # ---- the dead --------------------------------------------------------------------------------------

    def _last_words(self, client: str, gone: ClientGone) -> None:
        spool = self._open(self._folder / f"{client}.spool", gone.uid)
        self._peers.forget(client)
        if spool is None:
            self._inbox.put_markers([gone])
        else:
            self._collect(spool, gone)

    def _scan(self) -> None:
        """Spools of processes that died unseen: while no daemon was there, or in another pid namespace."""
        now_ns, before_ns = self._timeline.now_ns(), self._scanned_ns
        self._scanned_ns = now_ns
        try:
            paths = sorted(p for p in self._folder.iterdir() if p.suffix == ".spool")
        except OSError:
            return
        self._left_alone &= set(paths)
        for path in paths:
            client = path.stem
            peer = self._peers.by_client.get(client)
            if client in self._collections or client in self._dying or path in self._left_alone:
                continue
            if peer is not None and peer.pidfd is not None:
                continue
            self._more = len(self._collections) >= READERS
            if self._more:
                return
            spool = self._open(path, peer.uid if peer is not None else self._expected.get(client))
            if spool is None:
                continue
            if peer is not None:
                spool.close()
                self.died(client, now_ns - before_ns)  # some time since the last look
            else:
                self._expected.pop(client, None)
                self._collect(spool, None)

    def _give_up(self) -> None:
        """Who does not come back, and holds no spool, is taken for dead."""
        now_ns = self._timeline.now_ns()
        for client, uid in list(self._expected.items()):
            found = owner(self._folder / f"{client}.spool")
            if found is None or not found[1] or not same_user(uid, found[0]):
                del self._expected[client]
                self._inbox.put_markers([ClientGone(client, now_ns, int(REJOIN_S * 1e9), uid)])

    def _open(self, path: Path, uid: int | None) -> DeadSpool | None:
        """A dead client's spool, if it is what it should be and that client's own."""
        try:
            spool = open_dead(path)
        except NotASpool:
            self._set_aside(path, "none of this protocol")
            return None
        if spool is not None and not same_user(uid, spool.uid):
            spool.close()
            self._set_aside(path, f"of uid {spool.uid}, but its client is of uid {uid}")
            return None
        return spool

    def _set_aside(self, path: Path, why: str) -> None:
        log.warning("spool: %s is %s; set aside", path, why)
        try:
            path.rename(path.with_suffix(".bad"))
        except OSError:
            self._left_alone.add(path)

    # ---- their spools ----------------------------------------------------------------------------------

    def _collect(self, spool: DeadSpool, gone: ClientGone | None) -> None:
        hello = spool.hello
        clock_ok = hello.boot_id == clock.boot_id() and hello.timens == clock.timens_inode()
        peer = Peer(b"", hello.client, clock_ok, spool.uid, spool.gid, hello.pid)
        self._collections[spool.client] = collection = _Collection(spool, peer, gone)
        self._next_piece(collection)

    def _next_piece(self, collection: _Collection) -> None:
        """Put the next markers in the inbox as far as there is room; after the last, close and remove."""
        room = UNSTORED - sum(c.unstored for c in self._collections.values())
        if collection.unstored or room <= 0:
            return
        now_ns, spool = self._timeline.now_ns(), collection.spool
        if not spool.done:
            incoming = [self._stamp(collection.peer, m, now_ns) for m in spool.take(room)]
            collection.unstored = len(incoming)
            if incoming:
                collection.last_seq = max(i.message.seq for i in incoming)
                collection.last_ns = incoming[-1].t_ns
            words: list[Incoming | ClientGone] = [*incoming]
            if spool.done:
                words.append(collection.gone or self._unseen(collection, now_ns))
            self._inbox.put_markers(words)
        if spool.done and not collection.unstored:
            self._remove(collection)

    def _unseen(self, collection: _Collection, now_ns: int) -> ClientGone:
        """It had lived until its last marker; when it died is not known."""
        last_ns = now_ns
        if collection.last_ns is not None and collection.spool.hello.boot_id == clock.boot_id():
            last_ns = min(collection.last_ns, now_ns)
        return ClientGone(collection.spool.client, last_ns, now_ns - last_ns, collection.spool.uid)

    def _remove(self, collection: _Collection) -> None:
        spool = collection.spool
        try:
            spool.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("spool: %s is stored but cannot be removed: %s", spool.path, error)
            self._left_alone.add(spool.path)
        spool.close()
        del self._collections[spool.client]
        if self._more:
            self._next_scan = time.monotonic()
