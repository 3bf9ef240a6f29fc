"""What does not work at present, in words for people? By what it was that failed; gone once that succeeds."""

from __future__ import annotations


class Troubles:
    """Told by any thread: one step of a dict is whole."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def complain(self, what: str, said: str | None) -> None:
        """Be degraded until None is said of it."""
        if said is None:
            self._said.pop(what, None)
        else:
            self._said[what] = said

    def __contains__(self, what: str) -> bool:
        return what in self._said

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(self._said.values()))
