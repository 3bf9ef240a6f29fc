"""Can people use SQL: are views and examples documented and right, does the prompt work, can data leave?"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from analysis.conftest import ENV
from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader
from energyq.commands import run
from energyq.examples import examples
from energyq.sql_page import page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def filled(store: Store) -> Path:
    store.device(0)
    store.power(0, range(T0, T0 + 90 * S, 20 * MS), lambda t: 100_000)
    store.run("r1", name="train", labels='{"pipeline": "kd", "student": "1B"}')
    store.stage("r1", "s1", "student.train", T0 + S, T0 + 11 * S, counts={"label": 100})
    store.add(
        "artifacts", artifact_id="a", run_id="r1", stage_id="s1", t_ns=T0 + 5 * S, name="c", kind="logits"
    )
    store.add("artifact_uses", artifact_id="a", run_id="r1", stage_id="s1", t_ns=T0 + 6 * S)
    return store.write()


def test_the_page_of_views_and_examples_is_current() -> None:
    assert (DOCS / "sql.md").read_text() == page(), "made anew by: python -m energyq.sql_page > docs/sql.md"


def test_every_view_and_column_says_what_it_holds() -> None:
    silent = re.findall(r"(?m)^\| `(\w+)` \| [^|]* \| +\|$", page())
    assert silent == []


@pytest.mark.parametrize(
    ("title", "sql"), examples(), ids=[title.split(":")[0][:40] for title, _ in examples()]
)
def test_every_example_answers(filled: Path, title: str, sql: str) -> None:
    with open_reader(filled) as reader:
        rows = reader.sql(sql).dicts()
    # A sound store has no gap and no doubtful energy: what asks for those finds none.
    assert bool(rows) != ("nothing measured" in title or "unknown or doubtful" in title), rows


def test_an_example_says_the_right_number(filled: Path) -> None:
    by_title = {title.split()[0] + " " + title.split()[1]: sql for title, sql in examples()}
    with open_reader(filled) as reader:
        assert reader.sql(by_title["What did"]).dicts()[0]
        assert reader.sql(by_title["How much"]).fetchall()[0][1] == pytest.approx(6_000)
        assert reader.sql(by_title["Who used"]).fetchall()[0][3:] == (pytest.approx(1_000), 1)


def test_examples_can_be_pasted_into_any_duckdb_tool(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--examples"]) == 0
    text = capsys.readouterr().out
    assert len(duckdb.extract_statements(text)) == len(examples()) > 5


def test_an_export_is_plain_parquet_with_the_same_rows_and_a_readme_of_every_column(
    filled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(["export", str(out), "--store", str(filled)]) == 0
    readme = (out / "README.md").read_text()
    with open_reader(filled) as reader:
        views = {row[0] for row in reader.views()}
        for view in views:
            n = reader.sql(f"SELECT count(*) FROM {view}").fetchall()
            assert duckdb.sql(f"SELECT count(*) FROM '{out / view}.parquet'").fetchall() == n
            assert f"## {view}.parquet" in readme
    assert {p.stem for p in out.glob("*.parquet")} == views
    energy = duckdb.sql(f"SELECT energy_j FROM '{out}/stage_energy.parquet'").fetchall()
    assert energy == [(1000.0,)]


def test_an_export_never_writes_into_a_folder_that_holds_something(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert run(["export", str(tmp_path), "--store", str(filled)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()


def at_the_prompt(root: Path, home: Path, typed: str) -> str:
    """What a terminal shows for lines typed at the prompt."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "energyq", "--store", str(root)]
    env = ENV | {"HOME": str(home), "TERM": "dumb", "XDG_STATE_HOME": ""}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        os.write(master, typed.encode())
        text = b""
        try:
            while piece := os.read(master, 4096):
                text += piece
        except OSError:  # the end of a terminal is an error on Linux
            pass
        assert process.wait(timeout=60) == 0
    os.close(master)
    return text.decode()


def test_the_prompt_takes_statements_over_several_lines_goes_on_after_errors_and_remembers(
    filled: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shown = at_the_prompt(
        filled, home, "SELECT 6 *\n7 AS answer;\nSELECT nix;\n.tables\nDELETE FROM runs;\n.quit\n"
    )
    assert "answer" in shown
    assert "42" in shown
    assert "nix" in shown.partition("energyq: ")[2]
    assert "stage_energy: " in shown
    assert "only questions are run" in shown
    assert "SELECT nix;" in (home / ".local/state/energyq/history").read_text()


def test_without_a_terminal_nothing_asked_is_help_and_exit_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "energyq"], env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Usage: energyq" in done.stderr
