"""What did each stage and each run cost, as a table that a person reads?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyq.find import question
from energyq.formats import chosen, opened, print_table, write, write_parquet
from energyq.numbers import NONE, figures, percent, whole

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
}


def show_runs(reader: Reader, format_: str | None, output: Path | None) -> None:
    """One row per run, oldest first."""
    query = question("runs")
    if format_ == "parquet":
        write_parquet(reader, query, None, output)
        return
    result = reader.sql(query)
    if chosen(format_, output) != "table":
        write(result, format_, output)
        return
    rows = result.dicts()
    with opened(output) as out:
        cells = [
            [r["run_id"], r["run"], r["status"], _began(r), *_figures(r), r["sources"] or NONE] for r in rows
        ]
        print_table(["run id", "run", "status", "began (UTC)", *_FIGURES, "source"], _right(4), cells, out)
        for note in _notes(reader, rows, "run"):
            out.write(note + "\n")


def show_stages(reader: Reader, run_id: str | None, format_: str | None, output: Path | None) -> bool:
    """One row per stage, as a tree. False if an energy that should be there is unknown."""
    query, params = question("stages"), {"run_id": run_id}
    if format_ == "parquet":
        write_parquet(reader, query, params, output)
        return all(_is_whole(r) for r in reader.sql(query, params).dicts())
    rows = reader.sql(query, params).dicts()
    if chosen(format_, output) != "table":
        write(reader.sql(query, params), format_, output)
        return all(_is_whole(r) for r in rows)
    with opened(output) as out:
        for run, of_run in _by_run(rows).items():
            out.write(f"run {of_run[0]['run'] or '?'} ({run})\n")
            cells = [
                ["  " * depth + r["stage"] + _mark(r), *_figures(r), r["sources"] or NONE]
                for depth, r in _tree(of_run)
            ]
            print_table(["stage", *_FIGURES, "source"], _right(1), cells, out)
            out.write("\n")
        if not rows:
            out.write("no stages\n")
        for note in _notes(reader, rows, "stage"):
            out.write(note + "\n")
    return all(_is_whole(r) for r in rows)


_FIGURES: Final = [
    "seconds", "GPU J", "CPU J", "total J", "mean W", "tokens", "unit", "J/token", "coverage %",
]  # fmt: skip


def _right(n_left: int) -> list[bool]:
    return [False] * n_left + [name != "unit" for name in _FIGURES] + [False]


def _figures(row: Row) -> list[str]:
    return [
        figures(row["seconds"]), figures(row["gpu_j"]), figures(row["cpu_j"]), figures(row["total_j"]),
        figures(row["mean_w"]), whole(row["tokens"]), row["token_unit"] or NONE, figures(row["j_per_token"]),
        percent(row["coverage"]),
    ]  # fmt: skip


def _began(row: Row) -> str:
    return f"{datetime.fromtimestamp(row['t0_ns'] / 1e9, tz=timezone.utc):%Y-%m-%d %H:%M}"


def _mark(row: Row) -> str:
    return "" if row["status"] == "ok" else f" ({row['status']})"


def _is_whole(row: Row) -> bool:
    return row["reason"] is None or row["reason"].startswith(NO_REASON_TO_WORRY)


def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
    runs: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["t0_ns"]):
        runs.setdefault(row["run_id"], []).append(row)
    return runs


def _tree(rows: list[Row]) -> Iterator[tuple[int, Row]]:
    """(depth, stage), each below its parent, in order of begin."""
    known = {row["stage_id"] for row in rows}
    children: dict[str | None, list[Row]] = {}
    for row in rows:
        children.setdefault(row["parent_id"] if row["parent_id"] in known else None, []).append(row)
    left = [(0, row) for row in reversed(children.get(None, []))]
    while left:
        depth, row = left.pop()
        yield depth, row
        left += [(depth + 1, child) for child in reversed(children.get(row["stage_id"], []))]


def _notes(reader: Reader, rows: list[Row], thing: str) -> Iterator[str]:
    """Why something is missing, and what is not a measurement of this machine."""
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
        if not _is_whole(row):
            reasons.setdefault(row["reason"], []).append(row[thing])
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"unknown for {', '.join(names[:3])}{more}: {_spoken(reason)}"


def _spoken(reason: str) -> str:
    """`gpu: CODE, CODE; cpu: CODE` with words in place of the codes that ingest writes."""
    parts = []
    for part in reason.split("; "):
        domain, colon, codes = part.partition(": ")
        parts.append(domain + colon + ", ".join(WHY.get(code, code) for code in codes.split(", ")))
    return "; ".join(parts)
