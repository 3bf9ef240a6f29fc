"""Where does `energyq` start, and which exit code does each ending get?

0 ok · 1 failed · 2 usage, malformed SQL · 3 daemon there but silent · 4 partial data · 5 permission ·
78 no store, or an extra is missing.
Nothing heavy is imported here, so that a base install answers with a sentence and `--help` is quick.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NEEDED: Final = ("click", "duckdb", "numpy", "rich")
GARBAGE_EVERY: Final = 50_000
"""Objects between two looks for cycles. Importing makes some 200,000 that all stay."""


def script() -> None:
    """Be the command: run `main` in a process of its own, and leave with its exit code.

    Of the 650 ms of CPU that `energyq stages` takes, looks for cycles (every 700 objects) were 70, and taking
    modules apart at the end 45, for nobody's good. What is to be done at exit is done here. NumPy would start
    a thread for each core, which spin and wait for matrices that never come.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(GARBAGE_EVERY)
    if sys.stdout is None:  # closed before we began, as by a job without any: what it would hold goes nowhere
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    code = main()
    try:
        sys.stdout.flush()
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # nobody listens, or the disk is full: Python says so as it always does
    atexit._run_exitfuncs()
    os._exit(code)


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
