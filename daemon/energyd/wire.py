"""Is this frame a message, and of which kind? Bytes from strangers into bounded, typed messages.

The decoder is derived from the classes and bounds of `energyd_client.protocol`, the only home of the
messages; msgspec checks types, bounds and unknown fields while it decodes and names the culprit. The
object of that class is made of what it found.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from energyd_client import protocol as p

SAID = 300
"""Characters of a refusal's text and of the field that it names: both may quote 64 KiB of a stranger's."""


class WireError(Exception):
    """A frame is refused. `code`, `field` and `seq` (if it could be read) go into the Refusal."""

    def __init__(self, code: str, message: str, field: str | None = None, seq: int | None = None) -> None:
        self.code = code
        self.field = field and field[:SAID]
        self.seq = seq
        super().__init__(message if len(message) <= SAID else message[: SAID - 1] + "…")


def decode(frame: bytes | memoryview) -> p.Message:
    """The message in a frame. Raises WireError, and nothing else, whatever the bytes are."""
    if len(frame) > p.MAX_FRAME_BYTES:
        raise WireError("oversize", f"{len(frame)} bytes; a frame may have {p.MAX_FRAME_BYTES}")
    try:
        struct = _decoder().decode(frame)
    except msgspec.ValidationError as error:
        raise _explain(frame, error) from None
    except Exception as error:  # truncated, not msgpack, too deeply nested (RecursionError) …
        raise WireError("malformed", f"not a message: {type(error).__name__}: {error}") from None
    cls, values = _structs()[type(struct)]
    message: p.Message = cls(*values(struct))
    if isinstance(message, p.Hello) and message.v != p.VERSION:
        raise _version(message.v)
    return message


def _explain(frame: bytes | memoryview, error: msgspec.ValidationError) -> WireError:
    """A refusal that names the field; a HELLO of another version is told just that."""
    text = str(error)
    peek = _peek(frame)
    if peek.type == p.Hello.TYPE and peek.v is not None and peek.v != p.VERSION:
        return _version(peek.v)
    if "Invalid value" in text and text.endswith("`$.type`"):
        return WireError("unknown_type", text, "type", peek.seq)
    unknown = re.search(r"unknown field `([^`]+)`", text)
    missing = re.search(r"missing required field `([^`]+)`", text)
    path = re.search(r"at `(?:key in )?\$\.?([^`]*)`", text)
    found = unknown or missing
    field = found.group(1) if found else (path.group(1) if path else None)
    return WireError("malformed", text, field or None, peek.seq)


def _version(theirs: int) -> WireError:
    side = "the client: pip install -U energyd" if theirs < p.VERSION else "the daemon"
    return WireError("version", f"client speaks protocol {theirs}, daemon {p.VERSION}; upgrade {side}", "v")


class _Peek(msgspec.Struct):
    """What can be read of a refused message: a HELLO's version, the marker that a client must give up."""

    type: str = ""
    v: int | None = None
    seq: Annotated[int, msgspec.Meta(ge=1, le=p.I64_MAX)] | None = None


def _peek(frame: bytes | memoryview) -> _Peek:
    try:
        return msgspec.msgpack.decode(frame, type=_Peek)
    except Exception:  # not even that
        return _Peek()


@cache
def _structs() -> dict[type[msgspec.Struct], tuple[type, Callable[[Any], tuple[Any, ...]]]]:
    """By msgspec's type: the protocol's class, and what takes its fields out in their order."""
    structs: dict[type[msgspec.Struct], tuple[type, Callable[[Any], tuple[Any, ...]]]] = {}
    for cls in p.TO_DAEMON:
        hints = get_type_hints(cls, include_extras=True)
        spec: list[Any] = []
        for f in fields(cls):
            kind = _translate(hints[f.name])
            if f.default_factory is not MISSING:
                spec.append((f.name, kind, msgspec.field(default_factory=f.default_factory)))
            elif f.default is not MISSING:
                spec.append((f.name, kind, f.default))
            else:
                spec.append((f.name, kind))
        struct = msgspec.defstruct(
            cls.__name__, spec, tag_field="type", tag=cls.TYPE, forbid_unknown_fields=True
        )
        structs[struct] = cls, _getter([f.name for f in fields(cls)])
    return structs


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda struct: tuple(getattr(struct, name) for name in names)


@cache
def _decoder() -> msgspec.msgpack.Decoder[Any]:
    union = Union[tuple(_structs())]  # type: ignore[valid-type]  # noqa: UP007 (made at run time)
    return msgspec.msgpack.Decoder(union)


def _translate(hint: Any) -> Any:
    """A type of protocol.py with its Bound as msgspec's Meta."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        kind = _translate(inner)
        for bound in marks:
            if isinstance(bound, p.Bound):
                limits = {k: v for k, v in vars(bound).items() if v is not None}
                kind = Annotated[kind, msgspec.Meta(**limits)]
        return kind
    if origin in (Union, types.UnionType):
        return Union[tuple(_translate(a) for a in get_args(hint))]  # noqa: UP007 (made at run time)
    if origin in (list, dict):
        return origin[tuple(_translate(a) for a in get_args(hint))]
    return hint
