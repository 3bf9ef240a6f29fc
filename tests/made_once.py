"""How do pytest's workers share what is dear to make and never changed: a store, a compiled library?

A fixture of the session's scope is made by every worker of xdist; this is made by the first that needs it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make(folder)` returned, to whichever worker called it; it must be picklable."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in that of the whole run
    folder, answer = base / name, base / f"{name}.pickle"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            folder.mkdir()  # there already: an earlier try failed, and its error is the one to read
            answer.write_bytes(pickle.dumps(make(folder)))
    return pickle.loads(answer.read_bytes())
