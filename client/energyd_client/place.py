"""Inside which run and stage is the caller right now, here and in the processes that it starts?

Within a thread or asyncio task a context variable knows; tasks inherit it. A thread without one is at
the top of the process's current run. Child processes are told by ENERGYD_RUN_ID and ENERGYD_STAGE_ID.

Those two variables are one pair per process, so only the main thread writes them: they name the newest
run or stage that it began and has not ended, and get their old values back at the end. A child started
by another thread joins there too, unless that thread hands it `env=` with its own stage's id.
"""

from __future__ import annotations

import os
import threading
from _thread import get_ident
from contextvars import ContextVar
from typing import TYPE_CHECKING

from energyd_client.arguments import identity
from energyd_client.endpoints import ENV_RUN_ID, ENV_STAGE_ID
from energyd_client.exports import Exports

if TYPE_CHECKING:
    from energyd_client.outbox import Outbox


class Place:
    """A run or a stage, as seen by what is begun inside it."""

    __slots__ = ("box", "id_bytes", "id_text", "is_open", "outer", "run_bytes", "run_id", "stage_id")

    def __init__(self) -> None:
        self.run_id = ""
        self.stage_id: str | None = None  # parent of stages begun here
        self.outer: Place | None = None
        self.is_open = False
        self.box: Outbox | None = None  # took its begin; a forked child has another: it ends nothing of ours
        self.run_bytes = b""  # what each marker in it says of the run …
        self.id_text = b""  # … and those begun in it of their parent, packed; empty: no stage
        self.id_bytes = b""  # the same for child processes


_main_thread = threading.main_thread().ident
_here: ContextVar[Place | None] = ContextVar("energyd_place", default=None)
_main: list[Place] = []  # open places that the main thread began, oldest first
_top: list[Place] = []  # open runs of the process, oldest first


def here() -> Place | None:
    """The innermost open run or stage around the caller, in its own context."""
    place = _here.get()
    while place is not None and not place.is_open:
        place = place.outer
    return place


def main_run() -> Place | None:
    """The newest open run that the main thread began: what a thread without a context belongs to."""
    return next((p for p in reversed(_main) if p in _top), None)


def any_run() -> Place | None:
    """`main_run`, else the newest open run of any thread."""
    return main_run() or (_top[-1] if _top else None)


def inherited() -> tuple[str | None, str | None]:
    """Run and stage that this process was started in, from the environment as it was before us."""
    found = _exports.before if _main else os.environ
    run_id = identity(found.get(ENV_RUN_ID) or "")
    return run_id, identity(found.get(ENV_STAGE_ID) or "") if run_id else None


def enter(place: Place, outer: Place | None) -> None:
    """`place` begins around the caller; `outer`: what `here` says."""
    place.outer = outer
    place.is_open = True
    _here.set(place)
    if get_ident() == _main_thread:
        _main.append(place)
        _exports.name(place.run_id, place.id_bytes)


def enter_run(place: Place) -> None:
    """The same for a run, which threads without a context belong to."""
    _top.append(place)
    enter(place, here())


def leave(place: Place) -> None:
    """`place` ends; in whatever order and thread, what is still open around the caller comes back."""
    place.is_open = False
    if _here.get() is place:
        outer = place.outer
        _here.set(outer if outer is None or outer.is_open else here())
    if place in _main:
        _main.remove(place)
        if _main:
            _exports.name(_main[-1].run_id, _main[-1].id_bytes)
        else:
            _exports.restore()


def leave_run(place: Place) -> None:
    """The same for a run."""
    if place in _top:
        _top.remove(place)
    leave(place)


_exports = Exports()


def _forked() -> None:
    global _main_thread  # noqa: PLW0603
    _main_thread = get_ident()  # as threading has it


os.register_at_fork(after_in_child=_forked)
