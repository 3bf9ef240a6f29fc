"""What words do energyd's processes speak, and how does each look as bytes?

This is the one file that packs bytes. `client/PROTOCOL.md` is the normative page; golden frames in
`tests/protocol/` hold code and page together. Each message is one msgpack map with a `type` tag.
The bounds written beside the types (`Bound`) are enforced by the daemon, which derives its typed
decoder from these very classes (`daemon/energyd/wire.py`); a client trusts its daemon and only unpacks.

Instants named `t_ns` in client messages are CLOCK_BOOTTIME nanoseconds of the sender; in everything
that the daemon sends they are store time (nanoseconds that read as since the epoch).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Final

import msgpack

VERSION: Final = 1
"""Protocol version. Independent of the package version; HELLO carries it."""

MAX_FRAME_BYTES: Final = 65_536
"""Largest frame the daemon reads. libzmq drops a larger one silently, so senders check first."""

CREDIT: Final = 2_000
"""Markers a client may have unacknowledged (libzmq loses messages at a high-water mark)."""


REFUSAL_CODES: Final = (
    "malformed",
    "unknown_type",
    "oversize",
    "version",
    "hello_first",
    "not_found",
    "conflict",
    "not_ready",
    "busy",
    "forbidden",
)


@dataclass(frozen=True)
class Bound:
    """What a field may hold: lengths of strings, lists and maps; `ge` and `le` of numbers."""

    min_length: int | None = None
    max_length: int | None = None
    ge: int | None = None
    le: int | None = None


I64_MAX: Final = 2**63 - 1
Id = Annotated[str, Bound(min_length=1, max_length=96)]
Name = Annotated[str, Bound(min_length=1, max_length=200)]
Text = Annotated[str, Bound(max_length=4_000)]
Instant = Annotated[int, Bound(ge=0, le=I64_MAX)]
Seq = Annotated[int, Bound(ge=1, le=I64_MAX)]
Natural = Annotated[int, Bound(ge=0, le=I64_MAX)]
Scalar = str | int | float | bool
Labels = Annotated[dict[Name, Scalar], Bound(max_length=64)]
Texts = Annotated[dict[Name, Text], Bound(max_length=64)]
Names = Annotated[list[Name], Bound(max_length=64)]
Counts = Annotated[dict[Name, Annotated[int, Bound(ge=0, le=2**53)]], Bound(min_length=1, max_length=16)]


# ---- client to daemon: who speaks -------------------------------------------------------------


@dataclass(slots=True)
class Hello:
    """First message of a connection. `client` is new in each process, after each fork too."""

    TYPE: ClassVar[str] = "hello"
    v: Natural
    client: Id
    pid: Natural
    start_ticks: Natural  # /proc/PID/stat field 22: tells a reused pid from this process
    boot_id: Id
    timens: Natural  # inode of /proc/self/ns/time: the stamp counts only inside the daemon's own
    version: Name  # package version, for people


@dataclass(slots=True)
class Bye:
    """The client closes on purpose; nothing more will come from it."""

    TYPE: ClassVar[str] = "bye"


# ---- client to daemon: markers. `seq` rises by one per client, `t_ns` is the instant meant ----------


@dataclass(slots=True)
class RunBegin:
    """A run starts. `env` is what explains it later: argv, host, versions."""

    TYPE: ClassVar[str] = "run_begin"
    seq: Seq
    t_ns: Instant
    run_id: Id
    name: Name
    labels: Labels = field(default_factory=dict)
    env: Texts = field(default_factory=dict)
    git_commit: Name | None = None


@dataclass(slots=True)
class RunLabels:
    """A process that joined a run adds labels to it; a key that is already there keeps its value."""

    TYPE: ClassVar[str] = "labels"
    seq: Seq
    t_ns: Instant
    run_id: Id
    labels: Labels


@dataclass(slots=True)
class RunEnd:
    """The run's creator ends it. `status` is `ok` or `error`."""

    TYPE: ClassVar[str] = "run_end"
    seq: Seq
    t_ns: Instant
    run_id: Id
    status: Name


@dataclass(slots=True)
class StageBegin:
    """A stage starts. `devices` are GPU UUIDs or indices if the caller named them."""

    TYPE: ClassVar[str] = "begin"
    seq: Seq
    t_ns: Instant
    run_id: Id
    stage_id: Id
    name: Name
    parent_id: Id | None = None
    devices: Names | None = None
    synced: bool = False


@dataclass(slots=True)
class StageEnd:
    """A stage ends. `status` is `ok` or `error`."""

    TYPE: ClassVar[str] = "end"
    seq: Seq
    t_ns: Instant
    run_id: Id
    stage_id: Id
    status: Name


@dataclass(slots=True)
class Count:
    """Tokens, samples … done in a stage since its last count; the daemon adds them up."""

    TYPE: ClassVar[str] = "count"
    seq: Seq
    t_ns: Instant
    run_id: Id
    stage_id: Id
    counts: Counts


