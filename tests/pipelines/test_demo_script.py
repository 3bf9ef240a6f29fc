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
    for name in ("energyd", "energyq", "distill"):
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
    """Exit code, and the calls in their order, with the folder's path taken out."""
    folder = tools / "demo"
    env = os.environ | {"PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    result = subprocess.run(
        [str(SCRIPT), str(folder), *options], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    calls = tools / "calls"
    text = calls.read_text().replace(str(folder), "DEMO") if calls.exists() else ""
    lines = [line for line in text.splitlines() if line.startswith(("energyd ", "energyq ", "distill "))]
    return result.returncode, lines


def test_the_demo_starts_a_daemon_runs_the_study_stops_the_daemon_and_shows_the_tables(tools: Path) -> None:
    assert demo(tools, "quick", "train.steps=3") == (
        0,
        [
            "energyd start --store DEMO/store",
            "distill run quick train.steps=3 reuse.root=DEMO/artifacts out=DEMO/runs",
            "energyd stop --store DEMO/store",
            "energyq --store DEMO/store --format table ",
            "energyq --store DEMO/store frontier --format table",
            "energyq --store DEMO/store breakeven --format table",
        ],
    )
    told = dict(line.split("=", 1) for line in (tools / "env").read_text().splitlines())
    assert len(told["ENERGYD_ENDPOINT"]) < 100  # a Unix socket's path may have 107 characters
    assert told["ENERGYD_SPOOL"] == str(tools / "demo" / "store" / "spool")


def test_a_failing_study_stops_the_daemon_and_gives_its_exit_code(tools: Path) -> None:
    (tools / "distill.run").write_text("7")
    code, calls = demo(tools)
    assert code == 7
    assert calls[-1] == "energyd stop --store DEMO/store"
    assert not any(call.startswith("energyq") for call in calls)


def test_a_daemon_that_does_not_start_ends_the_demo(tools: Path) -> None:
    (tools / "energyd.start").write_text("78")
    assert demo(tools) == (78, ["energyd start --store DEMO/store"])


@pytest.mark.parametrize(("told", "ended"), [("4", 0), ("1", 1)])
def test_an_answer_that_is_not_known_is_an_answer_and_an_error_is_not(
    tools: Path, told: str, ended: int
) -> None:
    (tools / "energyq.--store").write_text(told)  # the first question cannot be answered: an error
    assert demo(tools)[0] == int(told)
    (tools / "energyq.--store").unlink()
    stand_in = (tools / "bin" / "energyq").read_text()
    (tools / "bin" / "energyq").write_text(
        stand_in.replace("exit 0", f'[ "$3" = breakeven ] && exit {told}; exit 0')
    )
    assert demo(tools)[0] == ended


def test_a_second_demo_stops_a_daemon_that_was_left_and_keeps_the_store(tools: Path) -> None:
    demo(tools)
    old = tools / "demo" / "store" / "old.parquet"
    old.touch()
    (tools / "calls").unlink()
    code, calls = demo(tools)
    assert code == 0
    assert calls[:2] == ["energyd stop --store DEMO/store", "energyd start --store DEMO/store"]
    assert old.exists()


def test_a_folder_that_is_no_demo_is_not_touched(tools: Path) -> None:
    precious = tools / "demo" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.touch()
    code, calls = demo(tools)
    assert code == 2
    assert [p.name for p in precious.parent.iterdir()] == ["thesis.tex"]
    assert calls == []
