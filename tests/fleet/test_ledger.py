"""Does a ledger, DuckLake on PostgreSQL, hold each segment of a lake once, and answer as the lake does?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fleet.conftest import PATHS, Postgres
from fleet.lakes import host_store, send

DAY = "day=2025-11-24"
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    for host, watts in (("aa", 100), ("bb", 300)):
        assert send(host_store(tmp_path / host, watts=watts).root, folder, host).error is None
    return folder


@pytest.fixture
def ledger(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    return postgres.make(f"t{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def call(fleet_python: str, tmp_path: Path) -> Call:
    """A command of ours by the Python that has the extra `fleet`."""

    def run(*words: object, password: str = "secret") -> subprocess.CompletedProcess[str]:
        keys = tmp_path / "keys"
        keys.write_text(f"PGPASSWORD={password}\n")
        keys.chmod(0o600)
        command = [fleet_python, "-m", *map(str, words), "--lake-keys", str(keys)]
        env = {**os.environ, "PYTHONPATH": PATHS}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)

    return run


def asked(call: Call, url: object, query: str) -> list[dict[str, Any]]:
    done = call("energyq", "--lake", url, "--format", "json", query)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_registered_twice_it_is_there_once_and_answers_as_the_folder_does(
    call: Call, lake: Path, ledger: str
) -> None:
    first = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert (first.returncode, first.stderr) == (0, "12 segments added, 0 were there, of 2 hosts\n")
    again = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert again.stderr == "0 segments added, 12 were there, of 2 hosts\n"
    for query in (
        "SELECT host, day, count(*) AS n, max(cum_uj) AS uj FROM samples GROUP BY ALL ORDER BY 1",
        "FROM stage_energy ORDER BY host, device", "FROM run_totals", "FROM run_hosts ORDER BY host",
        "FROM hosts ORDER BY host",
    ):  # fmt: skip
        assert asked(call, ledger, query) == asked(call, lake, query), query


def test_the_duckdb_that_reads_ledgers_answers_every_command(
    call: Call, tmp_path: Path, lake: Path, ledger: str
) -> None:
    """1.5.5 takes `between` for its own word and binds `->>` weaker than IS NOT NULL; 2.0 does neither."""
    assert call("energyd", "register", "--lake", lake, "--ledger", ledger).returncode == 0
    for words in (("runs",), ("stages",), ("hosts",), ("carbon", "--region", "FRA"), ("breakeven",),
                  ("frontier",), ("advise",), ("report", "-o", tmp_path / "report.html")):  # fmt: skip
        done = call("energyq", "--lake", ledger, *words)
        assert "Error" not in done.stderr, (words, done.stderr)


def test_several_that_begin_a_ledger_at_once_add_each_segment_once(
    lake: Path, ledger: str, fleet_python: str
) -> None:
    command = [fleet_python, "-m", "energyd", "register", "--lake", str(lake), "--ledger", ledger]
    env = {**os.environ, "PYTHONPATH": PATHS, "PGPASSWORD": "secret"}
    many = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=110)[1] for process in many]
    assert [process.returncode for process in many] == [0] * 4, said
    assert sum(int(text.split()[0]) for text in said) == 12  # whoever's turn it is, table by table


def test_a_registrar_whose_transaction_another_overtakes_adds_nothing_twice(
    call: Call, lake: Path, ledger: str, fleet_python: str
) -> None:
    """It has looked at the ledger and not yet committed, and meanwhile another adds all."""
    code = (
        "import sys; from energyd.store import lake_register as late\n"
        "look, asked = late._strange, []\n"
        "def slowly(*of):\n"
        "    if not asked: asked.append(1); print('begun', flush=True); sys.stdin.readline()\n"
        "    return look(*of)\n"
        "late._strange = slowly\n"
        "done = late.register(sys.argv[1], sys.argv[2]); print(done.added, done.known)\n"
    )
    late = subprocess.Popen(
        [fleet_python, "-c", code, str(lake), ledger], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": PATHS, "PGPASSWORD": "secret"},
    )  # fmt: skip
    assert late.stdout is not None
    assert late.stdout.readline() == "begun\n"
    assert call("energyd", "register", "--lake", lake, "--ledger", ledger).returncode == 0
    out, _ = late.communicate("go on\n", timeout=100)
    assert (late.returncode, out) == (0, "0 12\n")


def test_a_days_file_takes_the_place_of_its_hours(call: Call, lake: Path, ledger: str) -> None:
    call("energyd", "register", "--lake", lake, "--ledger", ledger)
    hour = lake / "samples" / "host=aa" / DAY / "16.parquet"
    shutil.copy(hour, hour.with_name("day.parquet"))
    done = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert done.stderr.startswith("1 segments added, 11 were there")
    rows = asked(call, ledger, "SELECT host, count(*) AS n FROM samples GROUP BY host ORDER BY host")
    assert rows == [{"host": "aa", "n": 9000}, {"host": "bb", "n": 9000}]


def test_a_registrar_that_looked_before_the_days_file_came_adds_no_hour_to_it(
    call: Call, lake: Path, ledger: str, fleet_python: str, tmp_path: Path
) -> None:
    """It lists, another registers the day's file in the hours' place, and then it adds what it has listed."""
    code = (
        "import sys; from pathlib import Path; from energyd.store import lake_register as late\n"
        "look = late.look_through\n"
        "def slowly(lake):\n"
        "    found = look(lake); print('listed', flush=True); sys.stdin.readline(); return found\n"
        "late.look_through = slowly\n"
        "done = late.register(sys.argv[1], sys.argv[2]); print(done.added, done.known)\n"
    )
    late = subprocess.Popen(
        [fleet_python, "-c", code, str(lake), ledger], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": PATHS, "PGPASSWORD": "secret"},
    )  # fmt: skip
    assert late.stdout is not None
    assert late.stdout.readline() == "listed\n"
    hour = lake / "samples" / "host=aa" / DAY / "16.parquet"
    shutil.copy(hour, hour.with_name("day.parquet"))
    assert call("energyd", "register", "--lake", lake, "--ledger", ledger).returncode == 0
    out, _ = late.communicate("go on\n", timeout=100)
    assert (late.returncode, out) == (0, "0 12\n")
    rows = asked(call, ledger, "SELECT host, count(*) AS n FROM samples GROUP BY host ORDER BY host")
    assert rows == [{"host": "aa", "n": 9000}, {"host": "bb", "n": 9000}]


def test_a_segment_of_a_newer_release_is_left_out_named_and_harms_no_other(
    call: Call, lake: Path, ledger: str
) -> None:
    newer = lake / "gaps" / "host=aa" / DAY / "16.parquet"
    newer.parent.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute(
            "COPY (SELECT 0::UTINYINT AS device, 1::BIGINT AS t0_ns, 'x' AS colour)"
            f" TO '{newer}' (FORMAT parquet)"
        )
    done = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert done.returncode == 4
    assert f"gaps/host=aa/{DAY}/16.parquet is of a newer release: it has colour" in done.stderr
    assert "12 segments added" in done.stderr


def test_a_segment_whose_column_has_another_type_is_left_out_and_named(
    call: Call, lake: Path, ledger: str
) -> None:
    odd = lake / "gaps" / "host=aa" / DAY / "16.parquet"
    odd.parent.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT 0::UTINYINT AS device, 'x' AS t0_ns) TO '{odd}' (FORMAT parquet)")
    done = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert done.returncode == 4
    assert f"gaps/host=aa/{DAY}/16.parquet has t0_ns as VARCHAR, which is BIGINT here" in done.stderr
    assert "12 segments added" in done.stderr


def test_a_ledger_takes_no_segments_of_a_second_lake_or_of_its_own_by_another_name(
    call: Call, lake: Path, ledger: str, tmp_path: Path
) -> None:
    """Both would have every row twice: its segments are known by where they lie."""
    call("energyd", "register", "--lake", lake, "--ledger", ledger)
    (tmp_path / "same").symlink_to(lake)
    for url in (tmp_path / "same", f"{tmp_path}/aa/../lake"):
        done = call("energyd", "register", "--lake", url, "--ledger", ledger)
        assert done.returncode != 0, (url, done.stderr)
        assert len(done.stderr.splitlines()) <= 3
    assert asked(call, ledger, "SELECT count(*) AS n FROM samples") == [{"n": 18000}]


def test_a_segment_cut_in_the_lake_is_named_whether_registered_or_not(
    call: Call, lake: Path, ledger: str
) -> None:
    first, later = (lake / "energies" / f"host={host}" / DAY / "16.parquet" for host in ("aa", "bb"))
    whole = later.read_bytes()
    later.write_bytes(whole[:300])
    done = call("energyd", "register", "--lake", lake, "--ledger", ledger)
    assert done.returncode == 4
    assert f"energies/host=bb/{DAY}/16.parquet cannot be read" in done.stderr
    later.write_bytes(whole)  # put there again
    assert "1 segments added" in call("energyd", "register", "--lake", lake, "--ledger", ledger).stderr
    first.write_bytes(first.read_bytes()[:300])
    done = call("energyq", "runs", "--lake", ledger)
    assert done.returncode == 78
    assert str(first) in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_a_password_in_an_address_of_another_kind_is_not_shown_either(call: Call, lake: Path) -> None:
    for url in ("postgresql+psycopg://me:hush-hush@db/x", "mysql://db/x?password=hush-hush"):
        done = call("energyd", "register", "--lake", lake, "--ledger", url)
        assert done.returncode == 5, done.stderr
        assert "holds a password" in done.stderr
        assert "hush" not in done.stderr


def test_a_wrong_password_and_a_silent_server_are_told_in_three_lines(
    call: Call, lake: Path, ledger: str
) -> None:
    for words in (
        ("energyd", "register", "--lake", lake, "--ledger", ledger),
        ("energyq", "runs", "--lake", ledger),
    ):
        done = call(*words, password="hush-hush")
        assert done.returncode == 5, done.stderr
        assert "does not take this user or password" in done.stderr
        assert "hush" not in done.stderr
        assert len(done.stderr.splitlines()) <= 3
    done = call("energyq", "runs", "--lake", f"{ledger}not")
    assert "PostgreSQL has no such database" in done.stderr
    done = call("energyq", "runs", "--lake", "postgresql://energy@127.0.0.1:1/x")
    assert done.returncode == 75, done.stderr
    assert "PostgreSQL does not answer" in done.stderr


def test_a_role_that_may_only_select_can_ask(
    call: Call, lake: Path, ledger: str, postgres: Postgres
) -> None:
    call("energyd", "register", "--lake", lake, "--ledger", ledger)
    database = ledger.rpartition("/")[2]
    postgres.sql(database, "CREATE ROLE asker LOGIN PASSWORD 'secret'")
    postgres.sql(database, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO asker")
    as_asker = ledger.replace("energy@", "asker@")
    assert asked(call, as_asker, "SELECT count(*) AS n FROM samples") == [{"n": 18000}]
    done = call("energyd", "register", "--lake", lake, "--ledger", as_asker)
    assert done.returncode in (0, 5), done.stderr  # nothing to add, or refused
    (lake / "hosts" / "host=aa.json").write_text('{"hostname": "another"}')
    done = call("energyd", "register", "--lake", lake, "--ledger", as_asker)
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_a_question_cannot_change_a_ledger(call: Call, lake: Path, ledger: str) -> None:
    call("energyd", "register", "--lake", lake, "--ledger", ledger)
    trick = "SELECT * FROM postgres_execute('__ducklake_metadata_lake', 'DELETE FROM ducklake_data_file')"
    done = call("energyq", "--lake", ledger, trick)
    assert done.returncode == 1
    assert "read-only transaction" in done.stderr
    assert asked(call, ledger, "SELECT count(*) AS n FROM samples") == [{"n": 18000}]