@dataclass(slots=True)
class Metric:
    """A quality figure of a run, over `n` examples if known."""

    TYPE: ClassVar[str] = "metric"
    seq: Seq
    t_ns: Instant
    run_id: Id
    name: Name
    value: float
    n: Natural | None = None
    stage_id: Id | None = None


@dataclass(slots=True)
class ArtifactMade:
    """A stage produced something others may reuse."""

    TYPE: ClassVar[str] = "artifact"
    seq: Seq
    t_ns: Instant
    run_id: Id
    artifact_id: Id
    name: Name
    kind: Name
    stage_id: Id | None = None
    uri: Text | None = None
    sha256: Name | None = None
    size_bytes: Natural | None = None
    attrs: Labels = field(default_factory=dict)


@dataclass(slots=True)
class ArtifactUsed:
    """A run used an artifact that some run made."""

    TYPE: ClassVar[str] = "artifact_use"
    seq: Seq
    t_ns: Instant
    run_id: Id
    artifact_id: Id
    stage_id: Id | None = None


@dataclass(slots=True)
class ProcessInfo:
    """Which GPUs this process may use, as far as it knows; sent again when it knows more."""

    TYPE: ClassVar[str] = "process"
    seq: Seq
    t_ns: Instant
    visible_devices: Text | None = None  # CUDA_VISIBLE_DEVICES as set
    device_order: Name | None = None  # CUDA_DEVICE_ORDER as set
    local_rank: Name | None = None  # LOCAL_RANK as set
    gpu_uuids: Names | None = None  # from torch, once CUDA is initialised


# ---- client to daemon: questions; `req` comes back in the answer ------------------------------------


@dataclass(slots=True)
class AskStatus:
    """How is the daemon?"""

    TYPE: ClassVar[str] = "ask_status"
    req: Natural


@dataclass(slots=True)
class AskTail:
    """Which files hold the store now, and what came after them?"""

    TYPE: ClassVar[str] = "ask_tail"
    req: Natural


@dataclass(slots=True)
class AskStage:
    """What did this stage cost, and if `power`, what was its power curve?"""

    TYPE: ClassVar[str] = "ask_stage"
    req: Natural
    stage_id: Id
    power: bool = False


@dataclass(slots=True)
class AskRelease:
    """Let go of the NVIDIA driver for so long; 0: take it back now. For root and the daemon's own user."""

    TYPE: ClassVar[str] = "ask_release"
    req: Natural
    for_s: Natural


# ---- daemon to client --------------------------------------------------------------------------------


@dataclass(slots=True)
class Welcome:
    """Answer to HELLO. `clock_ok` false: stamps are replaced by arrival times, with doubt added."""

    TYPE: ClassVar[str] = "welcome"
    v: int
    version: str
    publish: str  # endpoint of live samples and stages
    clock_ok: bool
    credit: int
    last_seq: int  # everything up to here is in the store


@dataclass(slots=True)
class Ack:
    """Every marker of this client up to `seq` is in the store."""

    TYPE: ClassVar[str] = "ack"
    seq: int


@dataclass(slots=True)
class Refusal:
    """A message was refused; the daemon goes on. `field` names the culprit where there is one."""

    TYPE: ClassVar[str] = "error"
    code: str  # one of REFUSAL_CODES
    message: str
    field: str | None = None
    seq: int | None = None
    req: int | None = None


@dataclass(slots=True)
class Answer:
    """Answer to a question; `body` has the shape that PROTOCOL.md gives for it."""

    TYPE: ClassVar[str] = "answer"
    req: int
    body: dict[str, Any]


# ---- daemon to subscribers: frame 1 is the topic, frame 2 one of these. `n` rises by one per topic -----


@dataclass(slots=True)
class Samples:
    """Topic `samples/DEVICE`: power of one device since the last message, and energy so far."""

    TYPE: ClassVar[str] = "samples"
    n: int
    device: int
    t_ns: list[int]
    power_mw: list[int]
    cum_uj: int  # running integral at the last sample


@dataclass(slots=True)
class StageState:
    """Topic `stages/STAGE_ID`: a stage began, counted, ended, or its energy became known."""

    TYPE: ClassVar[str] = "stage"
    n: int
    run_id: str
    run: str
    stage_id: str
    parent_id: str | None
    stage: str
    state: str  # open | ended | final
    status: str | None
    t0_ns: int
    t1_ns: int | None
    counts: dict[str, int]
    begin_uj: dict[int, int]  # device: running integral at the begin, once known
    energy_uj: dict[int, int | None]  # device: energy, once final


@dataclass(slots=True)
class DeviceList:
    """Topic `devices`: every device and its source, whenever one changes."""

    TYPE: ClassVar[str] = "devices"
    n: int
    devices: list[dict[str, Any]]


@dataclass(slots=True)
class Health:
    """Topic `health`: once a second; the same map as the answer to `ask_status`."""

    TYPE: ClassVar[str] = "health"
    n: int
    status: dict[str, Any]


