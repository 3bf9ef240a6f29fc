"""Does `energyq`, run as people run it, print what it should and end with the right exit code?"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from analysis.conftest import ENV, on_terminal
from analysis.energy_store import HOUR, MS, T0, S, Store, tail_of

Energyq = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def root(store: Store) -> Path:
    """Two runs called kd: GPU by ring at 200 W, CPU estimated at 50 W, DRAM absent."""
    store.device(0, name="test H100")
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t: 200_000)
    store.device(1, "cpu", source="codecarbon", origin="estimated", period_ns=S, max_step_ns=3 * S)
    store.domain("cpu", "estimated", "codecarbon", "RAPL is for root only")
    store.power(1, range(T0, T0 + 60 * S + 1, S), lambda t: 50_000)
    store.domain("dram", "absent", None, "no RAPL zone")
    estimated = {1: ["estimated"]}
    for number, begin in (("1111", T0), ("2222", T0 + 30 * S)):
        store.run(f"aa{number}", "kd", begin, begin + 25 * S)
        own = {"energy_flags": estimated}
        store.stage(f"aa{number}", f"st{number}-train", "train", begin + S + 7 * MS, begin + 20 * S, **own)
        store.stage(f"aa{number}", f"st{number}-ep", "epoch", begin + 2 * S, begin + 12 * S,
                    parent_id=f"st{number}-train", counts={"label": 1_000}, **own)  # fmt: skip
    for at, mj in ((3, 1_000_000), (11, 2_616_000)):
        store.add("counters", device=0, t_ns=T0 + at * S, energy_mj=mj, cum_uj=at * 200_000_000)
    return store.write()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_sql_prints_csv_in_a_pipe_with_every_digit_and_null_as_nothing(root: Path, energyq: Energyq) -> None:
    done = energyq("--store", root, "SELECT t_ns, NULL AS x, [1, 2] AS l FROM samples ORDER BY t_ns LIMIT 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f't_ns,x,l\n{T0},,"[1, 2]"\n'


def test_sql_comes_from_a_file_or_stdin_too(root: Path, energyq: Energyq, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("-- a question\nSELECT count(*) AS n FROM runs;")
    assert energyq("--store", root, "-f", tmp_path / "q.sql").stdout == "n\n2\n"
    assert energyq("--store", root, "-f", "-", stdin="SELECT 3 AS n").stdout == "n\n3\n"
    assert energyq("--store", root, "-", stdin="SELECT 4 AS n").stdout == "n\n4\n"
    assert energyq("--store", root, stdin="SELECT 5 AS n\n").stdout == "n\n5\n"  # echo "SELECT …" | energyq
    assert energyq("--store", root, stdin="\n").returncode == 2


def test_json_and_jsonl_keep_types_units_in_keys_and_null(root: Path, energyq: Energyq) -> None:
    query = (
        "SELECT stage, energy_j, counter_j, flags FROM stage_energy WHERE device = 1 ORDER BY t0_ns LIMIT 2"
    )
    many = json.loads(energyq(query, "--store", root, "--format", "json").stdout)
    assert many[0] == {"stage": "train", "energy_j": 949.65, "counter_j": None, "flags": ["estimated"]}
    lines = energyq(query, "--store", root, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == many
    assert json.loads(energyq("--store", root, "--format", "json", "SELECT 1 WHERE false").stdout) == []
    odd = energyq(
        "--store", root, "--format", "json", "SELECT 'nan'::DOUBLE AS x, labels FROM runs LIMIT 1"
    ).stdout
    assert json.loads(odd) == [{"x": None, "labels": {}}]


def test_markdown_and_table_have_one_line_per_row(root: Path, energyq: Energyq) -> None:
    query = "SELECT 'a|b' AS x, 1 AS n UNION ALL SELECT NULL, 22 ORDER BY n"
    markdown = energyq("--store", root, "--format", "markdown", query).stdout.splitlines()
    assert markdown == ["| x | n |", "| --- | ---: |", "| a\\|b | 1 |", "|  | 22 |"]
    table = energyq("--store", root, "--format", "table", query).stdout.splitlines()
    assert [line.split() for line in table[2:]] == [["a|b", "1"], ["NULL", "22"]]


def test_parquet_goes_to_a_file_and_never_to_stdout(root: Path, energyq: Energyq, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    assert energyq("stages", "all", "--store", root, "--format", "parquet", "-o", out).returncode == 0
    assert duckdb.sql(f"SELECT count(*) FROM '{out}'").fetchall() == [(4,)]
    assert energyq("SELECT 1 AS one", "--store", root, "--format", "parquet", "-o", out).returncode == 0
    assert duckdb.sql(f"FROM '{out}'").fetchall() == [(1,)]
    done = energyq("SELECT 1", "--store", root, "--format", "parquet")
    assert (done.returncode, done.stdout) == (2, "")
    assert "-o FILE" in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 5 AS x) TO '{}'",
        "SELECT 1; COPY (SELECT 5 AS x) TO '{}'",
        "COPY (PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)) TO '{}'",
        "EXPLAIN ANALYZE COPY (SELECT 5 AS x) TO '{}'",
        "PREPARE p AS COPY (SELECT 5 AS x) TO '{}'; EXECUTE p",
        "ATTACH '{}' AS other",
        "EXPORT DATABASE '{}'",
        "SET log_query_path = '{}'; SELECT 1",
    ],
)
def test_what_is_no_question_is_refused_and_writes_nothing(
    statement: str, root: Path, energyq: Energyq, tmp_path: Path
) -> None:
    target = tmp_path / "own"
    for more in ((), ("--format", "parquet", "-o", tmp_path / "out")):
        done = energyq("--store", root, statement.format(target), *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert "only questions are run" in done.stderr
    assert not target.exists()
    assert not (tmp_path / "out").exists()


def test_helpers_in_memory_pivots_and_plans_are_questions_too(root: Path, energyq: Energyq) -> None:
    helper = "CREATE TEMP TABLE t AS SELECT 3 AS n; CREATE MACRO two(x) AS 2 * x; SELECT two(n) AS n FROM t"
    assert energyq("--store", root, helper).stdout == "n\n6\n"
    pivot = "PIVOT (SELECT stage, domain, energy_j FROM stage_energy) ON domain USING count(*)"
    assert energyq("--store", root, pivot).returncode == 0
    for question in ("EXPLAIN SELECT 1", "-- why?\nEXPLAIN ANALYZE FROM runs", "/* all */ (SELECT 1)"):
        assert energyq("--store", root, "-", stdin=question).returncode == 0


def test_a_usage_error_of_plain_sql_names_no_hidden_command(root: Path, energyq: Energyq) -> None:
    done = energyq("--store", root, "--format", "parquet", "SELECT 1")
    assert done.returncode == 2
    assert "energyq sql" not in done.stderr
    assert "Usage: energyq [OPTIONS]" in done.stderr
    assert "Usage: energyq stages" in energyq("stages", "--store", root, "--format", "parquet").stderr


def test_a_store_that_is_named_wins_over_the_daemon_in_the_environment(
    root: Path, daemon: Callable[..., str], energyq: Energyq, store: Store, tmp_path: Path
) -> None:
    """Another daemon lives and is exported; the named store is at rest, then has a daemon of its own."""
    other = Store(tmp_path / "other").write()
    elsewhere = daemon(other, {"sealed": {}, "live": {}, "samples": {}, "rows": {}})
    assert len(rows(energyq("runs", "--store", root, ENERGYD_ENDPOINT=elsewhere).stdout)) == 2
    body = tail_of(store, {}, T0)
    (root / "hot.duckdb").unlink()
    daemon(root, body)
    assert len(rows(energyq("runs", "--store", root, ENERGYD_ENDPOINT=elsewhere).stdout)) == 2


def test_tables_lists_each_view_with_what_its_columns_hold(root: Path, energyq: Energyq) -> None:
    text = energyq("--store", root, "--tables", "--format", "table").stdout
    assert "stage_energy: What one stage took on one device" in text
    assert any(
        line.split()[:3] == ["total_j", "DOUBLE", "J,"]
        for line in text.splitlines()
        if line.startswith("  total_j")
    )
    listed = rows(energyq("--store", root, "--tables").stdout)
    assert not [r for r in listed if r["view"].startswith("raw_") or not r["comment"]]
    assert len(listed) == len({(r["view"], r["column"]) for r in listed})


def test_runs_shows_each_run_once_with_its_joules(root: Path, energyq: Energyq) -> None:
    done = energyq("runs", "--store", root)
    assert [(r["run_id"], r["total_j"]) for r in rows(done.stdout)] == [
        ("aa1111", "4748.25"),
        ("aa2222", "4748.25"),
    ]
    table = energyq("runs", "--store", root, "--format", "table").stdout
    assert "cpu estimated by codecarbon: RAPL is for root only" in table


def test_the_stages_table_is_an_indented_tree_with_reasons_below(root: Path, energyq: Energyq) -> None:
    done = energyq("stages", "--store", root, "--format", "table")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "run kd (aa2222)"
    assert " ".join(lines[1].split()) == (
        "stage seconds GPU J CPU J total J est. % mean W tokens unit J/token coverage % source"
    )
    train, epoch = lines[3], lines[4]
    assert " ".join(train.split()) == (
        "train 18.99 3,799 949.6 4,748 20.0 250.0 1,000 label 4.748 100 gpu ring, cpu codecarbon (estimated)"
    )
    assert epoch.index("epoch") == train.index("train") + 2
    assert lines[-2:] == ["cpu estimated by codecarbon: RAPL is for root only", "dram absent: no RAPL zone"]


def test_a_run_is_found_by_id_prefix_name_and_all(root: Path, energyq: Energyq) -> None:
    def runs_of(*word: str) -> set[str]:
        return {r["run_id"] for r in rows(energyq("stages", *word, "--store", root).stdout)}

    assert runs_of() == {"aa2222"}, "the latest"
    assert runs_of("aa1111") == runs_of("aa1") == {"aa1111"}
    assert runs_of("kd") == {"aa2222"}, "the latest of that name"
    assert runs_of("all") == {"aa1111", "aa2222"}


def test_an_unknown_run_and_a_prefix_of_two_are_named_with_a_cure(root: Path, energyq: Energyq) -> None:
    done = energyq("stages", "zz", "--store", root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no run is called or begins with 'zz'" in done.stderr
    assert "energyq runs" in done.stderr
    done = energyq("stages", "aa", "--store", root)
    assert done.returncode == 1
    assert "begins 2 run ids" in done.stderr


def test_stages_with_something_pending_or_unknown_exit_4_and_say_why(store: Store, energyq: Energyq) -> None:
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 10 * S, 20 * MS), lambda t: 200_000)
    store.run("r1", t1=None)
    store.stage("r1", "s1", "train", T0 + S, None)
    store.stage("r1", "s2", "early", T0 - S, T0 + S)
    done = energyq("stages", "--store", store.write(), "--format", "table")
    assert done.returncode == 4
    assert "train (open)" in done.stdout
    assert "unknown for train: gpu: still open" in done.stdout
    assert "unknown for early: gpu: it began before the first sample" in done.stdout
    assert " 0 " not in done.stdout


def test_a_machine_that_lacks_every_domain_is_no_failure(store: Store, energyq: Energyq) -> None:
    for domain in ("gpu", "cpu", "dram"):
        store.domain(domain, "absent", None, f"no {domain} here")
    store.run("r1")
    store.stage("r1", "s1", "train", T0, T0 + S)
    done = energyq("stages", "--store", store.write(), "--format", "table")
    assert done.returncode == 0
    for domain in ("gpu", "cpu", "dram"):
        assert f"{domain} absent: no {domain} here" in done.stdout


def test_replayed_and_simulated_joules_are_called_so_below_the_table(store: Store, energyq: Energyq) -> None:
    store.device(0, source="replay", origin="replayed")
    store.domain("gpu", "replayed", "replay")
    store.power(0, range(T0, T0 + 10 * S, 20 * MS), lambda t: 200_000)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + S, T0 + 2 * S, energy_flags={0: ["replayed"]})
    out = energyq("stages", "--store", store.write(), "--format", "table").stdout
    assert "gpu replay (replayed)" in out
    assert "replayed: these joules come from a recorded trace, not this machine" in out


def test_explain_shows_all_that_is_needed_to_redo_the_number_by_hand(root: Path, energyq: Energyq) -> None:
    done = energyq("explain", "st1111-t", "--store", root)
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "path train, ok; flags: estimated" in text
    assert "begin a: 7,000,000 ns before t0, 200,000 mW, cum 200000000 µJ" in text
    assert "b: 13,000,000 ns after t0, 200,000 mW, cum 204000000 µJ" in text
    assert "u = 7000000, D = 20000000; E(t0) = 201400000 µJ" in text
    assert "E(t1) − E(t0) = 3,798,600,000 µJ = 3798.600000 J from raw samples: the same" in text
    assert "2 reads inside; used: 1000000 mJ at t0 +1.993 s and 2616000 mJ at t1 − 9.000 s" in text
    facts = json.loads(energyq("explain", "st1111-train", "--store", root, "--format", "json").stdout)
    edge = facts["devices"][0]["begin"]
    step_uj, share = (
        edge["b_uj"] - edge["a_uj"],
        (edge["t_ns"] - edge["a_ns"]) / (edge["b_ns"] - edge["a_ns"]),
    )
    assert edge["e_uj"] == edge["a_uj"] + step_uj * share, "constant power: the shape is a straight line"


def test_explain_names_the_counters_difference_gaps_and_what_is_unknown(
    store: Store, energyq: Energyq
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 10 * S + 1, 20 * MS), lambda t: 100_000)
    store.after_gap(0, T0 + 20 * S, 100_000, 1_500_000_000, "daemon_down")
    store.after_gap(0, T0 + 30 * S, 100_000, None, "reset")
    store.run("r1")
    store.stage("r1", "bridged", "train", T0 + 5 * S, T0 + 20 * S)
    store.stage("r1", "holed", "train", T0 + 5 * S, T0 + 30 * S)
    hour, row = store.rows["energies"][0]
    store.rows["energies"][0] = (hour, (*row[:6], 2_020_000_000, *row[7:]))
    root = store.write()
    text = energyq("explain", "bridged", "--store", root).stdout
    assert "carried to the edges 2020.000000 J; the integral differs by -20.000000 J (-0.99 %)" in text
    assert "daemon_down, 10.000 s of it inside; the counter gives 1500.000000 J for all of it" in text
    assert "covered 33.3 % of the window" in text
    text = energyq("explain", "holed", "--store", root).stdout
    assert "energy  unknown: no counter bridges a gap inside it" in text
    assert "nothing bridges" in text


def test_explain_of_an_open_stage_and_of_an_unknown_one(store: Store, energyq: Energyq) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + S, 20 * MS), lambda t: 100_000)
    store.run("r1", t1=None)
    store.stage("r1", "s1", "train", T0 + 3 * MS, None)
    root = store.write()
    done = energyq("explain", "s1", "--store", root)
    assert done.returncode == 0
    assert "still open: no energy yet" in done.stdout
    done = energyq("explain", "nope", "--store", root)
    assert done.returncode == 1
    assert "no stage is called or begins with 'nope'" in done.stderr


def test_verify_finds_every_energy_the_same(root: Path, energyq: Energyq) -> None:
    done = energyq("verify", "--store", root)
    assert (done.returncode, done.stdout) == (0, "")
    assert "8 energies: 8 same, 0 differ, 0 not checked" in done.stderr
    assert "4 energies" in energyq("verify", "aa1111", "--store", root).stderr


def test_verify_exits_1_on_an_energy_that_raw_samples_do_not_give(
    store: Store, root: Path, energyq: Energyq
) -> None:
    with duckdb.connect(root / "hot.duckdb") as con:
        con.execute(
            "UPDATE energies SET energy_uj = energy_uj + 3 WHERE stage_id = 'st1111-ep' AND device = 0"
        )
        con.execute(
            "UPDATE energies SET energy_uj = energy_uj + 2 WHERE stage_id = 'st2222-ep' AND device = 0"
        )
    done = energyq("verify", "--store", root)
    assert done.returncode == 1
    [row] = rows(done.stdout)
    assert (row["stage_id"], row["difference_uj"], row["verdict"]) == ("st1111-ep", "-3", "differs")


def test_verify_exits_4_where_raw_samples_are_gone(store: Store, root: Path, energyq: Energyq) -> None:
    with duckdb.connect(root / "hot.duckdb") as con:
        con.execute(f"DELETE FROM samples WHERE t_ns < {T0 + 5 * S}")
    done = energyq("verify", "--store", root)
    assert done.returncode == 4
    assert {r["verdict"] for r in rows(done.stdout)} == {"raw gone"}


@pytest.mark.parametrize("command", ["stages", "net", "explain", "verify", "compare r"])
def test_what_is_not_in_the_store_exits_1_in_every_command(
    command: str, root: Path, energyq: Energyq
) -> None:
    name, *before = command.split()
    done = energyq(name, *before, "nosuch", "--store", root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cure:" in done.stderr


def test_malformed_sql_exits_2_with_duckdbs_line_and_no_traceback(root: Path, energyq: Energyq) -> None:
    done = energyq("--store", root, "SELECT * FORM samples")
    assert (done.returncode, done.stdout) == (2, "")
    assert "FORM samples" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_a_misspelt_command_exits_2_and_is_corrected(root: Path, energyq: Energyq) -> None:
    done = energyq("stage", "--store", root)
    assert done.returncode == 2
    assert "did you mean `stages`?" in done.stderr


def test_a_missing_store_exits_78_and_says_where_it_looked(tmp_path: Path, energyq: Energyq) -> None:
    done = energyq("runs", "--store", tmp_path / "none")
    assert done.returncode == 78
    assert f"no store at {tmp_path}/none" in done.stderr
    assert "cure:" in done.stderr


def test_a_folder_that_is_no_store_exits_78(tmp_path: Path, energyq: Energyq) -> None:
    done = energyq("runs", "--store", tmp_path)
    assert done.returncode == 78
    assert "neither hot.duckdb nor sealed files" in done.stderr


def test_a_store_that_may_not_be_read_exits_5(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for folder in (root, *root.parents[:-2]):
        folder.chmod(0o755)
    for path in (root / "lock", root / "hot.duckdb"):
        path.chmod(0o640)
    script = (  # once as root, so that all is imported: nobody may not even read this interpreter's library
        "import os, sys; from energyq.cli import main; assert main() == 0;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main())"
    )
    for store, closed in ((root, root / "lock"), (root, root / "hot.duckdb"), (root, root)):
        closed.chmod(0o700 if closed.is_dir() else 0o600)
        done = subprocess.run(
            [sys.executable, "-c", script, "runs", "--store", store],
            capture_output=True, text=True, env=ENV, check=False,
        )  # fmt: skip
        assert done.returncode == 5, done.stderr
        assert f"permission denied: {closed}" in done.stderr
        closed.chmod(0o755 if closed.is_dir() else 0o644)


def test_a_daemon_that_does_not_answer_exits_3(
    root: Path, daemon: Callable[..., str], energyq: Energyq
) -> None:
    daemon(root, mode="silent")
    done = energyq("runs", "--store", root)
    assert done.returncode == 3
    assert "does not answer" in done.stderr


def test_beside_a_daemon_every_command_sees_what_it_holds(
    store: Store, root: Path, daemon: Callable[..., str], energyq: Energyq
) -> None:
    body = tail_of(store, {}, T0)
    (root / "hot.duckdb").unlink()
    daemon(root, body)
    assert len(rows(energyq("runs", "--store", root).stdout)) == 2
    assert energyq("verify", "--store", root).returncode == 0
    assert energyq("stages", "--store", root).returncode == 0


def test_on_a_terminal_the_table_is_the_default_and_no_color_is_honoured(root: Path) -> None:
    def asked(**env: str) -> str:
        command = [sys.executable, "-m", "energyq", "--store", str(root), "SELECT 7 AS n"]
        return on_terminal(command, ENV | {"TERM": "xterm-256color"} | env)

    plain = asked(NO_COLOR="1")
    assert [line.strip() for line in plain.splitlines()][-1] == "7"
    assert "─" in plain
    assert "\x1b[3" not in plain


@pytest.mark.parametrize("width", [24, 70, 90, 200])
def test_no_number_is_broken_on_a_narrow_terminal_and_no_line_runs_over(width: int) -> None:
    command = [sys.executable, "-m", "energyq", "breakeven", "--study", "poster"]
    # The terminal's own width counts, unless somebody has set COLUMNS, as pytest's workers do.
    env = {k: v for k, v in ENV.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(command, env, width))
    table = text.partition("study poster")[2].partition("kd 1B:")[0]
    assert max(map(len, table.splitlines())) <= width
    figures = ["11.00", "5.200", "6.300", "1.100", "10.0"]
    lines = [re.findall(r"\S+", line) for line in table.splitlines()]
    if width == 24:  # a row is a block
        block = " ".join(words[-1] for words in lines[1:9] if words)
        assert block.startswith(f"kd 1B {' '.join(figures[:4])}")
    else:
        assert any([word for word in words if word in figures] == figures for words in lines)
    assert "synthetic" in table


def test_an_empty_store_has_no_latest_run(store: Store, energyq: Energyq) -> None:
    root = store.write()
    done = energyq("stages", "--store", root)
    assert done.returncode == 1
    assert "no run in" in done.stderr
    assert energyq("runs", "--store", root).returncode == 0


def test_an_output_folder_that_is_not_there_is_named(root: Path, energyq: Energyq, tmp_path: Path) -> None:
    done = energyq("runs", "--store", root, "-o", tmp_path / "no" / "x.csv")
    assert done.returncode == 1
    assert f"{tmp_path}/no/x.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_of_the_pipe_that_leaves_early_is_no_error(root: Path) -> None:
    command = f"{sys.executable} -m energyq --store {root} 'FROM samples' | head -2; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENV, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_the_process_leaves_with_all_of_its_answer_its_code_and_nothing_behind(
    root: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    script = (
        "import atexit, sys; sys.argv = ['energyq', *sys.argv[1:]]; from energyq.cli import script;"
        "atexit.register(print, 'at exit', file=sys.stderr); script()"
    )
    for words, code, lines in ((["FROM samples"], 0, 3_001 + 61 + 1), (["stages", "nobody"], 1, 0)):
        done = subprocess.run(
            [sys.executable, "-c", script, "--store", str(root), *words],
            capture_output=True, text=True, env=ENV | {"TMPDIR": str(scratch)}, check=False,
        )  # fmt: skip
        assert (done.returncode, len(done.stdout.splitlines())) == (code, lines)
        assert done.stderr.endswith("at exit\n")
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("where", "code", "words"), [(">&-", 0, ""), (">/dev/full", 1, "No space left")])
def test_an_answer_that_nobody_can_take_is_no_crash(root: Path, where: str, code: int, words: str) -> None:
    command = f"{sys.executable} -m energyq runs --store {root} {where}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENV, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_help_loads_neither_duckdb_nor_rich_nor_zmq(energyq: Energyq) -> None:
    script = (
        "import sys; from energyq.cli import main; code = main(['--help']);"
        "print(code, sorted({'duckdb', 'rich', 'zmq', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENV, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_an_answer_from_files_loads_neither_numpy_nor_rich_nor_zmq(root: Path) -> None:
    script = (
        "import sys; from energyq.cli import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'rich', 'zmq', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, "--store", str(root), "SELECT 7 AS n FROM runs LIMIT 1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, check=True)
    assert done.stdout.splitlines() == ["n", "7", "0 []"]


@pytest.mark.parametrize("missing", ["duckdb", "click", "rich"])
def test_without_its_extra_energyq_says_in_one_sentence_what_to_install(missing: str) -> None:
    script = (
        "import sys; import importlib.util as u; real = u.find_spec;"
        f"u.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a);"
        "from energyq.cli import main; sys.exit(main(['runs']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENV, check=False
    )
    assert done.returncode == 78
    assert done.stderr == f"energyq lacks {missing}: install its extra with pip install 'energyd[analysis]'\n"


def test_many_readers_at_once_all_get_an_answer(store: Store, root: Path, daemon: Callable[..., str]) -> None:
    """Eight at a time beside a daemon; none may fail and none may miss the newest sample."""
    daemon(root, tail_of(store, {}, T0))
    query = f"{sys.executable} -m energyq --store {root} 'SELECT max(t_ns) AS t FROM samples'"
    command = f"seq 12 | xargs -P 8 -I{{}} {query}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENV, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(str(T0 + 60 * S)) == 12


def test_hour_is_a_whole_number_of_hours() -> None:
    """The builder's own footing: sealed paths are named by it."""
    assert T0 == HOUR * 3_600 * S
