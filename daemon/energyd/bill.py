"""How does a bill look on a terminal? Lines for a person; what is in it: `energyd_client.bill`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from energyd.top_text import DASH, joules, watts
from energyd_client.bill import IN_TOTAL, Bill

_PLAIN: Final = ("measured", "simulated")  # the source says it already, or nothing is to be said
_TOLD: Final = {"estimated", "simulated", "replayed", "devices_default"}  # flags that the table says itself


def lines(found: Bill) -> Iterator[str]:
    """The bill as a table for a person, and what he must know of it."""
    row = "  {:<6} {:>9} {:>9} {:>9} {:>9}  {}"
    yield row.format("", "energy", "± (k=2)", "mean", "coverage", "source").rstrip()
    for part in found.parts:
        if part.energy_j is None:
            yield row.format(part.domain, DASH, "", "", "", part.reason).rstrip()
            continue
        mean_w = part.energy_j / found.seconds if found.seconds > 0 else None
        source = str(part.source) + (f" ({part.origin})" if part.origin not in _PLAIN else "")
        apart = "" if part.domain in IN_TOTAL else ", not in the total"
        yield row.format(
            part.domain, joules(part.energy_j), joules(part.u_total_j), watts(mean_w),
            _percent(part.coverage), source + apart,
        )  # fmt: skip
    share = f"{100 * found.estimated_share:.0f} % estimated" if found.estimated_share else ""
    yield row.format(
        "total", joules(found.total_j), joules(found.u_total_j), watts(found.mean_w),
        _percent(found.coverage), found.reason or share,
    ).rstrip()  # fmt: skip
    if found.idle_j is not None and found.total_j is not None:
        beyond = found.total_j - found.idle_j
        yield f"  of it {joules(found.idle_j)} for idling as before, {joules(beyond)} beyond"
    flags = {flag for part in found.parts for flag in part.flags} - _TOLD
    if flags:
        yield f"  flags: {', '.join(sorted(flags))} (what they mean: `energyq stages`)"


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 if share >= 1 else min(100 * share, 99.9):.3g} %"
