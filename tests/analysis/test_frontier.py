"""Is what is on the frontier really beaten by nothing, and does reuse change who is?"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyq.commands import run
from energyq.frontier import frontier, ranking, turns
from energyq.study import J_PER_KWH, Execution, Study
from energyq.study_csv import read_csv

HEADER = "pipeline,student,stage,kwh,quality,seed\n"
number = st.integers(0, 5).map(float)


def study(*points: tuple[str, float, float, float]) -> Study:
    """(pipeline, teacher J, student J, quality) each."""
    return Study("s", [
        Execution(p, "1B", stages={"teacher.logits": t, "student.train": s}, quality=q)
        for p, t, s, q in points
    ])  # fmt: skip


@given(st.lists(st.tuples(number, number), min_size=1, max_size=8))
def test_a_point_is_on_the_frontier_if_and_only_if_no_other_is_at_least_as_good_in_both(
    values: list[tuple[float, float]],
) -> None:
    points = frontier(study(*((f"p{i}", 0.0, e, q) for i, (e, q) in enumerate(values))))
    for point, (energy, quality) in zip(points, values, strict=True):
        beaten = any((e <= energy and q > quality) or (e < energy and q >= quality) for e, q in values)
        assert point.student_only.on_front is not beaten
        if beaten:
            by = next(p for p in points if p.name == point.student_only.beaten_by)
            assert by.quality is not None
            assert by.student_only.energy_j is not None
            assert (by.quality, -by.student_only.energy_j) >= (quality, -energy)


def test_a_teachers_cost_takes_distilling_off_the_frontier_and_reuse_puts_it_back() -> None:
    points = {p.pipeline: p for p in frontier(study(("sft", 0, 10, 0.8), ("kd", 20, 8, 0.8)), reuse=20)}
    assert points["kd"].student_only.on_front is True
    assert points["kd"].full.on_front is False
    assert points["kd"].full.beaten_by == "sft 1B"
    assert points["kd"].at_reuse is not None
    assert points["kd"].at_reuse.energy_j == pytest.approx(9)
    assert points["kd"].at_reuse.on_front is True


def test_a_shared_teachers_doubt_stays_whole_however_many_students_repeat(tmp_path: Path) -> None:
    """Teacher 11 ± 1 kWh once; three students within 0.1: the mean is off by the teacher's 1 at the least."""
    path = tmp_path / "s.csv"
    rows = [f"kd,1B,teacher.logits,11,1,{i},a" for i in range(3)]
    rows += [f"kd,1B,student.train,{5 + d},0.01,{i},a" for i, d in enumerate((-0.1, 0, 0.1))]
    path.write_text("\n".join(["pipeline,student,stage,kwh,u_kwh,seed,artifact", *rows]) + "\n")
    (point,) = frontier(read_csv(str(path)), reuse=1)
    assert point.full.energy_j == pytest.approx(16 * J_PER_KWH)
    assert point.full.u_energy_j is not None
    assert point.full.u_energy_j > 1 * J_PER_KWH * 0.97  # ± 2 σ stated, 1.96 σ told
    assert point.at_reuse is not None
    assert point.at_reuse.u_energy_j == pytest.approx(point.full.u_energy_j)  # one use is the whole teacher
    assert point.student_only.u_energy_j is not None
    assert point.student_only.u_energy_j < 0.3 * J_PER_KWH


def test_the_ranking_by_energy_turns_at_the_break_even() -> None:
    poster = read_csv("poster")
    assert [p for p, _ in ranking(poster, "1B", 9)] == ["sft", "kd", "synthetic"]
    assert [p for p, _ in ranking(poster, "1B", 10.5)] == ["kd", "sft", "synthetic"]
    assert [p for p, _ in ranking(poster, "1B", 20)] == ["kd", "synthetic", "sft"]


def test_every_turn_of_the_ranking_is_where_two_curves_meet() -> None:
    poster = read_csv("poster")
    found = turns(poster, "1B")
    assert [(round(n, 1), order[0]) for n, order in found] == [
        (1, "sft"),
        (2.7, "sft"),
        (10, "kd"),
        (11.2, "kd"),
    ]
    for n, order in found[1:]:
        energies = dict(ranking(poster, "1B", n))
        assert any(energies[a] == pytest.approx(energies[b]) for a, b in itertools.pairwise(order))


def test_what_is_beaten_inside_the_spread_of_seeds_is_not_surely_beaten(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    rows = [f"sft,1B,student.train,{10 + d},{0.80 + d / 100},{i}" for i, d in enumerate((-1, 0, 1))]
    rows += [f"kd,1B,student.train,{10.2 + d},{0.80 + d / 100},{i}" for i, d in enumerate((-1, 0, 1))]
    rows += [f"far,1B,student.train,{20 + d},{0.50 + d / 100},{i}" for i, d in enumerate((-1, 0, 1))]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    points = {p.pipeline: p for p in frontier(read_csv(str(path)))}
    assert (points["kd"].full.on_front, points["kd"].full.surely) == (False, False)
    assert (points["far"].full.on_front, points["far"].full.surely) == (False, True)
    assert points["sft"].full.on_front is True
    assert points["sft"].u_quality == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)


def test_the_papers_table_has_no_quality_so_its_frontier_says_so_and_exits_4(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["frontier", "--study", "poster", "--format", "table"]) == 4
    out = capsys.readouterr().out
    assert "no quality is known for any run of this study" in out
    assert "1B, from 10.0 uses on, cheapest first: kd, sft, synthetic" in out
    assert run(["frontier", "--study", "poster", "--format", "json"]) == 4
    rows = json.loads(capsys.readouterr().out)
    assert {row["full"]["on_front"] for row in rows} == {None}
