"""Do code, golden frames and the normative page say the same?"""

import ast
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import msgpack
import pytest

import energyd_client
from energyd_client import protocol
from energyd_client.protocol import FROM_DAEMON, MAX_FRAME_BYTES, TO_DAEMON, Bound, pack, unpack

GOLDEN = Path(__file__).parent / "golden"
PAGE = (Path(energyd_client.__file__).parents[1] / "PROTOCOL.md").read_text()
ALL = {cls.TYPE: cls for cls in (*TO_DAEMON, *FROM_DAEMON)}


def golden(kind):
    meaning = ast.literal_eval((GOLDEN / f"{kind}.txt").read_text())
    assert meaning.pop("type") == kind
    return (GOLDEN / f"{kind}.bin").read_bytes(), ALL[kind](**meaning)


def section(kind):
    """The part of the page that describes one message: from its heading to the next."""
    found = re.search(rf"^### `{kind}`.*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"PROTOCOL.md has no heading for `{kind}`"
    return found.group(0)


def rows(kind):
    """The fields in the message's table: name, type, bounds and meaning."""
    cells = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in section(kind).splitlines()
        if line[:1] == "|"
    ]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`") and len(row) == 4}


def test_every_message_has_a_golden_frame_and_every_frame_a_message():
    assert {p.stem for p in GOLDEN.glob("*.bin")} == {p.stem for p in GOLDEN.glob("*.txt")} == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_a_message_packs_to_its_golden_bytes(kind):
    data, message = golden(kind)
    assert pack(message) == data


@pytest.mark.fault(
    "An older client",
    seen="Nothing: its messages mean what they meant.",
    lost="Nothing.",
)
@pytest.mark.parametrize("kind", ALL)
def test_golden_bytes_unpack_to_their_meaning(kind):
    data, message = golden(kind)
    assert unpack(data) == message


@pytest.mark.parametrize("kind", ALL)
def test_a_golden_frame_shows_every_field_of_its_message(kind):
    data, _ = golden(kind)
    assert set(msgpack.unpackb(data, strict_map_key=False)) == {"type", *(f.name for f in fields(ALL[kind]))}


@pytest.mark.parametrize("kind", ALL)
def test_a_field_of_the_future_is_passed_over_by_a_client(kind):
    data, message = golden(kind)
    grown = msgpack.unpackb(data, strict_map_key=False) | {"of_the_future": [1]}
    assert unpack(msgpack.packb(grown)) == message


@pytest.mark.parametrize("kind", ALL)
def test_a_frame_cut_anywhere_is_a_value_error(kind):
    data, _ = golden(kind)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="not a message"):
            unpack(data[:cut])


def test_fields_that_are_none_are_left_out():
    _, message = golden("metric")
    message.n = message.stage_id = None
    assert not {"n", "stage_id"} & set(msgpack.unpackb(pack(message)))
    assert unpack(pack(message)) == message


def test_the_page_names_the_version_the_frame_limit_and_the_credit_of_the_code():
    assert re.search(r"^\*\*Version (\d+)\*\*", PAGE, re.MULTILINE).group(1) == str(protocol.VERSION)
    assert f"{MAX_FRAME_BYTES:_}".replace("_", " ") in PAGE
    assert f"{protocol.CREDIT:_}".replace("_", " ") in PAGE


def test_the_page_describes_the_messages_of_the_code_and_no_others():
    assert set(re.findall(r"^### `(\w+)`", PAGE, re.MULTILINE)) == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_the_page_lists_exactly_the_fields_of_a_message(kind):
    assert list(rows(kind)) == [f.name for f in fields(ALL[kind])]


@pytest.mark.parametrize("kind", ALL)
def test_the_page_says_which_fields_may_be_left_out(kind):
    optional = {
        f.name for f in fields(ALL[kind]) if not (f.default is MISSING and f.default_factory is MISSING)
    }
    assert {name for name, cells in rows(kind).items() if "optional" in cells[1]} == optional


def limits(hint):
    """Numbers of all bounds inside a type hint."""
    found = set()
    if get_origin(hint) is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Bound):
                found |= {v for v in (mark.max_length, mark.le) if v is not None}
    for inner in get_args(hint):
        found |= limits(inner)
    return found


NAMED = {
    2**63 - 1: {"natural", "instant", "seq"},
    96: {"id"},
    200: {"name"},
    4_000: {"text"},
    2**53: {"2^53"},
}


@pytest.mark.parametrize("kind", [cls.TYPE for cls in TO_DAEMON])
def test_the_page_gives_the_bounds_of_each_field_that_the_daemon_enforces(kind):
    hints = get_type_hints(ALL[kind], include_extras=True)
    for name, (written, bounds, *_) in rows(kind).items():
        for limit in limits(hints[name]):
            words = NAMED.get(limit, set()) | {str(limit)}
            said = set(re.findall(r"[\w^]+", f"{written} {bounds}"))
            said |= {word.removesuffix("s") for word in said}
            said |= {"64", "name"} if "labels" in said else set()  # so defined in the table of words
            assert words & said, f"{kind}.{name}: the page does not give its bound {limit}"


def test_the_page_tells_every_code_that_the_code_documents():
    for code in protocol.REFUSAL_CODES:
        assert f"`{code}`" in section("error")
