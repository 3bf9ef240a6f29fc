"""Does demo.sh stop its daemon and pass exit codes on, whatever fails?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines" / "energyd_pipelines" / "demo.sh"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Stand-ins for the programs that demo.sh calls: each notes its call, and fails when told to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("energyd", "energyq", "python"):
        path = folder / name
        path.write_text(
            "#!/bin/bash\n"
            f'echo "{name} $*" >> {tmp_path}/calls\n'
            f'[ "$1" = start ] && {{ touch "$3/lock"; env | grep ^ENERGYD_ > {tmp_path}/env; }}\n'
            f'code="{tmp_path}/{name}.$1"; [ -e "$code" ] && exit "$(cat "$code")"; exit 0\n'
        )
        path.chmod(0o755)
    return tmp_path


def demo(tools: Path, *options: str) -> tuple[int, list[str]]:
    """Exit code, and the calls in their order, with the store's path taken out."""
    store = tools / "demo-store" / "store"
    env = os.environ | {"PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    result = subprocess.run(
        [str(SCRIPT), str(store), *options], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    calls = tools / "calls"
    lines = calls.read_text().replace(str(store), "STORE").splitlines() if calls.exists() else []
    return result.returncode, lines


def test_the_demo_starts_a_daemon_runs_stops_it_and_shows_the_table(tools: Path) -> None:
    assert demo(tools, "--seconds", "3") == (
        0,
        [
            "energyd start --store STORE",
            "python -m energyd_pipelines.demo --seconds 3",
            "energyd stop --store STORE",
            "energyq --store STORE stages --format table",
        ],
    )
    told = dict(line.split("=", 1) for line in (tools / "env").read_text().splitlines())
    assert len(told["ENERGYD_ENDPOINT"]) < 100  # a Unix socket's path may have 107 characters
    assert told["ENERGYD_SPOOL"] == str(tools / "demo-store" / "store" / "spool")


def test_a_failing_program_stops_the_daemon_and_gives_its_exit_code(tools: Path) -> None:
    (tools / "python.-m").write_text("7")
    code, calls = demo(tools)
    assert code == 7
    assert calls[-1] == "energyd stop --store STORE"
    assert not any(call.startswith("energyq") for call in calls)


def test_a_daemon_that_does_not_start_ends_the_demo(tools: Path) -> None:
    (tools / "energyd.start").write_text("78")
    assert demo(tools) == (78, ["energyd start --store STORE"])


def test_a_store_of_an_earlier_demo_is_stopped_and_removed(tools: Path) -> None:
    demo(tools)
    old = tools / "demo-store" / "store" / "old.parquet"
    old.touch()
    (tools / "calls").unlink()
    code, calls = demo(tools)
    assert code == 0
    assert calls[:2] == ["energyd stop --store STORE", "energyd start --store STORE"]
    assert not old.exists()


def test_a_folder_that_is_no_store_is_not_removed(tools: Path) -> None:
    precious = tools / "demo-store" / "store" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.touch()
    code, calls = demo(tools)
    assert code == 2
    assert precious.exists()
    assert not any("start" in call for call in calls)
