"""Does the advice follow from the numbers that it cites?"""

from __future__ import annotations

import json

import pytest

from energyq.advise import Sentence, advise
from energyq.commands import run
from energyq.find import Refused
from energyq.study import Execution, Study
from energyq.study_csv import read_csv


def study() -> Study:
    """A cheap baseline of middling quality, a better KD behind a dear teacher, and a small poor student."""

    def one(pipeline: str, student: str, teacher: float, train: float, quality: float) -> Execution:
        stages: dict[str, float | None] = {"student.train": train, "evaluate": 1.0}
        if teacher:
            stages["teacher.logits"] = teacher
        return Execution(pipeline, student, stages=stages, quality=quality)

    return Study("s", [
        one("sft", "7B", 0, 20, 0.70), one("kd", "7B", 30, 15, 0.80),
        one("sft", "1B", 0, 5, 0.50), one("kd", "1B", 30, 4, 0.55),
    ])  # fmt: skip


def about(said: list[Sentence], what: str) -> list[Sentence]:
    return [s for s in said if s.about == what]


@pytest.mark.parametrize(
    ("reuse", "quality", "chosen"),
    [(1, 0.5, "sft 1B"), (1, 0.6, "sft 7B"), (1, 0.75, "kd 7B"), (10, 0.6, "kd 7B"), (10, 0.52, "kd 1B")],
)
def test_the_choice_is_the_least_energy_that_reaches_the_quality_at_that_reuse(
    reuse: float, quality: float, chosen: str
) -> None:
    choice = about(advise(study(), reuse=reuse, quality=quality), "choice")[0]
    assert f"{choice.numbers['pipeline']} {choice.numbers['student']}" == chosen


def test_the_stage_to_attack_is_the_largest_part_at_that_reuse() -> None:
    assert about(advise(study(), reuse=1, quality=0.75), "attack")[0].numbers["part"] == "teacher"
    (later,) = about(advise(study(), reuse=10, quality=0.75), "attack")
    assert later.numbers["part"] == "student"
    assert later.numbers["share_percent"] == pytest.approx(100 * 15 / (15 + 1 + 3))


def test_the_reuse_that_would_flip_the_choice_is_the_break_even() -> None:
    flips = about(advise(study(), reuse=1, quality=0.6), "flip")
    at = [s.numbers["reuse"] for s in flips if "reuse" in s.numbers]
    assert at == [pytest.approx(30 / 5)]
    assert "kd would take least" in flips[-1].text
    below = about(advise(study(), reuse=10, quality=0.6), "flip")
    assert any("below 6.00 uses, sft would take least" in s.text for s in below)


def test_a_quality_just_out_of_reach_of_something_cheaper_is_a_flip_too() -> None:
    flips = about(advise(study(), reuse=1, quality=0.6), "flip")
    assert any(s.numbers.get("quality") == 0.5 and "sft 1B" in s.text for s in flips)


def test_a_quality_that_nothing_reaches_is_said_with_the_best_there_is() -> None:
    (choice,) = about(advise(study(), reuse=1, quality=0.9), "choice")
    assert choice.passed is False
    assert "kd 7B, has 0.800" in choice.text


def test_a_difference_inside_noise_is_called_a_toss_up() -> None:
    said = about(advise(read_csv("poster"), reuse=6, quality=None, repeatability=0.02), "choice")
    toss_ups = {s.numbers["student"]: "toss-up" in s.text for s in said}
    assert toss_ups == {"1B": False, "7B": True, "13B": True}
    for sentence in said:
        apart, u = sentence.numbers["apart_j"], sentence.numbers["u_apart_j"]
        assert isinstance(apart, float)
        assert isinstance(u, float)
        assert ("toss-up" in sentence.text) == (apart <= u)


def test_the_papers_recommendations_are_checked_and_a_failed_one_names_what_fails_it() -> None:
    passed = {
        s.text.partition(",")[0]: s.passed for s in about(advise(study(), reuse=2, quality=None), "check")
    }
    assert passed == {
        "ok: full-pipeline": True, "NOT: seeds": False, "ok: reuse": True, "NOT: artifacts": False,
    }  # fmt: skip
    blind = study()
    blind.executions[1].stages["teacher.logits"] = None
    (check,) = [s for s in about(advise(blind, reuse=2, quality=None), "check") if "full" in s.text]
    assert check.passed is False
    assert "kd 7B" in check.text


def test_a_size_that_is_not_there_is_one_error_with_those_that_are() -> None:
    with pytest.raises(Refused, match="one of 1B, 7B"):
        advise(study(), reuse=1, quality=None, student="70B")


def test_the_command_exits_4_when_it_cannot_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["advise", "--study", "poster", "--reuse", "6", "--quality", "0.5", "--format", "json"]) == 4
    assert json.loads(capsys.readouterr().out)[0]["text"].startswith("no quality is known")
    assert run(["advise", "--study", "poster", "--reuse", "6", "--format", "table"]) == 0
    assert "1B: from 10.0 uses on, kd would take least" in capsys.readouterr().out
