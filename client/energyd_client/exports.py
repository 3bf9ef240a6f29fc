"""What do child processes read of the run and the stage that they are started in?

ENERGYD_RUN_ID and ENERGYD_STAGE_ID. setenv of glibc never frees a value (81 bytes a stage, measured), so
libc is given one buffer for good, by putenv, and each stage's id is written into it. `os.environ` of Python
keeps a copy of its own, which is told too.
"""

from __future__ import annotations

import os
from typing import Any, Final

from energyd_client.endpoints import ENV_RUN_ID, ENV_STAGE_ID

_ROOM: Final = 400
"""Bytes of a stage's id: 96 characters (`arguments.MAX_ID`) of at most 4 bytes, and the end mark."""

_STAGE: Final = ENV_STAGE_ID.encode()


class Exports:
    """The two variables, as they were before and as they are."""

    def __init__(self) -> None:
        self.before: dict[str, str | None] = {}  # empty while nothing is exported
        self._run_id: str | None = None
        self._buffer: Any = None  # never freed: libc points to it
        self._slot: Any = None  # the value in it
        self._copy: dict[bytes, bytes] = {}  # that of os.environ
        self._last = b""  # what was written there last, the very object

    def name(self, run_id: str, stage_id: bytes) -> None:
        """Children that start from now on belong there; empty `stage_id`: to no stage. About 0.2 µs."""
        if run_id != self._run_id:
            self._name_run(run_id)
        if self._slot is not None:
            if self._copy.get(_STAGE) is not self._last:
                self._place()  # somebody else has set, or cleared, the variables: libc may point elsewhere
                os.environ[ENV_RUN_ID] = run_id
            self._slot.value = self._copy[_STAGE] = self._last = stage_id

    def restore(self) -> None:
        """Put back what was there before."""
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.before, self._run_id = {}, None

    def _name_run(self, run_id: str) -> None:
        if not self.before:
            self.before = {name: os.environ.get(name) for name in (ENV_RUN_ID, ENV_STAGE_ID)}
            self._place()
        os.environ[ENV_RUN_ID] = self._run_id = run_id

    def _place(self) -> None:
        """Put the buffer into the environment. Without ctypes no stage is told, only the run."""
        os.environ[ENV_STAGE_ID] = ""  # by the front door once, whatever lies behind it
        try:
            import ctypes  # 2 ms that a program without a stage does not pay

            if self._buffer is None:
                start = len(_STAGE) + 1
                self._buffer = ctypes.create_string_buffer(_STAGE + b"=", start + _ROOM)
            self._slot = (ctypes.c_char * _ROOM).from_buffer(self._buffer, len(_STAGE) + 1)
            self._slot.value = b""
            self._copy = os.environ._data  # type: ignore[attr-defined]
            self._last = self._copy[_STAGE]
            ctypes.pythonapi.putenv(self._buffer)
        except (ImportError, AttributeError, OSError):
            self._slot = None
