"""How does ENERGYD_STAGE_ID follow the open stage without a leak, for children however they are started?

setenv of glibc never frees a value: 81 bytes a stage, measured. So libc is given one buffer for good (putenv)
and each stage's id is written into it. `os.environ` of Python keeps a copy of its own, which is told too.
"""

from __future__ import annotations

import os
from typing import Any, Final

from energyd_client.endpoints import ENV_STAGE_ID

_ROOM: Final = 400
"""Bytes of a value: 96 characters (`arguments.MAX_ID`) of at most 4 bytes, and the end mark."""

_NAME: Final = ENV_STAGE_ID.encode()
_slot: Any = None  # the value's bytes in libc's environment
_buffer: Any = None  # what holds them: never freed, since libc points to it
_copy: dict[bytes, bytes] = {}  # that of os.environ


def place() -> None:
    """Put the variable into the environment, empty. Without ctypes it stays so: children join the run."""
    global _slot, _buffer, _copy  # noqa: PLW0603
    os.environ[ENV_STAGE_ID] = ""  # by the front door once, whatever lies behind it
    try:
        import ctypes  # 2 ms that a program without a stage does not pay

        if _buffer is None:
            _buffer = ctypes.create_string_buffer(_NAME + b"=", len(_NAME) + 1 + _ROOM)
            _slot = (ctypes.c_char * _ROOM).from_buffer(_buffer, len(_NAME) + 1)
        _slot.value = b""
        _copy = os.environ._data  # type: ignore[attr-defined]
        ctypes.pythonapi.putenv(_buffer)
    except (ImportError, AttributeError, OSError):
        _slot = None


def write(stage_id: str) -> None:
    """Name this stage; empty: none. Costs about 0.1 µs."""
    if _slot is not None:
        _slot.value = _copy[_NAME] = stage_id.encode()
