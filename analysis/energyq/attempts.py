"""Which runs are attempts of one and the same execution?

A program that is started again after it died labels its runs `attempt` 1, 2 … All of them were paid for. A
chain ends with the first attempt that came to its end; the next attempt 1 is a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

Row = dict[str, Any]
SAME: Final = ("pipeline", "student", "teacher", "seed", "stop", "config", "dataset")
"""Labels in which attempts of one execution agree."""


@dataclass(eq=False)
class Chain:
    """Runs of one execution, the oldest first."""

    runs: list[Row]

    @property
    def run_ids(self) -> list[str]:
        """Of all attempts."""
        return [r["run_id"] for r in self.runs]

    @property
    def is_done(self) -> bool:
        """Whether the last attempt came to its end."""
        return bool(self.runs[-1]["status"] == "ok")


def chains_of(runs: Iterable[Row]) -> list[Chain]:
    """Runs (`run_id`, `status`, `labels` as JSON), the oldest first, as executions."""
    found: list[Chain] = []
    going: dict[tuple[str, ...], Chain] = {}
    for run in runs:
        key = tuple(str(label(run, k)) for k in SAME)
        chain = going.get(key)
        if chain is None or chain.is_done or _attempt(run) <= _attempt(chain.runs[-1]):
            chain = going[key] = Chain([])
            found.append(chain)
        chain.runs.append(run)
    return found


def label(run: Row, key: str) -> Any:
    """The value of a label; None where it is not said."""
    return json.loads(run["labels"] or "{}").get(key)


def _attempt(run: Row) -> int:
    """The number of an attempt; a run that says none is its own first."""
    number = label(run, "attempt")
    try:
        return int(number) if number is not None else 1
    except (TypeError, ValueError):
        return 1
