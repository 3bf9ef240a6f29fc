"""Does the break-even say what the paper's equation says, and `never` or `inside noise` where it must?"""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyq.breakeven import AT_N, NEVER, NOISE, UNKNOWN, BreakEven, break_even, energy_at, fieller
from energyq.breakeven_text import bounds_head, bounds_note, sentence
from energyq.commands import run
from energyq.find import NotFound, Refused
from energyq.study import J_PER_KWH, Execution, Study, part_of, size_order
from energyq.study_csv import read_csv
from energyq.verdict import verdict


def table(folder: Path, rows: list[str], columns: str = "pipeline,student,stage,kwh") -> str:
    path = folder / "s.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return str(path)


def answers(word: str, **options: float) -> dict[tuple[str, str], BreakEven]:
    return {(a.pipeline, a.student): a for a in break_even(read_csv(word), **options)}


def test_the_papers_table_gives_the_papers_totals_thresholds_and_ratios() -> None:
    found = answers("poster")
    study = read_csv("poster")
    totals = {p: [round(study.cell(p, s)[0].total_j / J_PER_KWH, 2) for s in ("1B", "7B", "13B")]  # type: ignore[operator]
              for p in study.pipelines()}  # fmt: skip
    assert totals == {
        "sft": [7.12, 19.62, 34.72], "kd": [17.02, 28.52, 42.62], "synthetic": [16.77, 28.37, 40.82]
    }  # fmt: skip
    n_star = {key: round(a.n_star or 0, 1) for key, a in found.items()}
    assert n_star == {
        ("kd", "1B"): 10.0, ("kd", "7B"): 5.2, ("kd", "13B"): 3.5, ("kd", "pooled"): 5.2,
        ("synthetic", "1B"): 11.2, ("synthetic", "7B"): 5.7, ("synthetic", "13B"): 2.4,
        ("synthetic", "pooled"): 4.4,
    }  # fmt: skip
    assert [round(found[p, "1B"].ratio or 0, 2) for p in ("kd", "synthetic")] == [2.39, 2.36]
    assert {a.state for a in found.values()} == {AT_N}


joules = st.just(0.0) | st.floats(1e-3, 1e9)


@given(teacher=joules, base=joules, distilled=joules, rest=joules)
def test_on_any_table_n_star_is_its_definition_and_no_saving_is_never(
    teacher: float, base: float, distilled: float, rest: float
) -> None:
    study = Study("s", [
        Execution("sft", "1B", stages={"prerun": rest, "student.train": base}),
        Execution("kd", "1B", stages={"prerun": rest, "teacher.logits": teacher, "student.train": distilled}),
    ])  # fmt: skip
    (answer,) = break_even(study)
    if base > distilled:
        assert answer.state == AT_N
        assert answer.n_star == teacher / (base - distilled)
        # At N* uses the two pipelines take the same: that is what the threshold means.
        if answer.n_star > 0:
            at_n = energy_at(answer, answer.n_star)
            assert at_n is not None
            assert math.isclose(at_n, rest + base, rel_tol=1e-9, abs_tol=1e-9 * (teacher + base + rest))
    else:
        assert (answer.state, answer.n_star) == (NEVER, None)


sizes = st.lists(
    st.tuples(*[st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=3)] * 2), min_size=2, max_size=4
)


@given(teacher=joules, of_sizes=sizes, alone=st.booleans())
def test_on_any_table_the_pooled_n_star_is_that_of_the_mean_saving_of_all_who_share_the_artifact(
    teacher: float, of_sizes: list[tuple[list[float], list[float]]], alone: bool
) -> None:
    def kd(size: int, j: float, *, first: bool) -> Execution:
        own = frozenset({"own" if alone and first else "shared"})
        stages: dict[str, float | None] = {"teacher.logits": teacher, "student.train": j}
        return Execution("kd", f"{size}B", stages=stages, artifacts=own)

    study = Study("s", [
        *(Execution("sft", f"{i}B", stages={"student.train": j})
          for i, (b, _) in enumerate(of_sizes) for j in b),
        *(kd(i, j, first=i == k == 0) for i, (_, d) in enumerate(of_sizes) for k, j in enumerate(d)),
    ])  # fmt: skip
    pooled = [a for a in break_even(study) if a.student == "pooled"]
    if alone:  # an artifact that one execution does not use is not shared by all: nothing to pool
        assert pooled == []
        return
    (answer,) = pooled  # each size counts once, however often it was repeated
    base = math.fsum(math.fsum(b) / len(b) for b, _ in of_sizes) / len(of_sizes)
    distilled = math.fsum(math.fsum(d) / len(d) for _, d in of_sizes) / len(of_sizes)
    scale = 1e-9 * (base + distilled)
    assert answer.saving_j == pytest.approx(base - distilled, rel=1e-9, abs=scale)
    assert answer.saving_j is not None
    u = answer.u_saving_j  # known where each size and side was repeated
    assert (u is None) == any(len(runs) < 2 for size in of_sizes for runs in size)
    if u is not None and abs(answer.saving_j) <= u and u > 0:
        assert answer.state == NOISE
    else:
        assert answer.state == (AT_N if answer.saving_j > 0 else NEVER)
    expected = pytest.approx(teacher / answer.saving_j) if answer.saving_j > 0 else None
    assert answer.n_star == expected


