"""Who ships to a lake, or what did a run take on each of its hosts, and how do their wall clocks go?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyq.find import Refused, question
from energyq.formats import chosen, opened, print_table, write, write_parquet
from energyq.numbers import NONE, figures
from energyq.stages import moment

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
_WORDS: Final = {"host", "name", "release"}
WRONG_S: Final = 1.0
"""A wall clock that is further off than this, and than its doubt, is said to go wrong."""


def show_hosts(reader: Reader, run_id: str | None, format_: str | None, output: Path | None) -> bool:
    """One row a host; of one run, what it took there. False if an energy is unknown."""
    if reader.source != "lake":
        raise Refused("one store is one host\n  cure: --lake URL asks many")
    query, params = question("hosts" if run_id is None else "run_hosts"), None
    if run_id is not None:
        params = {"run_id": run_id}
    rows = reader.sql(query, params).dicts()
    whole = run_id is None or all(r["total_j"] is not None for r in rows)
    if format_ == "parquet":
        write_parquet(reader, query, params, output)
        return whole
    if chosen(format_, output) != "table":
        write(reader.sql(query, params), format_, output)
        return whole
    columns, cells = host_cells(rows, of_run=run_id is not None)
    with opened(output) as out:
        print_table(columns, [name not in _WORDS for name in columns], cells, out)
        out.writelines(f"{note}\n" for note in clock_notes(rows))
        for row in rows:
            if row.get("reason"):
                out.write(f"{row['host']}: {row['reason']}\n")
    return whole


def host_cells(rows: list[Row], *, of_run: bool) -> tuple[list[str], list[list[str]]]:
    """(columns, rows as text) of `hosts`, or of `run_hosts`. The first two columns are words."""
    columns: dict[str, Callable[[Row], str]] = {
        "host": lambda r: r["host"],
        "name": lambda r: r["hostname"] or NONE,
    }
    if of_run:
        columns |= {
            "stages": lambda r: str(r["n_stages"]),
            "began (UTC)": lambda r: moment(r["t0_ns"]),
            "GPU J": lambda r: figures(r["gpu_j"]),
            "CPU J": lambda r: figures(r["cpu_j"]),
            "total J": lambda r: figures(r["total_j"]),
            "± J": lambda r: figures(r["u_random_j"], 2),
        }
    else:
        columns |= {
            "release": lambda r: r["version"] or NONE,
            "devices": lambda r: str(r["n_devices"]),
            "shipped until (UTC)": lambda r: moment(r["shipped_until_ns"]),
        }
    columns["wall clock, s"] = _clock
    return list(columns), [[cell(row) for cell in columns.values()] for row in rows]


def clock_notes(rows: list[Row]) -> list[str]:
    """What a reader must know of the column `wall clock`, and whose goes wrong."""
    notes = ["wall clock: ahead of the lake's (+) or behind it (-) when the host shipped last"]
    if wrong := ", ".join(r["host"] for r in rows if _is_wrong(r)):
        notes.append(f"the clocks of hosts {wrong} go wrong: their times do not compare, their joules do")
    return notes


def _clock(row: Row) -> str:
    if row["clock_s"] is None:
        return NONE
    return f"{row['clock_s']:+.2f} ± {row['clock_doubt_s']:.2f}"


def _is_wrong(row: Row) -> bool:
    return row["clock_s"] is not None and abs(row["clock_s"]) > max(WRONG_S, row["clock_doubt_s"])
