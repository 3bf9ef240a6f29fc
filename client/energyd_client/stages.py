"""When does a named span of work begin and end, and what was done in it?

with energy.stage("train") as stage: ...     @energy.stage("evaluate")     s = run.stage("x").begin(); s.end()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from functools import wraps
from sys import modules
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from energyd_client import arguments, cuda, lifetime, place
from energyd_client.block import Block
from energyd_client.clock import BOOTTIME, now_ns, read_ns
from energyd_client.lifetime import this
from energyd_client.notes import fault, ignored, never_raises, warn_once
from energyd_client.protocol import Count, StageBegin, piece, stage_begin, stage_end

if TYPE_CHECKING:
    from energyd_client.outbox import Outbox

MAX_NAMES: Final = 1_000
"""Names of stages that are kept packed."""

_packed_names: dict[str, bytes] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


class Stage(Block):
    """A stage of a run: a context manager, and a decorator that makes a new stage at each call.

    Begin and end take the time first, then keep the marker on disk and return; a sender thread does the
    rest. Neither blocks nor raises. `stage_id` is set by begin.
    """

    __slots__ = ("_devices", "_run", "_sync")

    def __init__(self, name: str, run: place.Place | None, devices: Any = None, sync: bool = False) -> None:
        super().__init__()
        self.name, self._run, self._devices, self._sync = name, run, devices, bool(sync)

    @never_raises
    def count(self, **units: int) -> None:
        """Add work done in this stage, e.g. `label=4096, positions=8192`; whole numbers from 0."""
        t_ns = now_ns()
        if self.stage_id is None or self._ended:
            ignored(
                f"count in stage {self.name!r}", "it is not open, nothing is counted", "count before it ends"
            )
            return
        kept = arguments.counts(units)
        if kept and (box := lifetime.outbox()):
            box.post(Count(0, t_ns, self.run_id, self.stage_id, kept))

    @never_raises
    def result(self, timeout_s: float = 3.0, power: bool = False) -> dict[str, Any] | None:
        """What the daemon says this stage cost: the answer to `ask_stage` (PROTOCOL.md).

        Waits until its energy is final, at most `timeout_s` seconds, and then returns what is known so
        far (look at `state`). None if there is no answer. `power`: with the power curve.
        """
        if self.stage_id is None or lifetime.outbox() is None:
            return None
        from energyd_client.request import stage_result

        return stage_result(self.stage_id, timeout_s, power)

    def __call__(self, function: _F) -> _F:
        """Measure each call of `function` as a stage of its own; async and generator functions too."""

        def fresh() -> Stage:
            return Stage(self.name, self._run, self._devices, self._sync)

        if inspect.isasyncgenfunction(function):
            ignored(
                f"@stage({self.name!r})",
                "an async generator cannot be measured so",
                "use `with` inside of it",
            )
            return function

        async def whole_task(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return await function(*args, **kwargs)

        def whole_iteration(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with fresh():  # from the first item asked for to the last
                return (yield from function(*args, **kwargs))

        def whole_call(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return function(*args, **kwargs)

        if inspect.iscoroutinefunction(function):
            return cast(_F, wraps(function)(whole_task))
        if inspect.isgeneratorfunction(function):
            return cast(_F, wraps(function)(whole_iteration))
        return cast(_F, wraps(function)(whole_call))

    def begin(self) -> Stage:
        """Start it now; with `sync`, once the GPUs are idle.

        This and `end` are written for few Python calls: after a pause of the program each costs several
        microseconds until it is back in the caches.
        """
        synced = self._sync and cuda.synchronize()
        t_ns = read_ns(BOOTTIME)
        try:
            if self.stage_id is not None:
                self._begun_before("stage", True)
                return self
            box = this.box or lifetime.outbox()
            if box is None:
                self.stage_id = lifetime.silent_id()
                return self
            try:
                self.stage_id, self.id_bytes, self.id_text = box.idents.popleft()
            except IndexError:
                self.stage_id, self.id_bytes, self.id_text = box.ident()
            around = inner = place.here()
            if around is None or (self._run is not None and self._run.run_id != around.run_id):
                around = self._around(inner)
                inner = place.here()  # a run may have begun for this stage
            self.box, self.run_id, self.run_bytes = box, around.run_id, around.run_bytes
            if box.described < 1 + ("torch" in modules):
                box.describe_process(t_ns)
            try:
                name = _packed_names[self.name]
            except (KeyError, TypeError):
                name = self._pack_name()
            if self._devices is None:
                box.put(*stage_begin(t_ns, self.run_bytes, self.id_text, name, around.id_text, synced))
            else:
                self._post_with_devices(box, t_ns, around, synced)
            place.enter(self, inner)
        except Exception as error:
            fault(error, "Stage.begin")
        return self

    __enter__ = begin

    def end(self, status: str = "ok") -> None:
        """End it now; `status` is `ok` or `error`. Ending twice is ignored, with one warning."""
        if self._sync and self.box is this.box:
            cuda.synchronize()
        t_ns = read_ns(BOOTTIME)
        try:
            if self._ended or self.stage_id is None:
                self._ends_now("stage", self.stage_id is not None)
                return
            self._ended = True
            box = self.box
            # A child forked inside the stage leaves the block too, but the stage is its parent's to end.
            if box is not None and box is this.box:
                box.put(*stage_end(t_ns, self.run_bytes, self.id_text, "ok" if status == "ok" else "error"))
                if box.described < 1 + ("torch" in modules):
                    box.describe_process(t_ns)
            place.leave(self)
        except Exception as error:
            fault(error, "Stage.end")

    def _pack_name(self) -> bytes:
        self.name = arguments.name(self.name, "stage name")
        packed = piece("name", self.name)
        if len(_packed_names) < MAX_NAMES:
            _packed_names[self.name] = packed
        return packed

    def _post_with_devices(self, box: Outbox, t_ns: int, around: place.Place, synced: bool) -> None:
        assert self.stage_id is not None
        devices = arguments.devices(self._devices, f"devices of stage {self.name!r}")
        box.post(StageBegin(0, t_ns, self.run_id, self.stage_id, self.name, around.stage_id, devices, synced))

    def _around(self, inner: place.Place | None) -> place.Place:
        """Where this stage begins: in the run it was made from, or the caller's."""
        from energyd_client import runs

        if self._run is None:
            return inner or runs.current()
        if self._run.box is not None and not self._run.is_open:
            warn_once(f"late {self.name}", f"energyd: stage {self.name!r} begins after its run has ended")
        return self._run


def stage(name: str, /, *, devices: Any = None, sync: bool = False) -> Stage:
    """A stage of the run that is current where it begins: use as `with` or as decorator.

    That run is the one around the caller, else the process's, else the one named by ENERGYD_RUN_ID, else
    one named after the script, which ends with the process. `devices`: the GPUs to charge (numbers as
    this process counts them, or UUIDs); default: those that the process may use. `sync`: let both edges
    wait for the GPU, if torch runs one.
    """
    return Stage(name, None, devices, sync)
