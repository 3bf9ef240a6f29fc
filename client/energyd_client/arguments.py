"""Is what the caller passed fit for the wire, and if not, what is sent instead?

A begin is never dropped for a bad argument, since a lost begin loses the whole stage: names are mended
and bad labels left out. Counts, metrics and artifacts that make no sense are dropped. Either way one
warning says what, where, cure. The daemon enforces the same bounds (`Bound` in protocol.py).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Final

from energyd_client import cuda
from energyd_client.notes import ignored
from energyd_client.process import clean
from energyd_client.protocol import I64_MAX, Scalar

MAX_NAME: Final = 200
MAX_ID: Final = 96
MAX_TEXT: Final = 4_000
MAX_LABEL: Final = 500
"""Characters of one label's value; 64 of them must fit into one frame."""

MAX_LABELS: Final = 64
MAX_COUNTS: Final = 16
MAX_COUNT: Final = 2**53
"""Counts stay exact as floating-point numbers too."""


def name(value: Any, what: str) -> str:
    """A name of 1 to 200 characters: `value`, or the nearest to it."""
    if type(value) is str and 0 < len(value) <= MAX_NAME and value.isascii():
        return value
    text = clean(value if isinstance(value, str) else _text(value))
    if not text:
        ignored(what, "an empty name; `unnamed` is used", "give it a name")
        return "unnamed"
    if not isinstance(value, str):
        ignored(what, f"the name is a {type(value).__name__}; {text[:60]!r} is used", "pass a string")
    if len(text) > MAX_NAME:
        ignored(what, f"the name has {len(text)} characters; the first {MAX_NAME} are used", "shorten it")
    return text[:MAX_NAME]


def labels(values: Mapping[str, Any], what: str) -> dict[str, Scalar]:
    """Labels as scalars: numbers and truth values as they are, None left out, all else as text."""
    kept: dict[str, Scalar] = {}
    for key, value in values.items():
        if value is None:
            continue
        scalar = _scalar(value)
        if scalar is None:
            ignored(what, f"{key}={value!r} is left out: not a finite number", "pass a finite one, or text")
        elif len(kept) >= MAX_LABELS:
            ignored(what, f"more than {MAX_LABELS} labels; {key} is left out", "keep what tells runs apart")
        else:
            kept[name(key, what)] = scalar
    return kept


def counts(values: Mapping[str, Any]) -> dict[str, int]:
    """Counts as whole numbers from 0; those that are not are left out."""
    kept: dict[str, int] = {}
    for key, value in values.items():
        number = value if type(value) is int else whole(value)
        if number is None or not 0 <= number <= MAX_COUNT:
            ignored(
                f"stage.count({key}={_text(value)[:40]})",
                "not a whole number from 0 to 2^53, not counted",
                "pass an int (of a tensor: .item(), which waits for the GPU)",
            )
        elif len(kept) >= MAX_COUNTS:
            ignored(
                "stage.count", f"more than {MAX_COUNTS} counts at once; {key} is left out", "split the call"
            )
        else:
            kept[name(key, "stage.count")] = number
    return kept


def whole(value: Any) -> int | None:
    """An integer (numpy's too), or None. Tensors are refused: reading one would wait for the GPU."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def finite(value: Any) -> float | None:
    """A finite real number as float, or None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def natural(value: Any, what: str) -> int | None:
    """A whole number from 0, or None with a warning; None stays None."""
    if value is None:
        return None
    number = whole(value)
    if number is None or not 0 <= number <= I64_MAX:
        ignored(what, f"{_text(value)[:40]} is not a whole number from 0; left out", "pass an int")
        return None
    return number


def text(value: Any, limit: int = MAX_TEXT) -> str | None:
    """Text of at most `limit` characters; None stays None."""
    return None if value is None else clean(_text(value))[:limit]


def devices(value: Any, what: str) -> list[str] | None:
    """GPUs as UUIDs or NVML indices. Ints and "cuda:1" (or torch devices) count as this process does."""
    if value is None:
        return None
    if isinstance(value, (str, int)) or not isinstance(value, Iterable):
        value = [value]
    found: list[str] = []
    known = cuda.uuids()
    for item in value:
        shown = clean(_text(item))
        number = whole(item)
        if number is None and shown.startswith("cuda:") and shown[5:].isdigit():
            number = int(shown[5:])
        if number is not None:
            seen = cuda.token(number, known)
            if seen is None:  # the daemon finds none by this name either, and flags the stage
                ignored(what, f"this process sees no cuda:{number}, none is charged for it",
                        "count as CUDA_VISIBLE_DEVICES does, from 0, or pass UUIDs")  # fmt: skip
            shown = f"cuda:{number}" if seen is None else seen
        if not 0 < len(shown) <= MAX_NAME or shown == "cuda" or len(found) >= MAX_LABELS:
            ignored(what, f"device {shown[:40]!r} is left out", 'pass numbers, "cuda:0" or "GPU-…" UUIDs')
        else:
            found.append(shown)
    return found


def identity(value: str) -> str | None:
    """An id of 1 to 96 characters, or None."""
    value = clean(value.strip())
    return value if 0 < len(value) <= MAX_ID else None


def _scalar(value: Any) -> Scalar | None:
    if isinstance(value, (bool, str)):
        return clean(value)[:MAX_LABEL] if isinstance(value, str) else value
    if isinstance(value, numbers.Integral):
        number = int(value)
        return number if -I64_MAX <= number <= I64_MAX else str(number)[:MAX_LABEL]
    if isinstance(value, numbers.Real):
        return finite(value)
    return clean(_text(value))[:MAX_LABEL]


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