def test_the_interval_holds_the_true_ratio_in_95_of_100_cases() -> None:
    dice, holds = random.Random(0), 0
    for _ in range(4_000):
        top, bottom = dice.gauss(100, 4), dice.gauss(10, 2)
        low, high = fieller(top, 8, bottom, 4) if bottom > 0 else (0.0, None)
        holds += low <= 10 and (high is None or high >= 10)
    assert 0.94 <= holds / 4_000 <= 0.97  # ± 2 σ is 95.4 %


def test_a_saving_that_may_be_nothing_is_inside_noise_with_a_bound_on_one_side_only(tmp_path: Path) -> None:
    word = table(
        tmp_path,
        ["sft,1B,student.train,10,1", "kd,1B,teacher.logits,5,0.1", "kd,1B,student.train,9.5,1"],
        "pipeline,student,stage,kwh,u_kwh",
    )
    answer = answers(word)["kd", "1B"]
    assert answer.state == NOISE
    assert answer.n_star == pytest.approx(10)
    assert answer.n_low is not None
    assert 0 < answer.n_low < 10
    assert answer.n_high is None


def test_a_student_that_takes_more_beyond_doubt_never_pays_and_one_within_doubt_is_noise(
    tmp_path: Path,
) -> None:
    rows = ["sft,1B,student.train,10,0.1", "kd,1B,teacher.logits,5,0.1", "kd,1B,student.train,11,0.1"]
    columns = "pipeline,student,stage,kwh,u_kwh"
    assert answers(table(tmp_path, rows, columns))["kd", "1B"].state == NEVER
    rows[2] = "kd,1B,student.train,10.1,0.1"
    assert answers(table(tmp_path, rows, columns))["kd", "1B"].state == NOISE


def test_repetitions_give_the_interval_by_their_spread(tmp_path: Path) -> None:
    rows = [f"sft,1B,student.train,{10 + d},{i}" for i, d in enumerate((-0.1, 0, 0.1))]
    rows += [f"kd,1B,student.train,{8 + d},{i}" for i, d in enumerate((-0.1, 0, 0.1))]
    rows += [f"kd,1B,teacher.logits,6,{i}" for i in range(3)]
    answer = answers(table(tmp_path, rows, "pipeline,student,stage,kwh,seed"))["kd", "1B"]
    # Each mean: 0.1²/3 with 2 degrees of freedom; together 4: t = 2.776.
    assert answer.u_saving_j is not None
    assert answer.u_saving_j / J_PER_KWH == pytest.approx(2.776 * math.sqrt(2 * 0.01 / 3), rel=1e-3)
    assert answer.n_star == pytest.approx(3)
    assert (answer.repetitions, answer.state) == (3, AT_N)


def test_one_repetition_is_no_95_percent_claim_about_the_next(tmp_path: Path) -> None:
    rows = ["sft,1B,student.train,10,0.1", "kd,1B,teacher.logits,6,0.1", "kd,1B,student.train,8,0.1"]
    study = read_csv(table(tmp_path, rows, "pipeline,student,stage,kwh,u_kwh"))
    (alone,) = break_even(study)
    assert alone.lone
    assert "from 3.00 uses on (of the measurement alone: " in sentence(alone)
    assert sentence(alone).endswith(", by one repetition")
    assert "One repetition decides" in verdict(study, [alone])
    assert (bounds_head([alone]), list(bounds_note([alone]))) == (
        "N* from", ["N* from, to: of the measurement alone"]
    )  # fmt: skip
    sure = replace(alone, lone=False, student="7B")
    assert (bounds_head([sure]), list(bounds_note([sure]))) == ("95 % from", [])
    assert list(bounds_note([alone, sure])) == [
        f"N* from, to: of the measurement alone for {alone.name}; else of 95 %"
    ]
    (assumed,) = break_even(study, repeatability=0.02)
    assert not assumed.lone
    assert "uses on (95 %: " in sentence(assumed)
    assert "repetition" not in sentence(assumed) + verdict(study, [assumed])


def test_sizes_are_pooled_only_where_they_share_an_artifact(tmp_path: Path) -> None:
    rows = []
    for student, base in (("1B", 10), ("7B", 20)):
        rows += [f"sft,{student},student.train,{base},", f"kd,{student},student.train,{base - 2},"]
        rows.append(f"kd,{student},teacher.logits,6,a-{student}")
    columns = "pipeline,student,stage,kwh,artifact"
    assert ("kd", "pooled") not in answers(table(tmp_path, rows, columns))
    shared = [row.replace("a-1B", "a").replace("a-7B", "a") for row in rows]
    assert answers(table(tmp_path, shared, columns))["kd", "pooled"].n_star == pytest.approx(3)


