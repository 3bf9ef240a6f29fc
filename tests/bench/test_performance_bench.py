"""Do the benchmarks of `make bench` run, say their figures, and judge them by nothing but the figures?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Bench, Row, cells, child_env, met, run
from bench.report import page, read_all

BENCH = Path(__file__).parent


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("storage", "bytes a sample sealed, recorded H100 loads"),
        ("intake", "markers lost or doubled"),
        ("daemon_cost", "of it outside NVML calls"),
        ("client_cost", "begin + end, every 50 ms, p99, over two bare writes"),
        ("hours", "memory that an hour adds, at the most (95 %)"),
        ("everyday", "energyd top, 4 Hz, 160 x 50, eight GPUs"),
        ("query", "opening the store, without a daemon"),
        ("query_10m", "`energyq stages RUN` beyond its imports"),
        ("query_billion", "power of one device over a minute"),
        ("query_year", "power of one device over a minute"),
    ],
)
def test_a_benchmark_says_its_figures_and_keeps_them(script: str, said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / f"{script}.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=child_env(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    found = json.loads((tmp_path / f"{script}.json").read_text())
    assert found["quick"]
    assert found["machine"]["cores"] >= 1
    (row,) = [r for r in found["rows"] if r["what"] == said]
    assert row["figure"] is not None
    with pytest.raises(ValueError, match="quick"):  # so that no such figure gets into the page
        read_all(tmp_path)


def test_a_verdict_follows_from_figure_and_target_alone() -> None:
    assert met(Row("a", 2.0, "s", target=3)) is True
    assert met(Row("a", 4.0, "s", target=3)) is False
    assert met(Row("a", 4.0, "/s", target=3, at_least=True)) is True
    assert met(Row("a", 2.0, "/s", target=3, at_least=True)) is False
    assert met(Row("a", 2.0, "s")) is None
    assert met(Row("a", None, "s", target=3)) is False  # what could not be measured is not met


def test_a_peer_that_did_not_run_is_said_to_be_missing_and_one_that_did_gives_a_ratio() -> None:
    assert "not run" in cells(Row("a", 2.0, "µs", peer="zeus"))[4]
    assert "3 ×" in cells(Row("a", 2.0, "µs", peer="zeus", peer_figure=6.0))[4]


def test_the_page_counts_what_is_met_and_names_the_machine() -> None:
    rows = [vars(Row("fast", 1.0, "s", target=2)), vars(Row("slow", 3.0, "s", target=2))]
    machine = {"cpu": "Test CPU", "cores": 2, "kernel": "6.1", "commit": "abc"}
    found = [{"name": "query", "began": "now", "seconds": 1.0, "machine": machine, "rows": rows}]
    text = page(found)
    assert "**1 of 2 targets met.**" in text
    assert "Test CPU, 2 cores" in text
    assert "commit abc" in text
    assert "| slow | 3 s | ≤ 2 s | **no** |" in text


def test_the_page_says_out_of_reach_only_where_the_floor_misses_the_target_too() -> None:
    def text(floor: float) -> str:
        missed = Row("begin + end, every 2 ms, p50, over two bare writes", 6.0, "times", target=2)
        stamp = Row("… clock and write alone, p50", 1.2, "times")
        least = Row("… the least that is a marker, p50", floor, "times")
        found = {"name": "client_cost", "began": "now", "seconds": 1.0}
        return page([{**found, "rows": [vars(row) for row in (missed, stamp, least)]}])

    assert "Out of Python's reach:** in 1 of the 1 rows" in text(4.3)
    assert "misses it too, at 4.3 to 4.3 times" in text(4.3)
    assert "Out of Python's reach" not in text(1.9)


def test_a_benchmark_that_failed_or_is_missing_is_named_on_the_page() -> None:
    found = [{"name": "hours", "began": "now", "seconds": 1.0, "rows": [], "failed": "OSError: no room"}]
    text = page(found)
    assert "- **hours is incomplete:** OSError: no room" in text
    assert "| **the rest of it failed** | – | | **no** | | OSError: no room |" in text
    assert "- **query is incomplete:** no result: `make bench BENCHES=query`" in text


def test_a_benchmark_that_fails_keeps_what_it_found_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(bench: Bench, folder: Path) -> None:
        bench.add("first", 1.0, "s")
        raise OSError("no room")

    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        run("hours", "?", "Hours?", measure)
    assert "FAILED: OSError: no room" in capsys.readouterr().out
    (found,) = read_all(tmp_path)
    assert [row["what"] for row in found["rows"]] == ["first"]
    assert found["failed"] == "OSError: no room"
