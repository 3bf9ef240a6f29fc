"""Does a study that is killed again and again end as an unbroken one, with all its attempts in the sum?"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energyd_pipelines.artifacts import Registry
from real_daemon import Daemon

WORDS = (
    "pipelines=[kd]", "students=[{name: S, width: 16, layers: 1, heads: 2}]", "data.n=96", "data.n_eval=20",
    "train.batch=16", "train.steps=12", "train.group_steps=4", "train.checkpoint_every=4",
    "prerun.idle_s=0.05",
)  # fmt: skip

ATTEMPTS = """
import os, random, signal, sys, time
os.environ["ENERGYD_DISABLE" if {alone} else "ALONE"] = "1"
from importlib import import_module
from energyd_pipelines import checkpoints, models
from energyd_pipelines.artifacts.registry import Draft
from energyd_pipelines.cli import cli
from energyd_pipelines.recipes import RECIPES
models.warm_up()  # once for all attempts

def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def in_preparing_data():
    import_module("energyd_pipelines.data_files").with_room = dies

def in_the_teachers_work():
    Draft.commit = dies

def after_a_checkpoint(save=checkpoints.save):
    def save_and_die(*given):
        save(*given)
        dies()
    checkpoints.save = save_and_die

def in_evaluation():
    import_module("energyd_pipelines.recipes.kd").measure = dies

def to_its_end():
    pass

def attempt(change, *words, after_s=None):
    child = os.fork()
    if not child:
        code = 1
        try:
            change()
            code = cli(["run", "quick", *{words!r}, *words], standalone_mode=False) or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

{attempts}
"""


def attempts(daemon: Daemon, folder: Path, code: str, *, alone: bool = False) -> str:
    """Run attempts, each in a child of a process that has imported everything; what they printed."""
    folder.mkdir(exist_ok=True)
    program = ATTEMPTS.format(words=WORDS, attempts=code, alone=alone)
    env = daemon.env | {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=folder, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def result(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/*/*/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def unbroken(measuring: Daemon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same study comes to in one go, unmeasured."""
    folder = tmp_path_factory.mktemp("unbroken")
    attempts(measuring, folder, "assert attempt(to_its_end) == 0", alone=True)
    return result(folder)


def test_killed_in_every_stage_it_goes_on_and_every_attempt_is_in_the_sums(
    measuring: Daemon, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    said = attempts(
        measuring, tmp_path,
        "from pathlib import Path\n"
        "assert attempt(in_preparing_data) == 9\n"
        "assert attempt(in_the_teachers_work, '--resume') == 9\n"
        "assert not list(Path('artifacts').glob('*/*/manifest.json'))\n"
        "assert attempt(after_a_checkpoint, '--resume') == 9\n"
        "assert attempt(in_evaluation, '--resume') == 9\n"
        "assert attempt(to_its_end, '--resume') == 0\n",
    )  # fmt: skip
    assert "reused" not in said  # an attempt spared nothing that this very cell had paid for
    found = result(tmp_path)
    same = ("nll", "exact_match", "groups")
    assert {k: found[k] for k in same} == {k: unbroken[k] for k in same}

    runs = measuring.query(
        "SELECT run_id, status, (labels->>'attempt')::INTEGER AS attempt FROM runs WHERE name = 'kd-S'"
        " ORDER BY attempt"
    )
    assert [(r["attempt"], r["status"]) for r in runs] == [
        (1, "aborted"), (2, "aborted"), (3, "aborted"), (4, "aborted"), (5, "ok"),
    ]  # fmt: skip
    assert found["run_ids"] == [r["run_id"] for r in runs]
    assert found["attempts"] == 5
    assert found["starved_share"] is None
    assert found["starved_reason"].startswith("no GPU")
    stages = measuring.query(
        "SELECT run_id, stage_id, stage, depth, status, total_j FROM stage_totals ORDER BY t0_ns, depth"
    )
    top = [[s["stage"] for s in stages if s["run_id"] == r["run_id"] and s["depth"] == 0] for r in runs]
    assert top == [
        ["prerun", "preprocess"],
        ["preprocess", "teacher.logits"],
        ["teacher.logits", "student.train"],
        ["student.train", "evaluate"],
        ["evaluate"],
    ]
    trained = [s["stage"] for s in stages if s["run_id"] == runs[3]["run_id"] and s["stage"][:5] == "steps"]
    assert trained == ["steps 5-8", "steps 9-12"]  # what the checkpoint holds is not learnt again

    (artifact,) = Registry(tmp_path / "artifacts").all()
    student = json.loads(next(tmp_path.glob("runs/*/*/student/manifest.json")).read_text())
    for made, name in ((artifact.manifest.production.as_json(), "teacher.logits"),
                       (student["production"], "student.train")):  # fmt: skip
        cost = {s["stage_id"]: s["total_j"] for s in stages if s["stage"] == name}
        assert [a["status"] for a in made["attempts"]] == ["killed", "ok"]
        assert {a["stage_id"]: pytest.approx(a["total_j"]) for a in made["attempts"]} == cost
        assert made["total_j"] == pytest.approx(sum(cost.values()))
    assert not list(tmp_path.glob("artifacts/*/.drafts/*"))
    assert not list(tmp_path.glob("runs/*/*/*.new"))


@pytest.mark.long
def test_killed_at_random_moments_it_ends_as_an_unbroken_one(
    measuring: Daemon, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    dice = random.Random(5)
    kills = [[round(dice.uniform(0.02, 1.2), 3) for _ in range(3)] for _ in range(8)]
    attempts(
        measuring, tmp_path,
        f"for n, moments in enumerate({kills}):\n"
        "    os.mkdir(str(n)); os.chdir(str(n))\n"
        "    attempt(to_its_end, after_s=1.0)\n"
        "    for s in moments: attempt(to_its_end, '--resume', after_s=s)\n"
        "    assert attempt(to_its_end, '--resume') == 0\n"
        "    os.chdir('..')\n",
    )  # fmt: skip
    for n, moments in enumerate(kills):
        found = result(tmp_path / str(n))
        assert (found["nll"], found["exact_match"]) == (unbroken["nll"], unbroken["exact_match"]), moments
        registry = Registry(tmp_path / str(n) / "artifacts")
        assert [registry.verify(a.id) for a in registry.all()], moments
