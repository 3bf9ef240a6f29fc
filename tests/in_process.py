"""How is `energyq` asked without a process of its own, where how it starts is not the point?

Python, DuckDB and numpy take longer to load than a small store to answer. What only a process shows (a
terminal, a closed pipe, the imports, another user) keeps one: tests/analysis/test_energyq.py, test_sql.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from energyq.cli import main


def energyq(
    *args: object, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command as a shell would run it in a pipe: its exit code, stdout and stderr."""
    words = list(map(str, args))
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(words)
    return subprocess.CompletedProcess(["energyq", *words], code, out.getvalue(), err.getvalue())


def rows(store: Path, sql: str) -> list[dict[str, Any]]:
    """What `energyq --format json` answers; threads may ask at once, so nothing is redirected."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        code = main(["--store", str(store), "--format", "json", "-o", str(answer), sql])
        assert code == 0, f"energyq ended with {code}; what it said is in the captured stderr"
        found: list[dict[str, Any]] = json.loads(answer.read_text())
    return found
