"""Do the calls that are kept for a GPU run at all, before one is there?"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

SCRIPT = Path(__file__).with_name("all_on_h100.sh")
ROOT = Path(__file__).parents[2]


def call(
    *words: str, env: dict[str, str] | None = None, timeout_s: float = 20
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip


def test_the_plan_names_every_call_and_the_first_three_fit_into_28_minutes() -> None:
    rows = re.findall(r"^\d  ([\w-]+) .*? {2,}(\d+\.\d) ", call().stdout, re.MULTILINE)
    minutes = {name: float(m) for name, m in rows}
    (known,) = re.findall(r"^  (teacher \| .*)\) ;;$", SCRIPT.read_text(), re.MULTILINE)
    assert [*minutes, "rehearse"] == known.split(" | ")
    assert all(m <= 10 for m in minutes.values())
    assert sum(minutes[name] for name in ("teacher", "eager", "students")) <= 28


def test_a_call_that_does_not_exist_is_refused_with_the_plan() -> None:
    done = call("everything", "/nowhere")
    assert done.returncode == 2
    assert "no call is named everything" in done.stderr
    assert "frontier" in done.stderr


def test_shellcheck_has_nothing_to_say_of_the_calls() -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=style", str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_call_is_rehearsed_in_little_and_leaves_what_is_to_be_kept(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    env = {**fake_nvml.env, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = call("rehearse", str(tmp_path / "o"), env=env, timeout_s=800)
    assert done.returncode == 0, done.stdout + done.stderr
    left = sorted(re.sub(r"-\d{8}T\d{6}Z", "", p.name) for p in (tmp_path / "o").iterdir())
    assert left == [
        "accuracy.tar.gz", "eager.tar.gz", "frontier.tar.gz", "overhead.json", "overhead.md",
        "same-load.tar.gz", "students.tar.gz", "teacher.tar.gz",
    ]  # fmt: skip
    with tarfile.open(tmp_path / "o" / "accuracy.tar.gz") as tar:
        assert any(name.endswith(".npz") for name in tar.getnames())
