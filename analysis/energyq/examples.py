"""Which questions do people ask first, and how are they asked in SQL?"""

from __future__ import annotations

import re
from pathlib import Path

from energyq.find import question
from energyq.formats import opened


def examples() -> list[tuple[str, str]]:
    """(question in words, SQL) of `queries/examples.sql`."""
    blocks = re.split(r"(?m)^-- example: ", question("examples"))[1:]
    return [(title.strip(), sql.strip()) for title, _, sql in (block.partition("\n") for block in blocks)]


def show_examples(output: Path | None) -> None:
    """All of them, ready to paste."""
    with opened(output) as out:
        out.write("\n\n".join(f"-- {title}\n{sql}" for title, sql in examples()) + "\n")
