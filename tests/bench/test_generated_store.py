"""Is the benchmark's store one that the benchmark's questions can be asked, with the right answers?"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.figures import Bench, Row
from bench.make_store import make
from bench.query import ALIKE, ASKED, QUESTIONS, ask, rows
from energyd.store.read import open_reader


def test_sql_finds_the_energy_of_every_generated_stage_to_the_microjoule(tmp_path: Path) -> None:
    n = make(tmp_path, devices=2, hz=2, days=2, n_stages=200, thin_days=2)
    assert n == 2 * 86_400 * (2 * 2 + 2)
    with open_reader(tmp_path) as reader:
        reader.sql(ASKED)
        (row,) = reader.sql(ALIKE).fetchall()
        assert row[:2] == (400, 400)
        assert row[2] < 2e-6
        assert reader.sql("SELECT count(*) FROM samples").fetchall() == [(n,)]


def test_every_question_of_the_bench_is_answered_and_becomes_a_row(tmp_path: Path) -> None:
    make(tmp_path, devices=8, hz=0.5, days=4, n_stages=60)
    found = {name: ask(tmp_path, name) for name in QUESTIONS}
    bench = Bench("query", "", argparse.Namespace())
    rows(bench, found)
    assert [row.what for row in bench.rows if not row.figure] == []
    (join,) = [row for row in bench.rows if row.peer]
    assert join.peer_figure > 0
    assert found["day"]["answer"][0] == found["day-range-join"]["answer"][0] > 0


def test_a_wrong_energy_has_no_speed_and_a_failed_question_says_why() -> None:
    fine = {"open": 1.0, "first": 1.0, "best": 1.0, "cpu": 1.0, "mib": 1.0, "answer": (9, 9, 0.0)}
    found = {name: dict(fine) for name in QUESTIONS}
    found["recompute"]["answer"] = (9, 9, 0.5)
    found["minute"] = {"why": "no memory"}
    bench = Bench("query", "", argparse.Namespace())
    rows(bench, found)

    def of(start: str) -> list[Row]:
        return [row for row in bench.rows if row.what.startswith(start)]

    (wrong,) = of("0 energies recomputed")
    assert (wrong.figure, wrong.note) == (None, "wrong: 9 of 9 energies, off by up to 0.5 J")
    (failed,) = of("power of one device")
    assert (failed.figure, failed.note) == (None, "no memory")
    assert len([row for row in bench.rows if row.figure is None]) == 3
