"""Does the frontier that is learnt for real ask for what it says, go on where it stopped, make its page?"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bench.h100 import frontier, learnt, study
from bench.h100.figures import Value
from energyd_pipelines import models
from energyd_pipelines.config import load
from energyd_pipelines.errors import AGAIN

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

BENCH = Path(__file__).parent


def test_the_sizes_of_the_frontier_are_thirty_times_apart_and_each_is_trained_three_times() -> None:
    config = load("h100-frontier")
    params = [
        models.n_params(
            models.build(
                wanted, vocab_size=50, pad_id=0, eos_id=1, seed=0, device=torch.device("cpu"),
                max_len=config.data.max_len,
            )
        )
        for wanted in config.students
    ]  # fmt: skip
    assert len(params) == 3
    assert params[-1] >= 30 * params[0]
    assert len(config.seeds) >= 3
    assert config.pipelines == ("sft", "kd", "synthetic")


def result(student: str, pipeline: str, exact_match: float) -> dict[str, Any]:
    return {"student": student, "pipeline": pipeline, "exact_match": exact_match}


def test_the_target_is_a_share_of_what_the_worst_sizes_baseline_reached_in_the_mean() -> None:
    found = [result("S", "sft", q) for q in (0.4, 0.6)]
    found += [result("L", "sft", 0.9), result("S", "kd", 0.1)]
    assert frontier.target_of(found) == pytest.approx(0.9 * 0.5)
    assert frontier.target_of([result("S", "kd", 0.1)]) is None


class Machine:
    """Stands for daemon and training: notes what was asked, each word read as the real command does."""

    def __init__(self, codes: list[int]) -> None:
        self.codes, self.asked, self.packed = codes, [], []  # type: tuple[list[int], list[list[str]], list[str]]

    def python(self, module: str, *words: str, at: Path) -> int:
        assert module == "energyd_pipelines"
        assert words[0] == "run"
        config = load(words[1], [w for w in words[2:] if "=" in w])
        self.asked.append(list(words))
        code = self.codes.pop(0)
        folder = at / "runs" / f"{config.name}-20261124-000000-abcd"
        for student in config.students:
            cell = folder / f"sft-{student.name}-0"
            cell.mkdir(parents=True, exist_ok=True)
            if code == 0:
                row = {**result(student.name, "sft", 0.5), "seed": 0, "training": None}
                (cell / "result.json").write_text(json.dumps(row))
        return code

    def beside(
        self, name: str, words: list[str], out: Path, work: Callable[[Path], int], *, keep: list[str],
        place: Path, also: list[tuple[Path, str]] | None = None,
    ) -> int:  # fmt: skip
        (place / "work").mkdir(parents=True, exist_ok=True)
        self.packed.append(name)
        return work(place / "work")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Machine]]:
    def measure(*codes: int, minutes: float = 5) -> tuple[int, Machine]:
        machine = Machine(list(codes))
        monkeypatch.setattr(frontier, "python", machine.python)
        monkeypatch.setattr(frontier, "beside_daemon", machine.beside)
        monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0")
        words = ["train.steps=40", "seeds=[0]"]
        place = tmp_path / "place"
        out = tmp_path / "o"
        return frontier.measure(words, ["train.steps=20"], out, minutes=minutes, place=place), machine

    return measure


Call = Callable[..., tuple[int, Machine]]


def test_a_teacher_is_trained_once_then_all_students_to_a_budget_and_to_a_target(call: Call) -> None:
    code, machine = call(0, 0, 0)
    assert code == 0
    teacher, budget, target = machine.asked
    assert teacher[1:] == ["h100-frontier-teacher", "train.steps=20"]
    assert budget[1:3] == ["h100-frontier", "name=frontier"]
    assert "train.stop=to_target" in target
    assert "train.target=0.4500" in target
    assert "train.steps=40" in target
    assert "--resume" not in budget + target
    assert machine.packed == ["frontier-teacher", "frontier"]
    assert Path(budget[3].partition("=")[2]).name == "student"


def test_a_call_that_ran_out_of_time_is_gone_on_with_and_the_teacher_is_not_trained_again(call: Call) -> None:
    code, machine = call(0, AGAIN)
    assert code == AGAIN
    assert len(machine.asked) == 2  # no target before every size has its baseline
    code, machine = call(0, AGAIN)
    assert code == AGAIN
    assert [words[2] for words in machine.asked] == ["name=frontier", "name=frontier-to-target"]
    assert "--resume" in machine.asked[0]
    assert "--resume" not in machine.asked[1]
    code, machine = call(0, 0)
    assert code == 0
    assert ["--resume" in words for words in machine.asked] == [True, True]


def test_without_a_minute_left_nothing_is_begun(call: Call) -> None:
    code, machine = call(0, minutes=0)
    assert code == AGAIN
    assert [words[1] for words in machine.asked] == ["h100-frontier-teacher"]


@pytest.mark.parametrize(
    ("energy", "better", "wanted"),
    [
        (Value(1.5, 0.2), Value(-0.1, 0.05), "yes"),
        (Value(1.5, 0.2), Value(0.1, 0.05), "no"),  # dearer, but better
        (Value(0.8, 0.1), Value(-0.1, 0.05), "no"),  # worse, but cheaper
        (Value(1.5, 0.2), Value(0.1, 0.2), "inside noise"),
        (Value(1.1, 0.2), Value(-0.1, 0.05), "inside noise"),
        (Value(1.5), Value(-0.1, 0.05), "not known: not repeated"),
    ],
)
def test_sft_dominates_only_beyond_doubt_in_energy_and_in_quality(
    energy: Value, better: Value, wanted: str
) -> None:
    assert learnt.dominates(energy, better) == wanted


def test_a_side_that_was_not_repeated_leaves_dominance_unknown() -> None:
    once, often = Value(100.0), Value(150.0, 5.0)
    energy, better = often.over(once), Value(0.4, 0.01).less(Value(0.5, None))
    assert (energy.half, better.half) == (None, None)
    assert learnt.dominates(energy, Value(-0.1, 0.01)) == "not known: not repeated"
    assert Value(3.0).beside(often).half is None


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_small_frontier_is_measured_in_pieces_and_becomes_a_section_and_a_report(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    small = ("data.n=400", "data.n_eval=60", "train.steps=8", "train.batch=32", "train.group_steps=4",
             "prerun.idle_s=0.2")  # fmt: skip
    sizes = "students=[{name: S, width: 16, layers: 1}, {name: L, width: 96, layers: 2}]"
    teacher = ("students=[{name: T, width: 32, layers: 1}]", *small)
    words = [sizes, "seeds=[0, 1]", *small, *(w for word in teacher for w in ("--teacher", word))]
    out = tmp_path / "o"
    env = {**fake_nvml.env, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}

    def measure(minutes: str) -> int:
        places = ["--out", str(out), "--place", str(tmp_path / "place"), "--minutes", minutes]
        command = [sys.executable, str(BENCH / "h100_study.py"), "frontier", *places, *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode in (0, AGAIN), done.stdout + done.stderr
        return done.returncode

    assert measure("0.5") == AGAIN
    assert measure("8") == 0
    _, last = sorted(out.glob("frontier-*.tar.gz"))
    assert last.stat().st_size < 3e6
    with tarfile.open(last) as tar:
        names = set(tar.getnames())
    assert {"results.json", "machine.json", "energyd.log", "store/lock", "teacher-store/lock"} <= names
    pieces = BENCH.parents[1] / "docs" / "results" / "h100-study"
    for archive in pieces.glob("*.tar.gz"):
        (out / archive.name).symlink_to(archive)
    pages = study.written(out)
    text = pages[".md"]
    assert "The frontier (students that learn for real): not measured." not in text
    assert "24 students trained" in text
    assert "| to target | S | synthetic |" in text
    assert "2 of 2" in text
    assert "MIXED" not in pages["-frontier.html"]
    assert "equal budget" in pages["-frontier.html"]
