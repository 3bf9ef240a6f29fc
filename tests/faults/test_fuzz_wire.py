"""Does a million of the worst frames find a way past the decoder?"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.figures import child_env

FUZZER = Path(__file__).with_name("fuzz_wire.py")


def fuzz(*flags: str) -> tuple[int, str]:
    """(exit status, what it said)."""
    if find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python or machine")
    command = [sys.executable, str(FUZZER), *flags]
    done = subprocess.run(command, env=child_env(), capture_output=True, text=True, timeout=1500, check=False)
    return done.returncode, done.stdout + done.stderr


def runs(said: str) -> int:
    (n,) = re.findall(r"Done (\d+) runs", said)
    return int(n)


@pytest.mark.fault("Malformed messages")
def test_fuzzed_frames_are_messages_in_bounds_or_refusals() -> None:
    status, said = fuzz("-runs=20000", "-seed=1")
    assert status == 0, said
    assert runs(said) == 20_000


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.fault("Malformed messages")
def test_of_a_million_fuzzed_frames_too() -> None:
    status, said = fuzz("-runs=1000000")
    assert status == 0, said
    assert runs(said) == 1_000_000


def test_the_fuzzer_gets_behind_the_decoder_and_is_heard_when_something_breaks_there() -> None:
    status, said = fuzz("--planted", "-runs=20000", "-seed=1")
    assert status != 0
    assert "RuntimeError: planted" in said
