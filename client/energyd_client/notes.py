"""What must a person be told, once, and how much was lost or ignored meanwhile?

A measured program must not drown in complaints, and nothing may vanish uncounted: each kind of
trouble is logged once (logger `energyd`, which reaches stderr by default) and counted every time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

MAX_KINDS: Final = 100
"""Different complaints that are logged before the rest is only counted."""

_PACKAGE: Final = str(Path(__file__).parent)
_told: set[str] = set()
_counts: Counter[str] = Counter()


def losses() -> dict[str, int]:
    """What this process's client could not do, by kind; empty if nothing went wrong.

    `ignored`: calls with wrong arguments or in the wrong order. `unspooled`: markers sent but not kept
    on disk. `lost`: markers neither kept nor sent. `refused`: markers that the daemon refused.
    `garbage`: unreadable messages from the daemon. `internal`: faults of the client itself.
    """
    return dict(_counts)


def count(kind: str, n: int = 1) -> None:
    """Add to `losses`."""
    _counts[kind] += n


def warn_once(key: str, text: str) -> None:
    """Log `text` as a warning unless something was logged under `key` before."""
    if key in _told or len(_told) >= MAX_KINDS:
        return
    _told.add(key)
    import logging  # 12 ms that a program without trouble does not pay

    logging.getLogger("energyd").warning("%s", text)


def ignored(what: str, why: str, cure: str) -> None:
    """A call of the user's had no effect, or not the one asked for: say once per place what, where, cure."""
    count("ignored")
    place = caller()
    warn_once(f"ignored {what} {place}", f"energyd: {what}: {why}\nat {place}\n{cure}")


def caller() -> str:
    """`file:line` of the nearest frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def never_raises(function: Callable[_P, _T]) -> Callable[_P, _T | None]:
    """Turn a fault of ours into a counted, once-logged None: measuring must not stop a training job."""

    @wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            fault(error, function.__qualname__)
            return None

    return guarded


def fault(error: Exception, where: str) -> None:
    """Count and tell a fault of ours in the function `where`."""
    count("internal")
    warn_once(
        f"internal {type(error).__name__}",
        f"energyd: a fault in the client, the program goes on: {error!r}\n"
        f"at {caller()}, in {where}\nplease report it",
    )


def forget() -> None:
    """Start anew, as a fresh process would."""
    _told.clear()
    _counts.clear()
