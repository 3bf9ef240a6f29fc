"""Where does `energyq` start, and which exit code does each ending get?

0 ok · 1 failed · 2 usage, malformed SQL · 3 daemon there but silent · 4 partial data · 5 permission ·
78 no store, or an extra is missing.
Nothing heavy is imported here, so that a base install answers with a sentence and `--help` is quick.
"""

from __future__ import annotations

import atexit
import gc
import sys
from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("click", "duckdb", "numpy", "rich")
GARBAGE_EVERY: Final = 50_000
"""Objects between two looks for cycles. Importing makes 200,000, none of them garbage: at Python's own 700 the
looks, with the last one at exit, take 70 ms of the 650 ms of CPU that `energyq stages` does."""


def main(args: list[str] | None = None) -> int:
    """Run energyq and return its exit code. Data goes to stdout, words to stderr."""
    if args is None:  # the process is ours, and short
        gc.set_threshold(GARBAGE_EVERY)
        atexit.register(gc.freeze)  # what is left goes with the process
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
