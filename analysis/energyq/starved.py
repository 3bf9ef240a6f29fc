"""Which training stages waited more than they worked? The shares of their time near the idle floor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from energyq.find import question

if TYPE_CHECKING:
    from energyd.store.read import Reader

STARVED: Final = 0.25
"""Share of a stage's time near the idle floor from which on it is called STARVED."""

TRAINS: Final = re.compile(r"(student|train)([./].*)?")
"""Names of stages of which that is asked, as raw_starved_stages has it."""


def add_starved(reader: Reader, rows: list[dict[str, Any]]) -> None:
    """Put `starved_share` (None: not known, or no training) and `starved_reason` into rows of stages."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    runs = sorted({row["run_id"] for row in rows if TRAINS.fullmatch(row["stage"])})
    if runs:
        told = reader.sql(question("starved"), {"runs": runs}).dicts()
        found = {(t["run_id"], t["stage_id"]): t for t in told}
    for row in rows:
        mine = found.get((row["run_id"], row["stage_id"]), {})
        row["starved_share"], row["starved_reason"] = mine.get("starved_share"), mine.get("starved_reason")


def is_starved(share: float | None) -> bool:
    """Whether so large a share is too much; what is not known is not called so."""
    return share is not None and share > STARVED


def flags_of(row: dict[str, Any]) -> list[str]:
    """The flags of a stage, STARVED among them where its training waited."""
    return [*(row["flags"] or ()), *(["STARVED"] if is_starved(row.get("starved_share")) else [])]
