"""Can any bytes make the decoder of markers do anything but return a bounded message or refuse?

    python tests/faults/fuzz_wire.py [--planted] [libFuzzer's flags, such as -runs=1000000 -seed=1]

atheris (libFuzzer) changes frames, guided by which lines of the decoder they reach. Half the changes are of
bytes, half of the message inside: a field goes, comes or gets a hostile value. `--planted` makes the decoder
raise on every message that is none of the golden ones, to see that the fuzzer gets there and is heard.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
import msgpack

with atheris.instrument_imports(include=["energyd", "energyd_client"]):
    from energyd.wire import SAID, WireError, decode
    from energyd_client import protocol as p

GOLDEN = Path(__file__).parents[1] / "protocol" / "golden"
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "ok", "é", "\x00", "x" * 97, "x" * 201, "x" * 5000, b"\xff\xfe", [],
    ["0"], [[]], {}, {"a": 1}, {1: 2},
    {"": ""}, [0] * 65, {"k": {"k": {}}},
]  # fmt: skip


def check(frame: bytes) -> None:
    """Raise AssertionError, or whatever the decoder lets out, where it breaks its word."""
    try:
        message = decode(frame)
    except WireError as error:
        return check_refusal(error)
    assert type(message) in p.TO_DAEMON
    packed = p.pack(message)  # what was taken is in bounds, so it can be told again: the same message
    assert p.pack(decode(packed)) == packed


def check_refusal(refused: WireError) -> None:
    """Raise AssertionError where a refusal is none that can be told."""
    assert refused.code in p.REFUSAL_CODES, refused.code
    assert len(str(refused)) <= SAID, f"a refusal of {len(str(refused))} characters"
    assert refused.seq is None or 1 <= refused.seq <= p.I64_MAX
    assert refused.field is None or len(refused.field) <= SAID


def planted(frame: bytes) -> None:
    """`check` with a bug behind the door that only a valid, changed message opens."""
    check(frame)
    try:
        message = decode(frame)
    except WireError:
        return
    if frame not in SEEDS and p.pack(message) not in SEEDS:
        raise RuntimeError("planted")


def change(data: bytes, limit: int, seed: int) -> bytes:
    """Another frame made of this one."""
    rng = random.Random(seed)
    try:
        message = msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # msgpack raises half a dozen kinds
        message = None
    if not isinstance(message, dict) or rng.random() < 0.5:
        return atheris.Mutate(data, limit)
    known = p._CLASSES.get(str(message.get("type")))
    names = [*message, *(p._FIELDS[known] if known else ()), "unknown", "x" * 3000]
    name, how = rng.choice(names), rng.random()
    if how < 0.2:
        message.pop(name, None)
    elif how < 0.3:
        message["type"] = rng.choice(list(p._CLASSES))
    else:
        message[name] = rng.choice(HOSTILE)
    changed: bytes = msgpack.packb(message)
    return changed if len(changed) <= limit else atheris.Mutate(data, limit)


SEEDS = [path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))]


def main() -> None:
    """Fuzz until -runs is over; libFuzzer's exit status."""
    flags = [flag for flag in sys.argv[1:] if flag != "--planted"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for i, frame in enumerate(SEEDS):
            (corpus / str(i)).write_bytes(frame)
        arguments = [f"-artifact_prefix={folder}/", "-max_len=8192", "-timeout=20", *flags, str(corpus)]
        atheris.Setup(
            [sys.argv[0], *arguments],
            planted if "--planted" in sys.argv else check,
            custom_mutator=change,
        )
        atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
