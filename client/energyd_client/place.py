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
from contextvars import ContextVar

from energyd_client import stage_variable
from energyd_client.arguments import identity
from energyd_client.endpoints import ENV_RUN_ID, ENV_STAGE_ID


class Place:
    """A run or a stage, as seen by what is begun inside it."""

    __slots__ = ("is_open", "outer", "pid", "run_id", "stage_id")

    def __init__(self) -> None:
        self.run_id = ""
        self.stage_id: str | None = None  # parent of stages begun here
        self.outer: Place | None = None
        self.is_open = False
        self.pid = 0  # the process that began it; a forked child ends nothing of its parent's


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
    found = _environment.before if _main else os.environ
    run_id = identity(found.get(ENV_RUN_ID) or "")
    return run_id, identity(found.get(ENV_STAGE_ID) or "") if run_id else None


def enter(place: Place, *, is_run: bool = False) -> None:
    """`place` begins around the caller."""
    place.outer = here()
    place.pid = os.getpid()
    place.is_open = True
    _here.set(place)
    if is_run:
        _top.append(place)
    if threading.get_ident() == threading.main_thread().ident:
        _main.append(place)
        _environment.export(_main)


def leave(place: Place) -> None:
    """`place` ends; in whatever order and thread, what is still open around the caller comes back."""
    place.is_open = False
    if _here.get() is place:
        _here.set(here())
    if place in _top:
        _top.remove(place)
    if place in _main:
        _main.remove(place)
        _environment.export(_main)


class _Environment:
    """The two variables that child processes read."""

    def __init__(self) -> None:
        self.before: dict[str, str | None] = {}  # as they were when the first place began
        self._run_id = ""

    def export(self, open_places: list[Place]) -> None:
        """Name the newest of `open_places`; none: put back what was there before."""
        if not open_places:
            self._restore()
            return
        if not self.before:
            self.before = {name: os.environ.get(name) for name in (ENV_RUN_ID, ENV_STAGE_ID)}
            stage_variable.place()
        innermost = open_places[-1]
        if self._run_id != innermost.run_id:
            os.environ[ENV_RUN_ID] = self._run_id = innermost.run_id
        stage_variable.write(innermost.stage_id or "")

    def _restore(self) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.before, self._run_id = {}, ""


_environment = _Environment()
