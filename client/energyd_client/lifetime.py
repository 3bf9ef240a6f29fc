"""Which outbox does this process use, from its first marker over forks to its goodbye?"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from itertools import count

from energyd_client import notes, process
from energyd_client.endpoints import is_disabled
from energyd_client.outbox import Outbox

EXIT_FLUSH_S = 0.5
"""Longest wait for acknowledgements when the program ends, in seconds."""


class _Process:
    """What there is one of per process."""

    def __init__(self) -> None:
        self.box: Outbox | None = None
        self.making = threading.Lock()
        self.over = False
        self.endings: list[Callable[[], None]] = []
        self.silent_prefix = ""  # of ids while disabled


this = _Process()
_silent_numbers = count(1)
_abandoned: list[Outbox] = []  # never collected: closing an inherited socket would disturb the parent


def outbox() -> Outbox | None:
    """This process's outbox; None with ENERGYD_DISABLE=1 and after the goodbye."""
    return this.box or _open()


def opened() -> Outbox | None:
    """The outbox if there was a marker."""
    return this.box


def _open() -> Outbox | None:
    if this.over or is_disabled():
        return None
    with this.making:
        if this.box is None:
            this.box = Outbox()
            _register_exit()
        return this.box


def silent_id() -> str:
    """An id for a stage that nobody hears of: unique all the same."""
    this.silent_prefix = this.silent_prefix or process.new_client_id()
    return f"{this.silent_prefix}.{next(_silent_numbers)}"


def at_exit(function: Callable[[], None]) -> None:
    """Call `function` before the goodbye."""
    if function not in this.endings:
        this.endings.append(function)


def close() -> None:
    """End this process's outbox; another marker would open a new one."""
    box, this.box = this.box, None
    if box is not None:
        box.close(EXIT_FLUSH_S)


@notes.never_raises
def _goodbye() -> None:
    for function in this.endings:
        function()
    this.over = True
    close()


def _register_exit() -> None:
    atexit.unregister(_goodbye)
    atexit.register(_goodbye)
    util = sys.modules.get("multiprocessing.util")
    parent = getattr(sys.modules.get("multiprocessing.process"), "parent_process", None)
    if util is not None and parent is not None and parent() is not None:
        # Forked children of multiprocessing leave by os._exit without atexit, but run their finalizers.
        util.Finalize(None, _goodbye, exitpriority=0)


def _forked() -> None:
    """A new process: the parent's outbox, locks and threads are not ours."""
    box, endings = this.box, this.endings
    this.__init__()  # type: ignore[misc]  # the same object, since others may hold it
    this.endings = endings
    if box is not None:
        _abandoned.append(box)
        box.abandon()


os.register_at_fork(after_in_child=_forked)
