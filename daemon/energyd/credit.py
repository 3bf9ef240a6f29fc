"""How much may clients say before it is stored? What is beyond is turned away, and they send it again.

A client that keeps to its credit never meets these bounds; one that floods cannot fill the memory, not by
new connections or new names either. Pure bookkeeping of the wire thread.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from energyd.peers import Peer
from energyd_client.protocol import CREDIT

BOUND: Final = 2 * CREDIT
"""Unstored markers of one client: its credit, and once more what it sends again on a new connection."""

BOUND_ALL: Final = 100 * CREDIT
"""Unstored markers of all clients together (about 200 MB with their rows), should the store be stuck."""


class Credit:
    """Which markers are taken and not stored, client by client."""

    def __init__(self) -> None:
        self.turned_away = 0  # markers
        self._unstored: dict[str, deque[int]] = {}  # client: seqs in order of arrival
        self._total = 0

    def take(self, peer: Peer, seq: int) -> bool | None:
        """Whether a marker is taken. None: not, and its client must be told; False: not, and it has been.

        What follows a marker turned away is so too, until that one comes again: else it would be taken for
        a duplicate then.
        """
        if peer.busy_from is not None and seq > peer.busy_from:
            self.turned_away += 1
            return False
        mine = self._unstored.get(peer.client)
        if self._total >= BOUND_ALL or (mine is not None and len(mine) >= BOUND):
            self.turned_away += 1
            peer.busy_from = seq
            return None
        peer.busy_from = None
        if mine is None:
            mine = self._unstored[peer.client] = deque()
        mine.append(seq)
        self._total += 1
        return True

    def stored(self, client: str, seq: int) -> None:
        """A commit holds everything of it up to `seq`."""
        mine = self._unstored.get(client)
        if mine is None:
            return
        while mine and mine[0] <= seq:
            mine.popleft()
            self._total -= 1
        if not mine:
            del self._unstored[client]
