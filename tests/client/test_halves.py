"""Are the bytes that are put together from pieces the messages that they stand for, to the daemon too?"""

from hypothesis import given, settings
from hypothesis import strategies as st

from energyd.wire import decode
from energyd_client.protocol import (
    I64_MAX,
    Metric,
    ProcessInfo,
    StageBegin,
    StageEnd,
    halves,
    piece,
    stage_begin,
    stage_end,
    text,
    unpack,
)  # fmt: skip

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200)
ids = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60).map(str.encode)
numbers = st.integers(1, I64_MAX)


def both_read(parts, seq, message):
    data = parts[0] + seq.to_bytes(8, "big") + parts[1]
    assert unpack(data) == message
    assert decode(data) == message


quick = settings(deadline=None)  # others compute on this machine


@quick
@given(
    seq=numbers,
    t_ns=numbers,
    run=names,
    ident=ids,
    name=names,
    parent=ids | st.just(b""),
    synced=st.booleans(),
)
def test_a_begin_of_pieces_reads_as_the_begin_that_it_stands_for(
    seq, t_ns, run, ident, name, parent, synced: bool
):
    run_id = run[:96]
    packed = text(parent.decode()) if parent else b""
    parts = stage_begin(
        t_ns, piece("run_id", run_id), text(ident.decode()), piece("name", name), packed, synced
    )
    parent_id = parent.decode() if parent else None
    both_read(parts, seq, StageBegin(seq, t_ns, run_id, ident.decode(), name, parent_id, None, synced))


@quick
@given(seq=numbers, t_ns=numbers, ident=ids, status=st.sampled_from(["ok", "error"]))
def test_an_end_of_pieces_reads_as_the_end_that_it_stands_for(seq, t_ns, ident, status):
    parts = stage_end(t_ns, piece("run_id", "r"), text(ident.decode()), status)
    both_read(parts, seq, StageEnd(seq, t_ns, "r", ident.decode(), status))


@quick
@given(seq=numbers, value=st.floats(allow_nan=False), name=names)
def test_any_marker_numbered_late_reads_as_if_it_had_had_its_number_from_the_first(seq, value, name):
    for message in (Metric(0, 7, "r", name, value), ProcessInfo(0, 7)):
        parts = halves(message)
        message.seq = seq
        both_read(parts, seq, message)
