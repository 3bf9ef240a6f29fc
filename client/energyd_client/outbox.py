"""How does a marker get out of the caller's hands, in order and kept, before the call returns?

It gets a number, one appending write to the spool and a place in the queue; a sender thread takes it
from there. One outbox per process: `lifetime.py` makes it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final

from energyd_client import cuda, notes, process
from energyd_client.endpoints import default_spool
from energyd_client.protocol import MARKERS, MAX_FRAME_BYTES, Marker, ProcessInfo, halves, pack, text, unpack
from energyd_client.spool import RELEASE_BYTES, Spool

if TYPE_CHECKING:
    from energyd_client.sender import Sender

HELD_MARKERS = 100_000
"""Markers kept in memory (about 25 MB) while no daemon takes them; later ones are in the spool only."""

REWRITE_MARKERS: Final = 1_000
"""Outstanding markers at most when a spool is written anew (about 1 ms, with the lock held)."""

STOCK_IDS: Final = 64
"""Ids of stages that are made in advance, by the sender while it has nothing else to do."""

_REFILL_BYTES: Final = 2**18

Ident = tuple[str, bytes, bytes]
"""An id as it is, as UTF-8, and packed."""


class Outbox:
    """Markers on their way. `post` may be called by any thread, and by a signal handler inside `post`."""

    def __init__(self) -> None:
        self.client = process.new_client_id()
        self.idents: deque[Ident] = deque()  # for stages to come
        self._numbers = count(1)
        self.hello = pack(process.hello(self.client))
        self.spool = Spool(default_spool(), self.client, self.hello)
        self.seq = 0
        self.fresh: deque[tuple[int, bytes]] = deque()  # for the sender to take, oldest first
        self.muted = False  # the daemon speaks another protocol: keep on disk, send nothing
        self.unmeasured = True  # until a daemon has answered
        self.settled_seq = 0  # the daemon has all up to here, says the sender
        self._keep_spool = False
        self._queueing = True  # neither muted nor spilled
        self._spilled: int | None = None  # offset in the spool of the first marker that memory lacks
        self._lock = threading.RLock()
        self._inside = False
        self._late: deque[tuple[bytes, bytes]] = deque()
        self.described = 0  # 0 nothing, 1 environment, 2 with the GPUs' UUIDs
        self._sender: Sender | None = None
        self._start_sender()

    def post(self, marker: Marker) -> bool:
        """Number, keep and queue one marker. False if it is too large for a frame."""
        head, tail = halves(marker)
        size = len(head) + 8 + len(tail)
        if size > MAX_FRAME_BYTES:
            notes.ignored(marker.TYPE, f"{size} bytes do not fit a frame of {MAX_FRAME_BYTES}", "send less")
            return False
        self.put(head, tail)
        return True

    def put(self, head: bytes, tail: bytes) -> None:
        """The same for the halves of a marker around its number; they must fit a frame."""
        with self._lock:
            if self._inside:  # a signal handler interrupted this very thread in here
                self._late.append((head, tail))
                return
            self._inside = True
            try:
                self._put(head, tail)
                while self._late:
                    self._put(*self._late.popleft())
            finally:
                self._inside = False

    def _put(self, head: bytes, tail: bytes) -> None:
        seq = self.seq + 1
        data = b"".join((head, seq.to_bytes(8, "big"), tail))
        offset = self.spool.size
        self.seq = seq
        spooled = self.spool.append(data)
        if not spooled:
            notes.count("unspooled")
        if self._queueing and seq - self.settled_seq <= HELD_MARKERS:
            self.fresh.append((seq, data))
        elif not spooled:
            self.seq -= 1  # it never was: numbers without a hole keep the daemon's acks simple
            notes.count("lost")
            notes.warn_once("lost", f"energyd: markers are lost: memory is full, and {self.spool.reason}")
        elif self._spilled is None:
            self._spilled = offset
            self._queueing = False

    def _held(self) -> int:
        return len(self.fresh) + (self._sender.outstanding() if self._sender is not None else 0)

    def ident(self) -> Ident:
        """An id for a stage, where `idents` has none."""
        stage_id = f"{self.client}.{next(self._numbers)}"
        return stage_id, stage_id.encode(), text(stage_id)

    def stock_ids(self) -> None:
        """Make ids in advance: formatting costs a caller whose caches are cold more than the clock does."""
        while len(self.idents) < STOCK_IDS:
            self.idents.append(self.ident())

    def describe_process(self, t_ns: int) -> None:
        """Tell the daemon which GPUs this process may use: once, and once more when CUDA is up.

        Need not be called again while `described` is 1 and nobody has imported torch.
        """
        if self.described == 2 or (self.described == 1 and not cuda.is_up()):
            return
        uuids = cuda.uuids()
        self.described = 2 if cuda.is_up() else 1
        visible = _variable("CUDA_VISIBLE_DEVICES", 4_000)  # empty means: none
        order, rank = _variable("CUDA_DEVICE_ORDER", 200) or None, _variable("LOCAL_RANK", 200) or None
        self.post(ProcessInfo(0, t_ns, visible, order, rank, uuids[:64] if uuids else None))

    # ---- for the sender ------------------------------------------------------------------------------

    def welcomed(self) -> None:
        """A daemon has answered: now it matters if the spool is of no use."""
        self.unmeasured = False
        if self.spool.reason:
            notes.warn_once(
                "unspooled",
                f"energyd: markers are sent but not kept on disk: {self.spool.reason}\n"
                "they are lost if this process and the daemon die together\n"
                "cure: ENERGYD_SPOOL=DIR with a folder that you may write",
            )

    def refill(self) -> None:
        """Bring markers back from the spool once memory has room; the order stays."""
        if self._spilled is None or self.fresh:
            return
        with self._lock:
            messages, end = self.spool.read(self._spilled, _REFILL_BYTES)
            self.fresh.extend((_seq_of(data), data) for data in messages)
            self._keep_spool |= not messages  # unreadable here: left for the daemon to collect
            self._spilled = end if messages and end < self.spool.size else None
            self._queueing = self._spilled is None and not self.muted

    def release(self) -> None:
        """The daemon has stored more: let the spool shrink to what is outstanding, if that is little."""
        if self.spool.size <= RELEASE_BYTES or self._keep_spool or self._sender is None:
            return
        if self._spilled is not None or self._held() > REWRITE_MARKERS:
            return  # nobody may wait at the lock while a backlog is copied
        with self._lock:
            if self._spilled is None:
                self.spool.release([*self._sender.unacknowledged(), *(data for _, data in self.fresh)])

    def mute(self) -> None:
        """Send nothing more; the spool goes on, for a daemon that understands it."""
        self.muted = self._keep_spool = True
        self._queueing = False
        self.fresh.clear()

    def waiting(self) -> bool:
        """Whether there is something that the sender has not taken yet."""
        return bool(self.fresh) or self._spilled is not None

    def settled(self) -> bool:
        """Whether nothing is outstanding."""
        return not self.waiting() and not (self._sender and self._sender.outstanding())

    # ---- life and death ------------------------------------------------------------------------------

    def _start_sender(self) -> None:
        try:
            # In the caller's thread, not the sender's: a fork in the midst of an import that another
            # thread does leaves the child with a module lock that nobody will ever release.
            from energyd_client.sender import Sender

            self._sender = Sender(self)
            self._sender.start()
        except (ImportError, RuntimeError, OSError) as error:  # no zmq, no more threads, interpreter ending
            self._sender = None
            notes.warn_once("no sender", f"energyd: nothing is sent, this run is not measured: {error}")

    def flush(self, timeout_s: float) -> bool:
        """Wait until the daemon has stored everything posted; False if it has not in `timeout_s` seconds."""
        if self._sender is None or not self._sender.flush(self.seq, timeout_s):
            return self.seq == 0
        return not notes.losses().get("lost")

    def close(self, timeout_s: float) -> None:
        """Say goodbye, waiting at most `timeout_s` seconds (and a moment for the socket)."""
        if self._sender is not None:
            self._sender.close(timeout_s)
        self.spool.close(unlink=self.settled() and not self._keep_spool)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's files without touching what they stand for."""
        self.spool.close(unlink=False)
        if self._sender is not None:
            self._sender.abandon()


def _variable(name: str, limit: int) -> str | None:
    value = os.environ.get(name)
    return None if value is None else process.clean(value)[:limit]


def _seq_of(data: bytes) -> int:
    marker = unpack(data)
    assert isinstance(marker, MARKERS)
    return marker.seq
