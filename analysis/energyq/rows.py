"""How do rows that no query made look as JSON, CSV or Markdown? As those of a query do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click

from energyq.formats import chosen, jsonable, opened, text


def write_rows(rows: list[dict[str, Any]], format_: str | None, output: Path | None) -> bool:
    """Write rows of equal keys; False, and nothing written, where a table for people is wanted instead."""
    kind = chosen(format_, output)
    if kind == "table" or (format_ is None and output is None):
        return False
    if kind == "parquet":
        raise click.UsageError("these rows are no query's: table, json, jsonl, csv or markdown")
    with opened(output) as out:
        if kind == "json":
            out.write(json.dumps(jsonable(rows), ensure_ascii=False, indent=1) + "\n")
        elif kind == "jsonl":
            out.writelines(json.dumps(jsonable(row), ensure_ascii=False) + "\n" for row in rows)
        elif kind == "csv":
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(rows[0] if rows else [])
            lines.writerows([[text(v) for v in row.values()] for row in rows])
        else:
            names = list(rows[0]) if rows else []
            for cells in (names, ["---"] * len(names)):
                out.write("| " + " | ".join(cells) + " |\n")
            for row in rows:
                out.write("| " + " | ".join(text(v).replace("|", "\\|") for v in row.values()) + " |\n")
    return True
