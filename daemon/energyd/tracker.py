"""Which runs and stages are open, and what did each marker change? Markers in, rows and news out.

Pure bookkeeping: no clock, no socket, no disk. Energy is added by `energyd.accounting` when samples
have passed a stage's end.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from typing import Any, Final

from energyd.roster import Roster
from energyd.stages import Incoming, Run, Stage, same_user, to_json
from energyd_client import protocol as p

Rows = defaultdict[str, list[tuple[Any, ...]]]

REMEMBERED: Final = 10_000
"""Ended runs that are known, so that a child heard after its run's end joins that one; and settled stages, so
that what begins in one that is over is still inside those around it."""


class Tracker:
    """Open runs and stages. `rows` collects what the next commit writes."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.ended: dict[str, Run] = {}  # the newest REMEMBERED ones; their rows are written
        self.roster = Roster()
        self.stages = self.roster.by_id  # open, or ended with energy pending
        self.began: list[Stage] = []  # since accounting looked: new, or its process said what it uses
        self.over: list[Stage] = []  # since accounting looked: ended
        self.rows: Rows = defaultdict(list)
        self.touched: set[str] = set()  # stages whose row or memo changed since the last commit
        self.touched_runs: set[str] = set()
        self.news: set[str] = set()  # stages whose state subscribers should hear of
        self._processes: dict[str, p.ProcessInfo] = {}
        self._lines: dict[str, tuple[str, ...]] = {}  # of settled stages: those around them

    def restore(self, runs: list[Run], stages: list[Stage]) -> None:
        """Take over what an earlier daemon left open."""
        self.runs = {r.run_id: r for r in runs}
        for stage in stages:
            self.roster.add(stage)
            self.began.append(stage)
            if stage.t1_ns is not None:
                self.over.append(stage)
            if stage.run_id in self.runs:
                self.runs[stage.run_id].pids |= stage.run_pids
                stage.run_pids = self.runs[stage.run_id].pids
                if stage.t1_ns is None:
                    self.runs[stage.run_id].members.add(stage.client)
        self.news |= set(self.stages)
        for run in list(self.runs.values()):
            ends = [s.t1_ns for s in stages if s.run_id == run.run_id and s.t1_ns is not None]
            self._end_if_deserted(run, max(ends, default=run.t0_ns))

    def apply(self, incoming: Incoming) -> p.Refusal | None:
        """Take one marker. A refused marker is journaled all the same, unless it is another user's."""
        m = incoming.message
        run_id = getattr(m, "run_id", "")
        run = self.runs.get(run_id) or self.ended.get(run_id)
        if run is not None and not same_user(run.uid, incoming.uid):  # uids come from the kernel
            text = f"run {run.run_id} belongs to uid {run.uid}, not {incoming.uid}"
            return _refuse(m, "conflict", text, "run_id")
        self.rows["markers"].append(_journal(incoming))
        refusal: p.Refusal | None = getattr(self, _METHOD[type(m)])(incoming, m)
        run = self.runs.get(run_id) or self.ended.get(run_id)  # it may be new, or another one
        if run is not None:
            run.members.add(incoming.client)
            if incoming.pid is not None and incoming.pid not in run.pids:
                run.pids.add(incoming.pid)
                self.touched |= {s.stage_id for s in self.roster.of_run(run_id)}
        return refusal

    def client_gone(self, client: str, t_ns: int, doubt_ns: int, uid: int | None = None) -> None:
        """A process is dead: what it left open ends `aborted`, at the last moment it may have lived.

        What another user than `uid` began stays as it is: who claims a client's id cannot end its runs.
        """
        mine = [s for s in self.roster.of_client(client) if same_user(s.uid, uid)]
        for stage in [s for s in mine if s.t1_ns is None]:
            self._close(stage, max(t_ns, stage.t0_ns), "aborted")
            stage.doubt_ns = max(stage.doubt_ns, doubt_ns)
            stage.flags.add("aborted")
            self.rows["markers"].append(
                (
                    client,
                    None,
                    stage.t1_ns,
                    t_ns,
                    "aborted",
                    stage.run_id,
                    stage.stage_id,
                    "{}",
                    None,
                    None,
                    None,
                )
            )
        for run in [r for r in self.runs.values() if r.client == client and same_user(r.uid, uid)]:
            run.orphan = True
            self.touched_runs.add(run.run_id)
            self._end_if_orphaned(run, t_ns)
        for run in [r for r in self.runs.values() if client in r.members and same_user(r.uid, uid)]:
            run.members.discard(client)
            self._end_if_deserted(run, t_ns)
        self._processes.pop(client, None)

    def finish(self, stage: Stage) -> None:
        """Its energy is known: write the final row and forget it."""
        stage.state = "final"
        self.rows["stages_log"].append(stage.row())
        self.touched.add(stage.stage_id)
        self.news.add(stage.stage_id)
        self.roster.remove(stage)
        self._lines[stage.stage_id] = stage.ancestors
        if len(self._lines) > REMEMBERED:
            del self._lines[next(iter(self._lines))]
        run = self.runs.get(stage.run_id)
        if run is not None and stage.t1_ns is not None:
            self._end_if_orphaned(run, stage.t1_ns)

    # ---- one method a marker, named by its type ----------------------------------------------------

    def _run_begin(self, incoming: Incoming, m: p.RunBegin) -> p.Refusal | None:
        run = self._known(m.run_id)
        if run is not None and run.client is not None:
            return _refuse(m, "conflict", f"run {m.run_id} has begun already", "run_id")
        if run is None or self.ended.pop(m.run_id, None) is not None:  # only children had spoken of it
            run = self._new_run(incoming, m.run_id, run.labels if run is not None else {})
        run.name, run.t0_ns, run.client = m.name, incoming.t_ns, incoming.client
        run.labels = {**run.labels, **m.labels}  # a joined child may have labelled it before
        run.env, run.git_commit, run.pid = m.env, m.git_commit, incoming.pid
        self.touched_runs.add(run.run_id)
        return None

    def _labels(self, incoming: Incoming, m: p.RunLabels) -> p.Refusal | None:
        if m.run_id in self.ended:
            return _refuse(m, "not_found", f"run {m.run_id} has ended, its labels are written", "run_id")
        run = self.runs.get(m.run_id) or self._new_run(incoming, m.run_id)
        run.labels = {**m.labels, **run.labels}
        self.touched_runs.add(run.run_id)
        return None

    def _run_end(self, incoming: Incoming, m: p.RunEnd) -> p.Refusal | None:
        run = self.runs.get(m.run_id)
        if run is None:
            return _refuse(m, "not_found", f"no open run {m.run_id}: ended twice, or never begun", "run_id")
        self._end_run(run, incoming.t_ns, m.status)
        return None

    def _begin(self, incoming: Incoming, m: p.StageBegin) -> p.Refusal | None:
        if m.stage_id in self.stages:
            return _refuse(m, "conflict", f"stage {m.stage_id} has begun already", "stage_id")
        # A child may be heard before its parent begins the run, and after it has ended it.
        run = self._known(m.run_id) or self._new_run(incoming, m.run_id)
        if run.client is None and self.ended.pop(m.run_id, None) is not None:
            self.runs[m.run_id] = run  # ranks that came one after the other: nobody has said that it is over
            run.t1_ns, run.status = None, "open"
            self.touched_runs.add(m.run_id)
        parent = self.stages.get(m.parent_id) if m.parent_id else None
        stage = Stage(
            run_id=m.run_id, stage_id=m.stage_id, name=m.name, t0_ns=incoming.t_ns, client=incoming.client,
            parent_id=m.parent_id, named=m.devices, process=self._processes.get(incoming.client),
            uid=incoming.uid, pid=incoming.pid, doubt_ns=incoming.doubt_ns,
            run_pids=run.pids,
        )  # fmt: skip
        if parent is not None:
            stage.ancestors = (*parent.ancestors, parent.stage_id)
        elif m.parent_id:
            stage.ancestors = (*self._lines.get(m.parent_id, ()), m.parent_id)
        if m.synced:
            stage.flags.add("synced")
        if incoming.doubt_ns:
            stage.flags.add("arrival_time")
        self.roster.add(stage)
        self.began.append(stage)
        self._changed(stage)
        return None

    def _end(self, incoming: Incoming, m: p.StageEnd) -> p.Refusal | None:
        stage = self.stages.get(m.stage_id)
        if stage is None or stage.t1_ns is not None or stage.run_id != m.run_id:
            return _refuse(
                m, "not_found", f"no open stage {m.stage_id}: ended twice, or never begun", "stage_id"
            )
        self._close(stage, max(incoming.t_ns, stage.t0_ns), m.status)
        stage.doubt_ns = max(stage.doubt_ns, incoming.doubt_ns)
        return None

    def _count(self, incoming: Incoming, m: p.Count) -> p.Refusal | None:
        stage = self.stages.get(m.stage_id)
        if stage is None or stage.run_id != m.run_id:
            return _refuse(m, "not_found", f"no open stage {m.stage_id} to count on", "stage_id")
        for unit, n in m.counts.items():
            stage.counts[unit] = stage.counts.get(unit, 0) + n
        self._changed(stage)
        return None

    def _metric(self, incoming: Incoming, m: p.Metric) -> p.Refusal | None:
        self.rows["metrics"].append((m.run_id, m.stage_id, incoming.t_ns, m.name, m.value, m.n))
        return None

    def _artifact(self, incoming: Incoming, m: p.ArtifactMade) -> p.Refusal | None:
        self.rows["artifacts"].append(
            (m.artifact_id, m.run_id, m.stage_id, incoming.t_ns, m.name, m.kind, m.uri, m.sha256,
             m.size_bytes, to_json(m.attrs))
        )  # fmt: skip
        return None

    def _artifact_use(self, incoming: Incoming, m: p.ArtifactUsed) -> p.Refusal | None:
        self.rows["artifact_uses"].append((m.artifact_id, m.run_id, m.stage_id, incoming.t_ns))
        return None

    def _process(self, incoming: Incoming, m: p.ProcessInfo) -> p.Refusal | None:
        self._processes[incoming.client] = m
        for stage in self.roster.of_client(incoming.client):
            stage.process = m
            self.began.append(stage)
            self.touched.add(stage.stage_id)
        return None

    # ---- helpers -------------------------------------------------------------------------------------

    def _known(self, run_id: str) -> Run | None:
        return self.runs.get(run_id) or self.ended.get(run_id)

    def _new_run(self, incoming: Incoming, run_id: str, labels: dict[str, Any] | None = None) -> Run:
        run = Run(run_id, run_id, incoming.t_ns, None, incoming.uid, incoming.pid, labels or {})
        self.runs[run_id] = run
        self.touched_runs.add(run_id)
        return run

    def _changed(self, stage: Stage) -> None:
        self.touched.add(stage.stage_id)
        self.news.add(stage.stage_id)

    def _close(self, stage: Stage, t_ns: int, status: str) -> None:
        stage.t1_ns, stage.status, stage.state = t_ns, status, "ended"
        self.roster.ended(stage)
        self.over.append(stage)
        self._changed(stage)

    def _end_run(self, run: Run, t_ns: int, status: str) -> None:
        run.t1_ns, run.status = max(t_ns, run.t0_ns), status
        self.rows["runs_log"].append(run.row())
        self.touched_runs.add(run.run_id)
        self.ended[run.run_id] = self.runs.pop(run.run_id)
        while len(self.ended) > REMEMBERED:
            del self.ended[next(iter(self.ended))]

    def _end_if_deserted(self, run: Run, t_ns: int) -> None:
        """A run that only children have spoken of ends with the last of them: its own may be long over."""
        if run.client is None and not run.members and run.run_id in self.runs:
            self._end_run(run, t_ns, "aborted")

    def _end_if_orphaned(self, run: Run, t_ns: int) -> None:
        if run.orphan and not self.roster.is_open(run.run_id):
            self._end_run(run, t_ns, "aborted")


def _refuse(m: p.Marker, code: str, message: str, field: str) -> p.Refusal:
    return p.Refusal(code, message, field, m.seq)


def _journal(incoming: Incoming) -> tuple[Any, ...]:
    """A marker as a row of `markers`."""
    m = incoming.message
    body = {k: v for k in _BODY[type(m)] if (v := getattr(m, k)) is not None}
    return (
        incoming.client, m.seq, incoming.t_ns, incoming.arrived_ns, m.TYPE, getattr(m, "run_id", None),
        getattr(m, "stage_id", None), to_json(body), incoming.uid, incoming.gid, incoming.pid,
    )  # fmt: skip


_METHOD = {kind: f"_{kind.TYPE}" for kind in p.MARKERS}

_BODY = {
    kind: tuple(f.name for f in fields(kind) if f.name not in ("seq", "t_ns", "run_id", "stage_id"))
    for kind in p.MARKERS
}
"""By kind of marker, the fields that have no column of their own (`asdict` would copy each value)."""
