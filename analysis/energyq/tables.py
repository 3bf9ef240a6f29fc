"""What can be asked for: which views are there, and what does each column hold?"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from energyq.formats import chosen, opened, write

if TYPE_CHECKING:
    from energyd.store.read import Reader


def show_tables(reader: Reader, format_: str | None, output: Path | None) -> None:
    """List views and columns; as text for people, as rows in any other format."""
    rows = reader.views()
    if chosen(format_, output) != "table":
        from energyd.store.read import Result

        names = ["view", "view_comment", "column", "type", "comment"]
        write(Result(names, ["VARCHAR"] * len(names), iter(rows)), format_, output)
        return
    with opened(output) as out:
        for (view, comment), columns in groupby(rows, key=lambda row: row[:2]):
            out.write(f"{view}: {comment}\n")
            for _, _, column, kind, meaning in columns:
                out.write(f"  {column:<18} {kind:<22} {meaning}\n")
            out.write("\n")
        out.write("macros: energy_j(device, t0_ns, t1_ns) · integrate('table with device, t0_ns, t1_ns')\n")
        out.write("        starved_share(device, t0_ns, t1_ns, floor_w) · starved('table with these four')\n")
