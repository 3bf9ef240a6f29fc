"""What must a reader know of the numbers in a table? The lines below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from energyq.find import question

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]

NO_REASON_TO_WORRY: Final = "nothing to add up"
"""How `stage_totals.reason` begins where the machine has no such domain: NULL is then the right answer."""

WHY: Final = {
    "open": "still open",
    "pending": "no sample follows its end yet",
    "no_sample_after_end": "no sample came in the 30 s after its end",
    "gap_without_counter": "no counter bridges a gap inside it",
    "before_first_sample": "it began before the first sample",
    "marker_too_late": "its marker came too late for the daemon's memory; `energyq explain` can tell",
    "store_damaged": "what would tell it is lost with a damaged file of the store",
}

FLAGS: Final = {
    "aliased": "power swings near the sensor's own period, so readings of instant power mislead",
    "disagree": "power integral and hardware counter differ by more than their doubts",
    "bridged": "samples are missing inside; the hardware counter gives the energy of the hole",
    "too_short": "shorter than two periods of one of its sensors",
    "shared_gpu": "another run or process used the GPU meanwhile; its energy is in here too",
    "shared_cpu": "another run went on meanwhile; CPU energy is the whole machine's",
    "aborted": "its process died; it ends at the last sign of life",
    "mig": "on a part of a GPU (MIG); the energy is the whole GPU's",
    "devices_default": "no device was named: charged are GPUs on which NVML listed its processes, else all",
    "STARVED": "over a quarter of its time near the idle floor: something else than the device sets its pace",
    "device_guess": "its device numbers may mean other GPUs than those charged",
}
"""What a flag means to a reader; other flags (estimated, replayed …) are told by other notes."""

FULL: Final = 0.99
"""Coverage below this share is named where its column has no room."""


class Footnotes:
    """Numbers flags in the order in which they come up: a mark at the row, the words below the table."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def mark(self, flags: Iterable[str] | None) -> str:
        """The superscripts for these flags, with a blank before; empty without any."""
        mine = [flag for flag in FLAGS if flag in (flags or ())]
        self._seen += [flag for flag in mine if flag not in self._seen]
        numbers = sorted(self._seen.index(flag) + 1 for flag in mine)
        return " " + "·".join(_superscript(n) for n in numbers) if numbers else ""

    def lines(self) -> Iterator[str]:
        """One line a footnote."""
        for number, flag in enumerate(self._seen, 1):
            yield f"{_superscript(number)} {flag}: {FLAGS[flag]}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def is_whole(row: Row) -> bool:
    """Whether nothing that should be there is unknown."""
    return row["reason"] is None or row["reason"].startswith(NO_REASON_TO_WORRY)


def doubt_line(rows: list[Row]) -> Iterator[str]:
    """Which of the two doubts the ± column shows, and how wide the other is."""
    known = [r for r in rows if r["u_random_j"] is not None]
    if not known:
        if any(r["total_j"] is not None for r in rows):
            yield "no doubt is stated for these energies"
        return
    total = [
        100 * r["u_total_j"] / r["total_j"]
        for r in known
        # Of what is hardly known at all, per cent say nothing.
        if r["u_total_j"] is not None and r["total_j"] and r["u_random_j"] < 0.5 * r["total_j"]
    ]
    whole = ""
    if total:
        low, high = f"{min(total):.2g}", f"{max(total):.2g}"
        whole = (
            f"; with the sensors' common error ± {low if low == high else f'{low} to {high}'} % (u_total_j)"
        )
    yield f"±: random part of the doubt, k = 2 (95 %){whole}"


def notes(reader: Reader, rows: list[Row], thing: str, left_out: Iterable[str] = ()) -> Iterator[str]:
    """Why something is missing, and what is not a measurement of this machine. `thing`: stage or run."""
    mentioned = {part for row in rows for part in (row["domains"] or "").split(", ")}
    for domain, state, source, reason in reader.sql(question("domain_reasons")).rows:
        if state in ("absent", "unreadable", "estimated") and f"{domain} {state}" in mentioned:
            by = f" by {source}" if source and state == "estimated" else ""
            yield f"{domain} {state}{by}: {reason or 'no reason given'}"
    for origin, meaning in (
        ("replayed", "a recorded trace, not this machine"),
        ("simulated", "computed curves, not a measurement"),
    ):
        if any(part.endswith(f" {origin}") for part in mentioned):
            yield f"{origin}: these joules come from {meaning}"
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not is_whole(row):
            reasons.setdefault(row["reason"], []).append(row[thing] or "?")
    for reason, names in reasons.items():
        yield f"unknown for {few(names)}: {spoken(reason)}"
    left = list(left_out)
    if "coverage %" in left:
        thin = [r[thing] or "?" for r in rows if r["coverage"] is not None and r["coverage"] < FULL]
        if thin:
            yield f"less than 99 % of the time lies between samples: {few(thin)}"
    if left:
        yield f"no room for: {', '.join(left)} (a wider terminal, or --format csv)"


def few(names: list[str]) -> str:
    """The first three names and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def spoken(reason: str) -> str:
    """`gpu: CODE, CODE; cpu: CODE` with words in place of the codes that ingest writes."""
    parts = []
    for part in reason.split("; "):
        domain, colon, codes = part.partition(": ")
        parts.append(domain + colon + ", ".join(WHY.get(code, code) for code in codes.split(", ")))
    return "; ".join(parts)
