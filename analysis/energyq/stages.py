"""What did each stage and each run cost, as a table that a person reads?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyq.find import question
from energyq.formats import chosen, harmless, opened, print_table, write, write_parquet
from energyq.notes import Footnotes, doubt_line, few, is_whole, notes
from energyq.numbers import NONE, figures, percent, share_percent, whole
from energyq.rows import Made
from energyq.starved import add_starved, flags_of

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
SPARE: Final = ["source", "unit", "tokens", "coverage %", "GPU J", "CPU J", "mean W", "± net"]
"""Columns that a narrow terminal does without, the first of them first."""
_MORE: Final = ("starved_share", "starved_reason")
_STARVED: Final = (
    "LEFT JOIN raw_starved_totals(CASE WHEN $run_id IS NOT NULL THEN [$run_id] END) v"
    " ON v.run_id = t.run_id AND v.stage_id = t.stage_id"
)


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
    marks = Footnotes()
    columns: dict[str, Callable[[Row], str]] = {
        "run id": lambda r: r["run_id"],
        "run": lambda r: (r["run"] or "?") + marks.mark(r["flags"]),
        "status": lambda r: r["status"],
        "began (UTC)": _began,
        **_figures(rows),
    }
    with opened(output) as out:
        spare = [
            "source",
            "unit",
            "tokens",
            "coverage %",
            "began (UTC)",
            "GPU J",
            "CPU J",
            "mean W",
            "status",
        ]
        left_out = print_table(*_cells(columns, rows), out, spare)
        out.writelines(line + "\n" for line in _below(reader, rows, "run", marks, left_out))


def show_stages(
    reader: Reader, run_id: str | None, format_: str | None, output: Path | None, *, net: bool = False
) -> bool:
    """One row per stage, as a tree; `net`: also beyond idling.

    False if an energy that should be there is unknown.
    """
    query, params = question("stages_net" if net else "stages"), {"run_id": run_id}
    result = reader.sql(query, params)
    rows = result.dicts()
    if format_ == "parquet":
        query = f"SELECT t.*, v.starved_share, v.starved_reason FROM ({query}) t {_STARVED}"
        write_parquet(reader, query, params, output)
        return all(is_whole(r) for r in rows)
    add_starved(reader, rows)
    if chosen(format_, output) != "table":
        names, types = [*result.columns, *_MORE], [*result.types, "DOUBLE", "VARCHAR"]
        write(Made(names, types, (tuple(r.values()) for r in rows)), format_, output)
        return all(is_whole(r) for r in rows)
    marks, left_out = Footnotes(), set[str]()
    with opened(output) as out:
        for run, of_run in _by_run(rows).items():
            out.write(f"run {harmless(of_run[0]['run'] or '?')} ({run})\n")
            shown = [{**r, "depth": depth} for depth, r in _tree(of_run)]
            columns: dict[str, Callable[[Row], str]] = {
                "stage": lambda r: "  " * r["depth"] + r["stage"] + _status(r) + marks.mark(flags_of(r)),
                **_figures(rows, net=net),
            }
            if any(r["starved_share"] is not None for r in of_run):
                columns["starved %"] = lambda r: percent(r["starved_share"])
            left_out |= set(print_table(*_cells(columns, shown), out, SPARE))
            out.write("\n")
        if not rows:
            out.write("no stages\n")
        elif net:
            out.writelines(line + "\n" for line in _net_notes(rows))
        left = [name for name in SPARE if name in left_out]
        out.writelines(line + "\n" for line in _below(reader, rows, "stage", marks, left))
    return all(is_whole(r) for r in rows)


def show_net(
    reader: Reader, run_id: str | None, idle: str | None, format_: str | None, output: Path | None
) -> None:
    """One row per stage and device: gross, baseline, net."""
    query, params = question("net"), {"run_id": run_id, "idle": idle}
    if format_ == "parquet":
        write_parquet(reader, query, params, output)
        return
    result = reader.sql(query, params)
    if chosen(format_, output) != "table":
        write(result, format_, output)
        return
    columns: dict[str, Callable[[Row], str]] = {
        "stage": lambda r: r["stage"],
        "device": lambda r: f"{r['domain']} {r['device']}",
        "seconds": lambda r: figures(r["seconds"]),
        "gross J": lambda r: figures(r["energy_j"]),
        "idle W": lambda r: figures(r["baseline_w"]),
        "net J": lambda r: figures(r["net_j"]),
        "± net": lambda r: figures(r["u_net_j"], 2),
        "idle by, or why not": lambda r: r["baseline"] or r["reason"] or NONE,
    }
    with opened(output) as out:
        print_table(*_cells(columns, result.dicts()), out)
        out.write("net: gross less idle power for its seconds; ±: random doubt of both, k = 2 (95 %)\n")


def _figures(rows: list[Row], *, net: bool = False) -> dict[str, Callable[[Row], str]]:
    """The columns that stages and runs have in common; a doubt or an estimate only where some row has one."""
    has_doubt = any(r["u_random_j"] is not None for r in rows)
    has_estimate = any(r["estimated_share"] for r in rows)
    columns: dict[str, Callable[[Row], str]] = {
        "seconds": lambda r: figures(r["seconds"]),
        "GPU J": lambda r: figures(r["gpu_j"]),
        "CPU J": lambda r: figures(r["cpu_j"]),
        "total J": lambda r: figures(r["total_j"]),
    }
    if has_doubt:
        columns["± J"] = lambda r: figures(r["u_random_j"], 2)
    if has_estimate:
        columns["est. %"] = lambda r: share_percent(r["estimated_share"])
    if net:
        columns["net J"] = lambda r: figures(r["net_j"])
        columns["± net"] = lambda r: figures(r["u_net_j"], 2)
    return columns | {
        "mean W": lambda r: figures(r["mean_w"]),
        "tokens": lambda r: whole(r["tokens"]),
        "unit": lambda r: r["token_unit"] or NONE,
        "J/token": lambda r: figures(r["j_per_token"]),
        "coverage %": lambda r: percent(r["coverage"]),
        "source": lambda r: r["sources"] or NONE,
    }


_WORDS: Final = {
    "run id", "run", "status", "began (UTC)", "stage", "unit", "source", "device", "idle by, or why not",
}  # fmt: skip
"""Columns of words stand left, numbers right."""


def _cells(
    columns: dict[str, Callable[[Row], str]], rows: list[Row]
) -> tuple[list[str], list[bool], list[list[str]]]:
    return (
        list(columns),
        [name not in _WORDS for name in columns],
        [[cell(row) for cell in columns.values()] for row in rows],
    )


def _below(
    reader: Reader, rows: list[Row], thing: str, marks: Footnotes, left_out: list[str]
) -> Iterator[str]:
    yield from marks.lines()
    yield from doubt_line(rows)
    if any(r["estimated_share"] for r in rows):
        yield "est. %: share of the total that is an estimate, not a measurement"
    yield from notes(reader, rows, thing, left_out)


def _net_notes(rows: list[Row]) -> Iterator[str]:
    baselines = sorted({r["baselines"] for r in rows if r["baselines"]})
    if baselines:
        yield f"net: total less the power of {', '.join(baselines)} for the same seconds"
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["net_j"] is None and row["net_reason"]:
            reasons.setdefault(row["net_reason"], []).append(row["stage"])
    for reason, names in reasons.items():
        yield f"no net for {few(names)}: {reason}"


def moment(t_ns: int | None) -> str:
    """A time to the minute, UTC."""
    return NONE if t_ns is None else f"{datetime.fromtimestamp(t_ns / 1e9, tz=timezone.utc):%Y-%m-%d %H:%M}"


def _began(row: Row) -> str:
    return moment(row["t0_ns"])


def _status(row: Row) -> str:
    return "" if row["status"] == "ok" else f" ({row['status']})"


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
