"""Where does `energyq` start, and which exit code does each ending get?

0 ok · 1 failed · 2 usage, malformed SQL · 3 daemon there but silent · 4 partial data · 5 permission ·
78 no store, or an extra is missing.
Nothing heavy is imported here, so that a base install answers with a sentence and `--help` is quick.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("click", "duckdb", "numpy", "rich")


def main(args: list[str] | None = None) -> int:
    """Run energyq and return its exit code. Data goes to stdout, words to stderr."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"energyq lacks {', '.join(missing)}: install its extra with pip install 'energyd[analysis]'",
            file=sys.stderr,
        )
        return 78
    try:
        from energyq.commands import run

        return run(args)
    except KeyboardInterrupt:
        return 130
