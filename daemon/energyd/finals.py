"""Which stages are done, what did each cost, is that stored? Those of this hour, and the last before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ASKED_LATE_NS: Final = 600_000_000_000
"""Who waits for a stage's energy gets it though its hour is sealed: so long after its end, at least."""

Rows = Mapping[str, list[tuple[Any, ...]]]

Done = tuple[tuple[Any, ...], list[tuple[Any, ...]]]
"""A stage whose energy is known: its row of stages_log, and of energies (none if charged to no device)."""


class Finals:
    """Used under the recorder's lock."""

    def __init__(self) -> None:
        self._stored: dict[str, Done] = {}
        self._unstored: dict[str, Done] = {}  # in the next commit

    def add(self, rows: Rows) -> None:
        """Of rows on their way into a commit, those of stages."""
        self._unstored.update(_done(rows))

    def commit(self) -> None:
        """All so far are stored."""
        self._stored.update(self._unstored)
        self._unstored = {}

    def forget(self, sealed_ns: int) -> None:
        """Everything before that instant is sealed: readers find it there."""
        late_ns = sealed_ns - ASKED_LATE_NS  # of a row of stages_log, 5 is t1_ns
        self._stored = {k: done for k, done in self._stored.items() if done[0][5] > late_ns}

    def done(self, stage_id: str, rows: Rows) -> tuple[Done | None, bool]:
        """A stage whose energy is known, and whether it is stored; None if there is none in memory.

        `rows`: those that are not on their way yet.
        """
        stored = self._stored.get(stage_id)
        if stored is not None:
            return stored, True
        return self._unstored.get(stage_id) or _done(rows).get(stage_id), False

    @property
    def waiting(self) -> int:
        """How many are not stored yet."""
        return len(self._unstored)


def _done(rows: Rows) -> dict[str, Done]:
    done: dict[str, Done] = {row[1]: (row, []) for row in rows.get("stages_log", ())}
    for row in rows.get("energies", ()):
        done[row[1]][1].append(row)
    return done