def test_an_unknown_energy_makes_the_answer_unknown_not_a_smaller_one(tmp_path: Path) -> None:
    rows = ["sft,1B,student.train,10", "kd,1B,teacher.logits,", "kd,1B,student.train,8"]
    answer = answers(table(tmp_path, rows))["kd", "1B"]
    assert (answer.state, answer.n_star, answer.total_j) == (UNKNOWN, None, None)
    without = answers(table(tmp_path, [rows[0], rows[2]]))["kd", "1B"]
    assert (without.state, without.teacher_j) == (UNKNOWN, None)
    assert "missing" in without.notes[0]


def test_reuse_says_what_an_execution_takes_at_that_many_uses() -> None:
    answer = answers("poster", reuse=10.0)["kd", "1B"]
    assert answer.total_at_reuse_j == pytest.approx((17.02 - 11 + 1.1) * J_PER_KWH)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pipeline,student,stage\nsft,1B,train", "lacks the column kwh"),
        ("pipeline,student,stage,kwh,colour\nsft,1B,train,1,red", "unknown column colour"),
        ("pipeline,student,stage,kwh\nsft,1B,train,much", "line 2: kwh is 'much'"),
        ("pipeline,student,stage,kwh\nsft,1B,train,-1", "line 2: kwh is '-1'"),
        ("pipeline,student,stage,kwh\nsft,1B,train,nan", "line 2: kwh is 'nan'"),
        ("pipeline,student,stage,kwh\nsft,1B,train", "fewer cells"),
        ("pipeline,student,stage,kwh\nsft,1B,train,1,2", "more cells"),
        ("pipeline,student,stage,kwh\nsft,,train,1", "empty"),
        ("pipeline,student,stage,kwh\nsft,1B,train,1\nsft,1B,train,2", "line 3: train of sft 1B is there"),
        ("pipeline,student,stage,kwh", "no rows"),
    ],
)  # fmt: skip
def test_a_table_with_a_mistake_is_one_error_that_names_the_line_and_a_cure(
    tmp_path: Path, text: str, what: str
) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text + "\n")
    with pytest.raises(Refused, match="cure: ") as caught:
        read_csv(str(path))
    assert what in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_study_that_is_not_there_and_one_without_a_baseline_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"one of poster, or FILE\.csv"):
        read_csv("postr")
    with pytest.raises(NotFound, match="no file"):
        read_csv(str(tmp_path / "none.csv"))
    with pytest.raises(Refused, match="no baseline among its pipelines kd"):
        break_even(read_csv(table(tmp_path, ["kd,1B,student.train,1"])))
    with pytest.raises(Refused, match="only the pipeline sft"):
        break_even(read_csv(table(tmp_path, ["sft,1B,student.train,1"])))


def test_a_stage_belongs_to_the_part_that_its_first_word_names() -> None:
    stages = (
        "prerun.idle",
        "preprocess",
        "teacher.logits",
        "student.train",
        "train",
        "evaluate",
        "eval",
        "x.y",
    )
    assert [part_of(s) for s in stages] == [
        "prerun", "preprocess", "teacher", "student", "student", "evaluate", "evaluate", "other"
    ]  # fmt: skip


def test_sizes_are_sorted_as_sizes_not_as_words() -> None:
    assert sorted(["13B", "7B", "1B", "350M"], key=size_order) == ["350M", "1B", "7B", "13B"]
    assert sorted(["L", "S", "M"], key=size_order) == ["S", "M", "L"]


def test_the_command_writes_rows_with_every_digit_and_text_for_people(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["breakeven", "--study", "poster", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    kd_1b = next(r for r in rows if (r["pipeline"], r["student"]) == ("kd", "1B"))
    assert kd_1b["n_star"] == pytest.approx(10)
    assert kd_1b["curve"][0] == {"n": 1, "energy_j": pytest.approx(17.02 * J_PER_KWH)}
    assert run(["breakeven", "--study", "poster", "--format", "table"]) == 0
    assert "kd 1B: cheaper than sft from 10.0 uses on" in capsys.readouterr().out
    unknown = table(tmp_path, ["sft,1B,student.train,10", "kd,1B,student.train,8"])
    assert run(["breakeven", "--study", unknown]) == 4


def test_the_stages_of_a_table_sum_to_its_totals_and_an_unknown_one_is_not_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["stages", "--study", "poster", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for whole in [r for r in rows if r["stage"] is None]:
        mine = [r for r in rows if (r["pipeline"], r["student"]) == (whole["pipeline"], whole["student"])]
        assert sum(r["energy_j"] for r in mine if r["stage"]) == pytest.approx(whole["energy_j"])
        assert sum(r["share"] for r in mine if r["stage"]) == pytest.approx(1)
    assert run(["stages", "--study", "poster", "--format", "table"]) == 0
    assert " 17.02 " in capsys.readouterr().out
    word = table(tmp_path, ["sft,1B,student.train,10", "sft,1B,evaluate,"])
    assert run(["stages", "--study", word, "--format", "json"]) == 4
    assert [r["energy_j"] for r in json.loads(capsys.readouterr().out)] == [36e6, None, None]