Marker = (
    RunBegin
    | RunLabels
    | RunEnd
    | StageBegin
    | StageEnd
    | Count
    | Metric
    | ArtifactMade
    | ArtifactUsed
    | ProcessInfo
)
Question = AskStatus | AskTail | AskStage | AskRelease
Message = (
    Hello
    | Bye
    | Marker
    | Question
    | Welcome
    | Ack
    | Refusal
    | Answer
    | Samples
    | StageState
    | DeviceList
    | Health
)

MARKERS: Final = (
    RunBegin, RunLabels, RunEnd, StageBegin, StageEnd, Count, Metric, ArtifactMade, ArtifactUsed, ProcessInfo,
)  # fmt: skip
TO_DAEMON: Final = (Hello, Bye, *MARKERS, AskStatus, AskTail, AskStage, AskRelease)
FROM_DAEMON: Final = (Welcome, Ack, Refusal, Answer, Samples, StageState, DeviceList, Health)

_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    c: tuple(f.name for f in fields(c)) for c in (*TO_DAEMON, *FROM_DAEMON)
}
_LEFT_OUT: Final[dict[type, dict[str, None]]] = {  # what `pack` may have left out and no default fills in
    c: dict.fromkeys(f.name for f in fields(c) if f.default is MISSING and str(f.type).endswith("| None"))
    for c in FROM_DAEMON
}
_CLASSES: Final[dict[str, type]] = {c.TYPE: c for c in (*TO_DAEMON, *FROM_DAEMON)}


def pack(message: Message) -> bytes:
    """One message as msgpack bytes. Fields that are None are left out."""
    cls = type(message)
    packed = {"type": cls.TYPE}
    for name in _FIELDS[cls]:
        value = getattr(message, name)
        if value is not None:
            packed[name] = value
    data: bytes = msgpack.packb(packed)
    return data


# ---- a marker whose number is not known yet, in two halves around the eight bytes of `seq` --------------
#
# The outbox numbers a marker while it holds its lock; all else is packed before. Stages begin and end in the
# midst of other people's work, so theirs is not packed word by word but put together from pieces that are
# packed once. Any msgpack reader takes the result for what `pack` makes; some numbers are wider.

_WIDEST: Final = b"\xa3seq\xcf" + I64_MAX.to_bytes(8, "big")
_AT: Final = b"\xa4t_ns\xcf"


def halves(marker: Marker) -> tuple[bytes, bytes]:
    """A marker's bytes before its number and after it."""
    marker.seq = I64_MAX
    data = pack(marker)
    at = data.index(_WIDEST) + len(_WIDEST)
    return data[: at - 8], data[at:]


def text(value: str) -> bytes:
    """Text, packed."""
    packed: bytes = msgpack.packb(value)
    return packed


def piece(key: str, value: str) -> bytes:
    """One field of text."""
    return text(key) + text(value)


_BEGIN: Final = halves(StageBegin(0, 0, "", "", ""))[0]
_BEGIN_INSIDE: Final = halves(StageBegin(0, 0, "", "", "", parent_id=""))[0]
_END: Final = halves(StageEnd(0, 0, "", "", ""))[0]
_STAGE_ID: Final = text("stage_id")
_PARENT_ID: Final = text("parent_id")
_SYNCED: Final = (text("synced") + b"\xc2", text("synced") + b"\xc3")
_STATUS: Final = {status: piece("status", status) for status in ("ok", "error")}


def stage_begin(
    t_ns: int, run: bytes, ident: bytes, name: bytes, parent: bytes, synced: bool
) -> tuple[bytes, bytes]:
    """Halves of a `StageBegin` without devices. `run` and `name` are pieces, `ident` and `parent` texts."""
    if parent:
        return _BEGIN_INSIDE, b"".join(
            (_AT, t_ns.to_bytes(8, "big"), run, _STAGE_ID, ident, name, _PARENT_ID, parent, _SYNCED[synced])
        )
    return _BEGIN, b"".join((_AT, t_ns.to_bytes(8, "big"), run, _STAGE_ID, ident, name, _SYNCED[synced]))


def stage_end(t_ns: int, run: bytes, ident: bytes, status: str) -> tuple[bytes, bytes]:
    """Halves of a `StageEnd`; see `stage_begin`."""
    return _END, b"".join((_AT, t_ns.to_bytes(8, "big"), run, _STAGE_ID, ident, _STATUS[status]))


def unpack(data: bytes) -> Message:
    """One message from bytes of a trusted sender (a client's daemon, or our own spool).

    Unknown fields are dropped, so that an older client reads a newer daemon. Raises ValueError on
    anything that is no message of this protocol. The daemon does not use this on what strangers
    send: `energyd.wire` checks types and bounds.
    """
    try:
        packed = msgpack.unpackb(data, strict_map_key=False)
        cls = _CLASSES[packed.pop("type")]
        known = _FIELDS[cls]
        given = {k: v for k, v in packed.items() if k in known}
        message: Message = cls(**(_LEFT_OUT.get(cls, {}) | given))
    except Exception as error:  # msgpack raises half a dozen kinds; all mean the same here
        raise ValueError(f"not a message of protocol {VERSION}: {error!r}") from error
    return message
