"""Up to which marker is each client's word taken, and up to which is it stored?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass
class Client:
    """One client process, by its last numbers."""

    taken: int = 0  # in the next commit or in the store
    stored: int = 0
    heard_ns: int = 0  # its last commit


class Clients:
    """Every client that the store knows of. Changed by the recorder; `stored` may be asked by any thread."""

    def __init__(self, last_seq: Mapping[str, int], now_ns: int) -> None:
        self._known = {client: Client(seq, seq, now_ns) for client, seq in last_seq.items()}

    def __len__(self) -> int:
        return len(self._known)

    def take(self, client: str, seq: int) -> bool:
        """Whether a marker is new; it counts as taken then."""
        known = self._known.get(client)
        if known is None:
            known = self._known[client] = Client()
        if seq <= known.taken:
            return False
        known.taken = seq
        return True

    def taken(self, client: str) -> int:
        """Its last marker that is in the next commit or in the store."""
        return self._known[client].taken

    def stored(self, client: str) -> int:
        """Its last marker that is in the store; 0 if there is none: it need not be sent again."""
        known = self._known.get(client)
        return 0 if known is None else known.stored

    def commit(self, acks: Iterable[tuple[str, int]], now_ns: int) -> None:
        """What a commit holds of each."""
        for client, seq in acks:
            known = self._known[client]
            known.stored, known.heard_ns = seq, now_ns

    def forget(self, before_ns: int) -> None:
        """Let go of those silent since before an instant, as the store has done."""
        self._known = {client: one for client, one in self._known.items() if one.heard_ns >= before_ns}
