"""Does `make` say what it can do, and do its helpers say what is missing?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def sh(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False
    )


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH of its own: bash and coreutils, but no gcc, tmux or apt-get."""
    for name in (
        "bash",
        "sh",
        "env",
        "cat",
        "id",
        "mktemp",
        "tail",
        "rm",
        "true",
        "ls",
        "mkdir",
        "dirname",
        "printf",
    ):
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    for name in ("python3", "ip", "initdb"):
        fake(tmp_path, name, "exit 0")
    return tmp_path


def test_make_alone_lists_every_target_with_a_word_about_it() -> None:
    result = sh("make", "--no-print-directory")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()] == targets


def test_ci_runs_make_test_and_nothing_else() -> None:
    assert re.findall(r"\bmake .*", (ROOT / ".ci" / "run").read_text()) == ["make test"]


def test_what_make_starts_may_keep_what_python_compiled_whatever_the_image_says(tmp_path: Path) -> None:
    ours = re.findall(r"^(?:un)?export .*\n", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (tmp_path / "Makefile").write_text("".join(ours) + "all:\n\t@env\n")
    told = sh("make", "-f", str(tmp_path / "Makefile"), PYTHONDONTWRITEBYTECODE="1")
    assert told.returncode == 0, told.stderr
    assert "PYTHONDONTWRITEBYTECODE" not in told.stdout


def test_a_user_who_is_not_root_is_told_what_to_install(tools: Path) -> None:
    (tools / "id").unlink()
    fake(tools, "id", "echo 1000")
    result = sh("tests/deps.sh", "test", PATH=str(tools))
    assert result.returncode == 1
    assert "missing: gcc libc6-dev tmux shellcheck" in result.stderr
    assert "sudo apt-get install gcc libc6-dev tmux shellcheck" in result.stderr


def test_root_gets_what_is_missing_installed_and_nothing_more(tools: Path) -> None:
    (tools / "id").unlink()
    fake(tools, "id", "echo 0")
    for there in ("gcc", "ip", "initdb"):
        fake(tools, there, "exit 0")
    fake(tools, "apt-get", f'echo "$@" >> {tools}/apt.log')
    result = sh("tests/deps.sh", "test", PATH=str(tools))
    assert result.returncode == 0, result.stderr
    assert (tools / "apt.log").read_text().splitlines() == [
        "update",
        "install -y --no-install-recommends tmux shellcheck",
    ]


def test_what_only_a_fleets_tests_need_is_installed_where_it_can_be_and_fails_nothing(tools: Path) -> None:
    for there in ("gcc", "tmux", "shellcheck"):
        fake(tools, there, "exit 0")
    for changes in ("ip", "id"):
        (tools / changes).unlink()
    fake(tools, "id", "echo 0")
    fake(tools, "apt-get", f'echo "$@" >> {tools}/apt.log')
    assert sh("tests/deps.sh", "test", PATH=str(tools)).returncode == 0
    assert "install -y --no-install-recommends iproute2" in (tools / "apt.log").read_text()
    fake(tools, "apt-get", "echo no network; exit 100")
    result = sh("tests/deps.sh", "test", PATH=str(tools))
    assert (result.returncode, result.stderr) == (0, "without iproute2 some tests of a fleet are skipped\n")


def test_a_failing_apt_get_is_shown_and_fails(tools: Path) -> None:
    (tools / "id").unlink()
    fake(tools, "id", "echo 0")
    fake(tools, "apt-get", "echo no network; exit 100")
    result = sh("tests/deps.sh", "test", PATH=str(tools))
    assert result.returncode == 1
    assert "no network" in result.stderr
    assert "could not install: gcc libc6-dev tmux shellcheck" in result.stderr


def test_the_demo_needs_no_compiler_and_no_tmux(tools: Path) -> None:
    assert sh("tests/deps.sh", "demo", PATH=str(tools)).returncode == 0


def test_torch_is_pinned_for_development_and_a_range_for_users() -> None:
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "torch==" not in (ROOT / "pyproject.toml").read_text()
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text()
