"""How does a named span begin and end once, as `with` block or by calls? What runs and stages share."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from energyd_client import place
from energyd_client.notes import count, ignored

_B = TypeVar("_B", bound="Block")


class Block(place.Place):
    """A `with` block, or begin() and end(). Neither raises; each counts once."""

    __slots__ = ("_ended", "name")

    name: str

    def __init__(self) -> None:
        super().__init__()
        self._ended = False

    def begin(self: _B) -> _B:
        """Start it now: a run joins the one around it, a stage with `sync` waits until its GPUs are idle."""
        raise NotImplementedError

    def end(self, status: str = "ok") -> None:
        """End it now; `status` is `ok` or `error`. Ending twice is ignored, with one warning."""
        raise NotImplementedError

    def __enter__(self: _B) -> _B:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end("ok" if kind is None else status_of(kind, error))

    def _begun_before(self, what: str, begun: bool) -> bool:
        """Whether it has begun; then a second begin is warned of."""
        if begun:
            fault, cure = "begun twice, the second time is ignored", f"make a new {what} each time"
            ignored(f"{what} {self.name!r}", fault, cure)
        return begun

    def _ends_now(self, what: str, begun: bool) -> bool:
        """Whether this is its first end after a begin; anything else is counted and warned of."""
        if self._ended or not begun:
            count("ended_twice" if self._ended else "ignored")
            fault = "ended twice, the second end is ignored" if self._ended else "ended but never begun"
            ignored(f"{what} {self.name!r}", fault, f"end each {what} once; `with` does it")
            return False
        self._ended = True
        return True


def status_of(kind: type[BaseException] | None, error: BaseException | None) -> str:
    """`error` if a block was left by an exception, but `sys.exit(0)` and a closed generator are `ok`."""
    if kind is None or issubclass(kind, GeneratorExit):
        return "ok"
    return "ok" if isinstance(error, SystemExit) and not error.code else "error"
