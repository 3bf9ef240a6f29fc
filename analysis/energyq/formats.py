"""How do rows look as table, JSON, CSV, Markdown or Parquet? NULL stays NULL in each.

JSON and CSV carry every digit; only tables for people are rounded (`energyq.numbers`).
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from energyd.store.read import Reader

FORMATS: Final = ("table", "json", "jsonl", "csv", "markdown", "parquet")


def chosen(format_: str | None, output: Path | None) -> str:
    """The format asked for, else table on a terminal and csv in a pipe or file."""
    return format_ or ("table" if output is None and sys.stdout.isatty() else "csv")


class Rows(Protocol):
    """What can be written: a query's Result, or rows that no query made (`energyq.rows`)."""

    @property
    def columns(self) -> list[str]:
        """Names."""

    @property
    def types(self) -> list[str]:
        """As DuckDB names them."""

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Once."""


class Enough(Exception):  # not an OSError, which click would turn into exit code 1
    """Whoever reads our stdout has left: `energyq … | head`."""


@contextmanager
def opened(output: Path | None) -> Iterator[IO[str]]:
    """The file to write to, or stdout. Raises Enough when nobody reads on."""
    if output is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered must not fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Enough from None
    else:
        with output.open("w", encoding="utf-8", newline="") as file:
            yield file


def write(result: Rows, format_: str | None, output: Path | None) -> None:
    """Write all rows of a result, streaming where the format allows."""
    writer = {"json": _json, "jsonl": _jsonl, "csv": _csv, "markdown": _markdown, "table": _table}
    with opened(output) as out:
        writer[chosen(format_, output)](result, out)


def write_parquet(reader: Reader, query: str, params: dict[str, Any] | None, output: Path | None) -> None:
    """Write the rows of one SELECT to a Parquet file; it cannot go to stdout."""
    if output is None:
        import click

        context = click.get_current_context()
        hidden = context.command.hidden and context.parent  # `energyq "SELECT …"`: nobody typed `sql`
        raise click.UsageError("--format parquet needs -o FILE", hidden or context)
    reader.write_parquet(query, output, params)


def text(value: Any) -> str:
    """A value as plain text, lists and maps as JSON; None as the empty string."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return json.dumps(jsonable(value), ensure_ascii=False)
    return str(value)


def jsonable(value: Any, kind: str = "") -> Any:
    """A value as JSON knows it: what JSON cannot say (NaN, a date) becomes null or text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if kind == "JSON" and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _objects(result: Rows) -> Iterator[str]:
    for row in result.rows:
        columns = zip(result.columns, result.types, row, strict=True)
        yield json.dumps({name: jsonable(value, kind) for name, kind, value in columns}, ensure_ascii=False)


def _json(result: Rows, out: IO[str]) -> None:
    between = "[\n"
    for line in _objects(result):
        out.write(between + line)
        between = ",\n"
    out.write("[]\n" if between == "[\n" else "\n]\n")


def _jsonl(result: Rows, out: IO[str]) -> None:
    for line in _objects(result):
        out.write(line + "\n")


def _csv(result: Rows, out: IO[str]) -> None:
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(result.columns)
    for row in result.rows:  # of all else csv makes what text() does, in a third of the time
        rows.writerow([text(value) if isinstance(value, (list, dict)) else value for value in row])


def _markdown(result: Rows, out: IO[str]) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |\n"

    out.write(line(result.columns))
    out.write("|" + "|".join(" ---: " if _is_number(kind) else " --- " for kind in result.types) + "|\n")
    for row in result.rows:
        out.write(line([text(value) for value in row]))


def _table(result: Rows, out: IO[str]) -> None:
    right = [_is_number(kind) for kind in result.types]
    print_table(
        result.columns, right, [["NULL" if v is None else text(v) for v in row] for row in result.rows], out
    )


def harmless(text: str) -> str:
    """Text without control characters: a name is another program's word, and must not command a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(
    columns: list[str], right: list[bool], rows: list[list[str]], out: IO[str], spare: Sequence[str] = ()
) -> list[str]:
    """A table for people: fitted to a terminal, at its natural width elsewhere.

    `spare`: columns to leave out where the terminal is too narrow, the first of them first. Returns those
    left out. What is too wide even then has its heads and words folded, never a number, of which half would
    read as another; and where that is not enough, each row becomes lines of its own.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, width=None if out.isatty() else 10_000, highlight=False)
    endless = console.options.update(width=10_000)
    shown = [[harmless(cell) for cell in row] for row in rows]

    def made(kept: list[int], padding: int = 1, between: str = " ") -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, padding))
        for i in kept:
            head = columns[i].replace(" ", between)
            texts = [*head.split("\n"), *(row[i] for row in shown)]
            whole = right[i] or not any(" " in text for text in texts)
            table.add_column(
                Text(head), justify="right" if right[i] else "left", overflow="fold", no_wrap=whole,
                min_width=max(map(cell_len, texts)) if whole else None,  # rich measures by the longest word
            )  # fmt: skip
        for row in shown:
            table.add_row(*(Text(row[i]) for i in kept))
        return table

    kept = list(range(len(columns)))
    left_out: list[str] = []
    while console.measure(table := made(kept), options=endless).maximum > console.width:
        name = next((n for n in spare if n in columns and n not in left_out), None)
        if name is None:
            folded = (made(kept, *narrower) for narrower in ((1,), (0,), (0, "\n")))
            fits = (t for t in folded if console.measure(t, options=endless).minimum <= console.width)
            if (fitting := next(fits, None)) is None:
                out.writelines(_upright(columns, shown))
                return []
            table = fitting
            break
        kept.remove(columns.index(name))
        left_out.append(name)
    with console.capture() as captured:
        console.print(table)
    out.write("\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip()) + "\n")
    return left_out


def _upright(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Rows below each other, a line for each of their columns."""
    width = max(map(len, columns))
    for number, row in enumerate(rows):
        yield "\n" if number else ""
        for name, cell in zip(columns, row, strict=True):
            yield f"{name:<{width}}  {cell}".rstrip() + "\n"


def _is_number(kind: str) -> bool:
    return (
        kind.startswith(("DOUBLE", "FLOAT", "DECIMAL"))
        or kind.removeprefix("U").endswith("INT")
        or kind == "INTEGER"
    )
