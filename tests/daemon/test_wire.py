"""Whatever the bytes are: a bounded, typed message, or a refusal that names the field."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energyd.wire import SAID, WireError, decode
from energyd_client import protocol as p

END = {"type": "end", "seq": 1, "t_ns": 1, "run_id": "r", "stage_id": "s", "status": "ok"}


def refused(packed: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(packed if isinstance(packed, bytes) else msgpack.packb(packed))
    return caught.value


def test_every_message_of_the_protocol_comes_back_as_it_was_packed() -> None:
    full: list[p.Message] = [
        p.Hello(p.VERSION, "c", 1, 2, "boot", 3, "0.1.0"),
        p.Bye(),
        p.RunBegin(1, 2, "r", "n", {"seed": 0, "lr": 0.5, "on": True, "x": "y"}, {"argv": "a b"}, "c0ffee"),
        p.RunLabels(1, 2, "r", {"size": "1B"}),
        p.RunEnd(1, 2, "r", "ok"),
        p.StageBegin(1, 2, "r", "s", "train", "parent", ["GPU-a"], True),
        p.StageEnd(1, 2, "r", "s", "error"),
        p.Count(1, 2, "r", "s", {"label": 4096}),
        p.Metric(1, 2, "r", "exact_match", 0.81, 700, "s"),
        p.ArtifactMade(1, 2, "r", "a", "cache", "logit_cache", "s", "file:x", "abc", 5, {"k": 64}),
        p.ArtifactUsed(1, 2, "r", "a", "s"),
        p.ProcessInfo(1, 2, "0,1", "PCI_BUS_ID", "0", ["GPU-a"]),
        p.AskStatus(1),
        p.AskTail(2),
        p.AskStage(3, "s", True),
        p.AskRelease(4, 300),
    ]
    assert {type(m) for m in full} == set(p.TO_DAEMON)
    for message in full:
        assert decode(p.pack(message)) == message


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"status": 5}, "malformed", "status"),
        ({"seq": 0}, "malformed", "seq"),
        ({"t_ns": 2**63}, "malformed", "t_ns"),
        ({"t_ns": -1}, "malformed", "t_ns"),
        ({"run_id": "r" * 97}, "malformed", "run_id"),
        ({"run_id": ""}, "malformed", "run_id"),
        ({"joules": 5}, "malformed", "joules"),
        ({"type": "begun"}, "unknown_type", "type"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(change: dict[str, Any], code: str, field: str) -> None:
    error = refused({**END, **change})
    assert (error.code, error.field) == (code, field)
    assert error.seq == (None if field == "seq" else 1)  # so that the sender can give that marker up


def test_a_missing_field_is_refused_by_its_name() -> None:
    error = refused({k: v for k, v in END.items() if k != "stage_id"})
    assert error.field == "stage_id"


def test_a_hello_of_another_version_is_told_which_side_to_upgrade_whatever_else_it_holds() -> None:
    newer = refused({"type": "hello", "v": p.VERSION + 1, "quantum": True})
    assert (newer.code, newer.field) == ("version", "v")
    assert "upgrade the daemon" in str(newer)
    older = refused({"type": "hello", "v": 0})
    assert "upgrade the client" in str(older)


def test_a_refusal_quotes_only_so_much_of_what_it_refuses() -> None:
    error = refused({**END, "j" * 60_000: 5})
    assert error.code == "malformed"
    assert error.field == "j" * SAID
    assert len(str(error)) == SAID
    assert error.seq == 1


def test_oversize_frames_and_bombs_are_refused() -> None:
    assert refused(b"\x80" * (p.MAX_FRAME_BYTES + 1)).code == "oversize"
    assert refused(b"\x91" * 60_000).code == "malformed"
    assert refused(b"\xdd\xff\xff\xff\xff").code == "malformed"


@pytest.mark.fault("Malformed messages")
@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_a_refusal_and_nothing_else(data: bytes) -> None:
    code = None
    try:
        decode(data)
    except WireError as error:
        code = error.code
    assert code in {None, "malformed", "unknown_type", "version"}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*END, "v", "counts", "labels", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9),
            lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
            max_leaves=8,
        ),
    ),
    st.sampled_from(sorted(c.TYPE for c in p.TO_DAEMON)),
)
def test_well_formed_nonsense_is_refused_too(fields: dict[str, Any], kind: str) -> None:
    try:
        message = decode(msgpack.packb({**fields, "type": kind}))
    except WireError:
        return
    assert kind == message.TYPE
