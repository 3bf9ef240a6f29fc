"""May the hardware counter say what a gap cost? Only where it must have counted all of it, and can be right.

A counter counts from the driver's load. Going back betrays a reset; but one that had little in it may
have begun anew and be past its old value again, and then the difference of two reads is too small by an
unknown part. So after anything in which a driver may have been loaded or a GPU reset, it bridges only if
it holds more than the board could have drawn since the read before: it cannot have begun since then.
"""

from __future__ import annotations

from typing import Final

HELD: Final = frozenset({"late", "overrun", "clock_step"})
"""Gaps during which this process held the driver and was not refused: no reset goes unseen there."""

_STEPS_NS: Final = 200_000_000  # two steps of a counter (100 ms on an H100): each of two reads may lag by one
_UNKNOWN_LIMIT_MW: Final = 1_400_000  # above every board there is
_OVER_LIMIT: Final = 1.5  # an H100's single samples reached 1.34 times its limit


def ceiling_mw(limit_mw: int | None) -> int:
    """Above what a board can have drawn."""
    return round((limit_mw or _UNKNOWN_LIMIT_MW) * _OVER_LIMIT)


def leapt(advance_uj: int, elapsed_ns: int, limit_mw: int | None) -> bool:
    """Whether a counter went ahead by more than the board can have drawn: what it says spans no such step."""
    return advance_uj > ceiling_mw(limit_mw) * (elapsed_ns + _STEPS_NS) // 1_000_000


def bridge_uj(
    found_uj: int,
    gap_ns: int,
    peak_mw: int,
    *,
    reason: str,
    limit_mw: int | None,
    elapsed_ns: int,
    after_mj: int,
) -> int | None:
    """`found_uj`, not below 0, or None where the counter must not be believed.

    `found_uj`: difference of the reads less the integral of the samples between them; `peak_mw`: highest
    power near the gap; `elapsed_ns`: between the two reads; `after_mj`: the later one.
    """
    most_mw = ceiling_mw(limit_mw)
    if reason not in HELD and after_mj * 1_000_000 <= most_mw * elapsed_ns // 1_000:
        return None
    slack_uj = peak_mw * _STEPS_NS // 1_000_000
    if not -slack_uj <= found_uj <= most_mw * gap_ns // 1_000_000 + slack_uj:
        return None
    # Over a short gap the counter's own step may exceed the gap's energy.
    return max(0, found_uj)
