"""Does an unlisted skip fail CI, and only there?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allowed_skips import read_list

ROOT = Path(__file__).parents[2]


def run_suite(folder: Path, allowed: str, ci: str, *options: str) -> subprocess.CompletedProcess[str]:
    tests = folder / "tests"
    tests.mkdir()
    (tests / "allowed_skips.py").write_text((ROOT / "tests" / "allowed_skips.py").read_text())
    (tests / "allowed_skips.txt").write_text(allowed)
    (tests / "test_one.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_skips(): pytest.skip('no gcc here')\n"
        "@pytest.mark.xfail\ndef test_fails_as_expected(): assert False\n"
    )
    (tests / "test_two.py").write_text("import pytest\npytest.skip('no tmux', allow_module_level=True)\n")
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST")} | {"CI": ci}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.allowed_skips", "-c", "/dev/null", "--rootdir", ".",
         *options, "tests"],
        cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_an_unlisted_skip_fails_ci_and_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run_suite(tmp_path, "", "true", *options)
    assert result.returncode == 1, result.stdout
    assert "tests/test_one.py::test_skips | no gcc here" in result.stdout
    assert "tests/test_two.py | " in result.stdout
    assert "this run fails" in result.stdout


def test_a_listed_skip_passes_in_ci(tmp_path: Path) -> None:
    allowed = "# why\ntests/test_one.py::test_skips | no gcc\ntests/test_two.py | no tmux  # a module\n"
    result = run_suite(tmp_path, allowed, "1")
    assert result.returncode == 0, result.stdout
    assert "does not allow" not in result.stdout


def test_a_skip_for_another_reason_than_the_listed_one_fails_ci(tmp_path: Path) -> None:
    result = run_suite(tmp_path, "tests/ | no tmux\n", "1")
    assert result.returncode == 1, result.stdout


def test_outside_ci_an_unlisted_skip_is_only_told(tmp_path: Path) -> None:
    result = run_suite(tmp_path, "", "")
    assert result.returncode == 0, result.stdout
    assert "CI would fail" in result.stdout


def test_a_line_without_a_reason_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="part of the reason"):
        read_list("tests/test_one.py\n")
