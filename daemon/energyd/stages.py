"""What is a run, what is a stage, while they are open? The tracker's state, and how it survives a restart."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from energyd.energy import Edge, Missing
from energyd.roughness import NONE, Sums
from energyd_client.protocol import Marker, ProcessInfo, StageState


def to_json(value: Any) -> str:
    """JSON that every reader takes: NaN and infinities, which JSON does not know, become text."""
    fast = msgspec.json.encode(value)  # writes NaN as null
    return fast.decode() if b"null" not in fast else json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def same_user(uid: int | None, other: int | None) -> bool:
    """Whether two uids are one user's, as far as they are known (None: the kernel did not say)."""
    return uid is None or other is None or uid == other


@dataclass(slots=True)  # not frozen: each marker makes one, and that sets attributes the slow way
class Incoming:
    """A marker on its way in; nobody changes it. `t_ns` and `arrived_ns` are store time."""

    client: str
    message: Marker
    t_ns: int
    arrived_ns: int
    doubt_ns: int = 0
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


@dataclass(slots=True)  # a tenth of the memory of one with a dict, and there are thousands
class Anchor:
    """One read of the hardware counter, beside the power integral at the same instant; nobody changes it."""

    t_ns: int
    energy_mj: int
    cum_uj: int
    segment: int  # rises at each counter reset and each hole
    rough: Sums = NONE  # this and what follows: as in energyd.energy.Edge
    bridge_j2: float = 0.0
    p_w: float = 0.0
    range_w: float = 0.0

    @classmethod
    def at(cls, energy_mj: int, edge: Edge, segment: int) -> Anchor:
        """A read at an instant where the integral is known."""
        return cls(
            edge.t_ns, energy_mj, edge.e_uj, segment, edge.rough, edge.bridge_j2, edge.p_w, edge.range_w
        )


@dataclass(frozen=True)
class Folded:
    """What ran beside a stage and inside it on one device, up to an instant."""

    t_ns: int
    e_uj: int | None  # the running integral there
    beside_ns: int  # under stages that neither enclose it nor are enclosed by it
    beside_uj: int | None
    inside_uj: int | None  # under its children
    shared: bool  # a stage of another run was beside it


@dataclass
class Run:
    """One execution."""

    run_id: str
    name: str
    t0_ns: int
    client: str | None  # its creator; None while only a child process has spoken of it
    uid: int | None
    pid: int | None
    labels: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    t1_ns: int | None = None
    status: str = "open"
    orphan: bool = False  # its creator is gone; the last process's death ends it
    pids: set[int] = field(default_factory=set)  # processes that have spoken of it
    members: set[str] = field(default_factory=set)  # clients that have, and are not gone

    def row(self) -> tuple[Any, ...]:
        """As a row of runs_log."""
        return (
            self.run_id, self.name, self.t0_ns, self.t1_ns, self.status, to_json(self.labels),
            to_json(self.env), self.git_commit, self.client, self.uid, self.pid,
        )  # fmt: skip

    @classmethod
    def restore(cls, row: dict[str, Any]) -> Run:
        """A run from its row of open_runs. If its creator is gone, that shows again at once."""
        return cls(
            row["run_id"],
            row["name"],
            row["t0_ns"],
            row["client"],
            row["uid"],
            row["pid"],
            json.loads(row["labels"]),
            json.loads(row["env"]),
            row["git_commit"],
        )


@dataclass
class Stage:
    """One span of a run, until its energy is known."""

    run_id: str
    stage_id: str
    name: str
    t0_ns: int
    client: str
    parent_id: str | None = None
    ancestors: tuple[str, ...] = ()
    named: list[str] | None = None
    process: ProcessInfo | None = None
    uid: int | None = None
    pid: int | None = None
    t1_ns: int | None = None
    doubt_ns: int = 0
    status: str = "open"
    state: str = "open"  # open, ended (energy pending), final
    counts: dict[str, int] = field(default_factory=dict)
    devices: list[int] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    begin: dict[int, Edge | Missing] = field(default_factory=dict)
    anchors: dict[int, Anchor] = field(default_factory=dict)
    placed: list[int] = field(default_factory=list)  # where accounting counts it among what is active
    folded: dict[int, Folded] = field(default_factory=dict)
    pids_seen: dict[int, bool] = field(default_factory=dict)  # GPU: NVML listed the process there
    run_pids: set[int] = field(default_factory=set)  # its run's, the very set, which may still grow
    foreign: dict[int, set[int]] = field(default_factory=dict)  # GPU: processes of nobody's seen there

    def row(self) -> tuple[Any, ...]:
        """As a row of stages_log."""
        return (
            self.run_id, self.stage_id, self.parent_id, self.name, self.t0_ns, self.t1_ns, self.doubt_ns,
            self.status, self.state, to_json(self.counts), self.client, self.uid, self.pid,
            sorted(self.devices), sorted(self.flags),
        )  # fmt: skip

    def state_message(self, run: str) -> StageState:
        """As subscribers see it while it is open or its energy is pending."""
        begin_uj = {d: e.e_uj for d, e in self.begin.items() if isinstance(e, Edge) and d in self.devices}
        return StageState(
            0, self.run_id, run, self.stage_id, self.parent_id, self.name, self.state, self.status,
            self.t0_ns, self.t1_ns, dict(self.counts), begin_uj, {},
        )  # fmt: skip

    def memo(self) -> str:
        """What the row does not hold and a restarted daemon needs, as JSON; what is empty is left out."""
        parts = {
            "ancestors": self.ancestors,
            "named": self.named,  # [] says more than None
            "process": self.process,
            "begin": self.begin,
            "anchors": self.anchors,
            "folded": self.folded,
            "pids_seen": self.pids_seen,
            "run_pids": self.run_pids,
            "foreign": self.foreign,
        }
        return msgspec.json.encode({k: v for k, v in parts.items() if v or v is self.named}).decode()

    @classmethod
    def restore(cls, row: dict[str, Any], memo: str | None) -> Stage:
        """A stage from its row of open_stages and its memo."""
        m = json.loads(memo) if memo else {}
        stage = cls(
            run_id=row["run_id"], stage_id=row["stage_id"], name=row["name"], t0_ns=row["t0_ns"],
            client=row["client"], parent_id=row["parent_id"], uid=row["uid"], pid=row["pid"],
            t1_ns=row["t1_ns"], doubt_ns=row["doubt_ns"], status=row["status"], state=row["state"],
            counts=json.loads(row["counts"]), devices=list(row["devices"]), flags=set(row["flags"]),
            ancestors=tuple(m.get("ancestors", ())), named=m.get("named"),
            process=ProcessInfo(**m["process"]) if m.get("process") else None,
        )  # fmt: skip
        stage.begin = {int(d): _edge_in(e) for d, e in m.get("begin", {}).items()}
        stage.anchors = {int(d): Anchor(**_with_sums(a)) for d, a in m.get("anchors", {}).items()}
        stage.folded = {int(d): Folded(**f) for d, f in m.get("folded", {}).items()}
        stage.pids_seen = {int(d): seen for d, seen in m.get("pids_seen", {}).items()}
        stage.run_pids = set(m.get("run_pids", ()))
        stage.foreign = {int(d): set(s) for d, s in m.get("foreign", {}).items()}
        return stage


def _edge_in(packed: dict[str, Any]) -> Edge | Missing:
    return Missing(**packed) if "reason" in packed else Edge(**_with_sums(packed))


def _with_sums(packed: dict[str, Any]) -> dict[str, Any]:
    """What an instant was kept as; a release before there was doubt kept no sums for it."""
    return {**packed, "rough": tuple(packed.get("rough", NONE))}
