"""Which execution does all this belong to: a new run, or one that somebody above us began?"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from energyd_client import arguments, lifetime, place, process
from energyd_client.block import Block, status_of
from energyd_client.clock import now_ns
from energyd_client.notes import ignored, never_raises
from energyd_client.protocol import (
    ArtifactMade,
    ArtifactUsed,
    Metric,
    RunBegin,
    RunEnd,
    RunLabels,
    piece,
    text,
)
from energyd_client.stages import Stage


class Run(Block):
    """One execution. Use as `with`, or begin() and end(). `run_id` is set by begin.

    Inside another run (of this process, or named by ENERGYD_RUN_ID) it joins that one: labels, metrics
    and stages go there, and its end ends nothing.
    """

    __slots__ = ("joined", "labels")

    def __init__(self, name: str | None, labels: dict[str, Any]) -> None:
        super().__init__()
        self.name = process.program_name() if name is None else name
        self.labels = labels
        self.joined = False

    def stage(self, name: str, /, *, devices: Any = None, sync: bool = False) -> Stage:
        """A stage of this run; see `energyd_client.stage`."""
        self._must_be_begun()
        return Stage(name, self, devices, sync)

    @never_raises
    def metric(self, name: str, value: float, n: int | None = None) -> None:
        """Report a quality figure, e.g. an accuracy over `n` examples; a finite number."""
        t_ns = now_ns()
        self._must_be_begun()
        number = arguments.finite(value)
        if number is None:
            ignored(
                f"run.metric({name!r})", f"{value!r:.60} is not a finite number, not kept", "pass a float"
            )
        elif box := lifetime.outbox():
            name = arguments.name(name, "metric name")
            box.post(
                Metric(0, t_ns, self.run_id, name, number, arguments.natural(n, "metric n"), self._stage_id())
            )

    def artifact(
        self,
        name: str,
        /,
        *,
        kind: str,
        uri: str | os.PathLike[str] | None = None,
        sha256: str | None = None,
        size_bytes: int | None = None,
        artifact_id: str | None = None,
        stage: Stage | None = None,
        **attrs: Any,
    ) -> str:
        """Report a thing made here that other runs may reuse; returns its id, for `use_artifact` there.

        `kind`: dataset, logit_cache, checkpoint … `artifact_id`: one of your own, unique over machines
        (default: a random one). `stage`: which made it (default: the one around the caller); it may have
        ended. `attrs`: whatever else tells it apart.
        """
        made_id = arguments.identity(str(artifact_id)) if artifact_id else None
        if artifact_id and made_id is None:
            ignored(
                f"artifact {name!r:.60}",
                f"{artifact_id!r:.60} is no artifact id, a random one is used",
                "pass 1 to 96 characters",
            )
        made_id = made_id or f"a-{os.urandom(8).hex()}"
        self._made(made_id, name, kind, uri, sha256, size_bytes, stage, attrs)
        return made_id

    @never_raises
    def use_artifact(self, artifact_id: str) -> None:
        """Report that this run uses an artifact that some run made."""
        t_ns = now_ns()
        self._must_be_begun()
        known = arguments.identity(str(artifact_id))
        if known is None:
            ignored(
                "run.use_artifact",
                f"{artifact_id!r:.60} is no artifact id",
                "pass what run.artifact returned",
            )
        elif box := lifetime.outbox():
            box.post(ArtifactUsed(0, t_ns, self.run_id, known, self._stage_id()))

    def begin(self) -> Run:
        """Start it now, or join the run around it."""
        self._begin()
        return self

    def end(self, status: str = "ok") -> None:
        """End it now; `status` is `ok` or `error`. A run that was joined goes on."""
        self._end(status)

    @never_raises
    def _begin(self) -> None:
        t_ns = now_ns()
        if self._begun_before("run", bool(self.run_id)):
            return
        box = lifetime.outbox()
        self.name = arguments.name(self.name, "run name")
        self.labels = arguments.labels(self.labels, f"labels of run {self.name!r}")
        self._join_or_create()
        self.run_bytes = piece("run_id", self.run_id)
        if self.stage_id:
            self.id_bytes, self.id_text = self.stage_id.encode(), text(self.stage_id)
        if box is None:
            return
        if self.joined:
            if self.labels:
                box.post(RunLabels(0, t_ns, self.run_id, self.labels))
        else:
            env, commit = process.environment(), process.git_commit()
            for shorter in ((self.labels, env), (self.labels, {}), ({}, {})):
                if box.post(RunBegin(0, t_ns, self.run_id, self.name, *shorter, git_commit=commit)):
                    break
        self.box = box
        place.enter_run(self)

    def _join_or_create(self) -> None:
        outer = place.here() or place.main_run()
        if outer is not None and outer is not _implicit.run:  # a run by name is not part of the nameless one
            self.run_id, self.stage_id, self.joined = outer.run_id, outer.stage_id, True
            return
        run_id, stage_id = place.inherited()
        if run_id is not None:
            self.run_id, self.stage_id, self.joined = run_id, stage_id, True
            return
        self.run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"

    @never_raises
    def _end(self, status: str) -> None:
        t_ns = now_ns()
        if not self._ends_now("run", bool(self.run_id)):
            return
        box = lifetime.outbox()
        if box is not None and not self.joined and self.box is box:
            box.post(RunEnd(0, t_ns, self.run_id, "ok" if status == "ok" else "error"))
        place.leave_run(self)

    @never_raises
    def _made(
        self,
        artifact_id: str,
        name: Any,
        kind: Any,
        uri: Any,
        sha256: Any,
        size: Any,
        stage: Stage | None,
        attrs: dict[str, Any],
    ) -> None:
        t_ns = now_ns()
        self._must_be_begun()
        box = lifetime.outbox()
        if box is None:
            return
        what = f"artifact {name!r:.60}"
        kept = arguments.labels(attrs, what)
        digest = arguments.text(sha256, arguments.MAX_NAME) or None
        stage_id = self._stage_id() if stage is None else stage.stage_id
        for attributes in (kept, {}):
            made = ArtifactMade(
                0, t_ns, self.run_id, artifact_id, arguments.name(name, what), arguments.name(kind, what),
                stage_id, arguments.text(uri), digest, arguments.natural(size, what), attributes,
            )  # fmt: skip
            if box.post(made):
                break

    def _must_be_begun(self) -> None:
        if not self.run_id:
            self._begin()

    def _stage_id(self) -> str | None:
        """The stage that the caller is in, if it is one of this run."""
        inner = place.here()
        return inner.stage_id if inner is not None and inner.run_id == self.run_id else self.stage_id


class _Implicit:
    """The run of a process whose stages name none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.run: Run | None = None


_implicit = _Implicit()


def run(name: str | None = None, /, **labels: Any) -> Run:
    """A run named `name` (default: after the script), with labels such as `pipeline="kd", seed=0`.

    It begins with `with` or begin(); inside another run it joins that one.
    """
    return Run(name, labels)


def current() -> place.Place:
    """The run that a stage without one belongs to: the process's, else one named after the script."""
    with _implicit.lock:
        found = place.any_run()
        if found is None:
            found = _implicit.run = Run(None, {}).begin()
            lifetime.at_exit(_end_with_process)
        return found


def _end_with_process() -> None:
    if _implicit.run is not None and _implicit.run.is_open:
        failed = getattr(sys, "last_value", None)  # set when an exception ended the program
        _implicit.run.end(status_of(type(failed) if failed is not None else None, failed))


def _forked() -> None:
    _implicit.lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_forked)
