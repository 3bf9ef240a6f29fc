"""Is the benchmark's store one that the benchmark's questions can be asked, with the right answers?"""

from __future__ import annotations

from pathlib import Path

from bench.make_store import make
from bench.query import QUESTIONS, STAGES, ask
from energyd.store.read import open_reader


def test_sql_finds_the_energy_of_every_generated_stage_to_the_microjoule(tmp_path: Path) -> None:
    n = make(tmp_path, devices=2, hz=2, days=2, n_stages=200, thin_days=2)
    assert n == 2 * 86_400 * (2 * 2 + 2)
    with open_reader(tmp_path) as reader:
        reader._con.execute(STAGES[1])
        (row,) = reader.sql(STAGES[0]).fetchall()
        assert row[:2] == (400, 400)
        assert row[2] < 2e-6
        assert reader.sql("SELECT count(*) FROM samples").fetchall() == [(n,)]


def test_every_question_of_the_bench_is_answered(tmp_path: Path) -> None:
    make(tmp_path, devices=8, hz=0.5, days=4, n_stages=20)
    for name in QUESTIONS:
        found = ask(tmp_path, name)
        assert found["cpu"] > 0
        assert "None" not in found["answer"], name
