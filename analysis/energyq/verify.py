"""Do the stored energies follow from the raw samples?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from energyq.find import question
from energyq.formats import write, write_parquet

if TYPE_CHECKING:
    from energyd.store.read import Reader


def verify_stages(reader: Reader, run_id: str | None, format_: str | None, output: Path | None) -> int:
    """Write stored and recomputed energy of each stage and device; the exit code (0, 1 or 4).

    Without a format only what is not the same is listed, and a summary on stderr.
    """
    query, params = question("verify"), {"run_id": run_id}
    result = reader.sql(query, params)
    rows = result.fetchall()
    verdicts = Counter(row[-1] for row in rows)
    odd = [row for row in rows if row[-1] != "same"]
    if format_ == "parquet":
        write_parquet(reader, query, params, output)
    elif format_ is not None or odd:
        write(replace(result, rows=iter(odd if format_ is None else rows)), format_, output)
    unchecked = verdicts["raw gone"] + verdicts["not stored"]
    counts = f"{verdicts['same']} same, {verdicts['differs']} differ, {unchecked} not checked"
    click.echo(f"{len(rows)} energies: {counts}", err=True)
    if verdicts["differs"]:
        return 1
    return 4 if unchecked else 0
