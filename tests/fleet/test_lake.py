"""Does `energyq --lake` answer over many hosts what each of their stores would, and add it up?"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from analysis.conftest import energyq  # noqa: F401
from analysis.energy_store import T0, S, Store
from energyd.store.read import LakeUnusable, Reader, open_lake, open_reader
from fleet.lakes import host_store, send

Energyq = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Two hosts that took part in one run, and each in one of its own."""
    folder = tmp_path_factory.mktemp("stores")

    def own_run(store: Store) -> None:
        name = f"own-{store.root.name}"
        store.run(name, t1=T0 + 59 * S, client="c")
        store.stage(name, f"s-{store.root.name}", "alone", T0 + 40 * S, T0 + 55 * S)

    return {h: host_store(folder / h, watts=w, more=own_run) for h, w in (("aa", 100), ("bb", 300))}


@pytest.fixture(scope="module")
def lake(stores: dict[str, Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    for host, store in stores.items():
        done = send(store.root, folder, host)
        assert done.error is None, done
    return folder


@pytest.fixture
def reader(lake: Path) -> Iterator[Reader]:
    with open_lake(str(lake)) as opened:
        yield opened


def test_every_view_of_a_store_is_there_with_its_rows_and_columns(
    stores: dict[str, Store], reader: Reader
) -> None:
    theirs: dict[str, list[str]] = {}
    for view, _, column, _, _ in reader.views():
        theirs.setdefault(view, []).append(column)
    counted = dict.fromkeys(theirs, 0)
    for store in stores.values():
        with open_reader(store.root) as one:
            ours: dict[str, list[str]] = {}
            for view, _, column, _, _ in one.views():
                ours.setdefault(view, []).append(column)
            for view in ours:
                counted[view] += int(one.sql(f"SELECT count(*) FROM {view}").fetchall()[0][0])
    assert set(theirs) - set(ours) == {"hosts", "run_hosts"}
    for view, columns in ours.items():
        assert [c for c in theirs[view] if c not in ("host", "hosts", "day")] == columns, view
    with_host = {v for v in ours if "host" in theirs[v]}
    assert set(ours) - with_host == {"counts"}  # those of a parent are of all its ranks' hosts
    spanning = {"runs", "run_totals", "counts"}  # one row of what both took part in
    for view in ours.keys() - spanning:
        (n,) = reader.sql(f"SELECT count(*) FROM {view}").fetchall()[0]
        assert n == counted[view], view
    assert all(row[4] for row in reader.views())  # every column says what it holds


def test_a_run_that_spans_hosts_is_the_sum_of_what_each_took(
    stores: dict[str, Store], reader: Reader
) -> None:
    each = {}
    for host, store in stores.items():
        with open_reader(store.root) as one:
            (each[host],) = one.sql("FROM run_totals WHERE run_id = 'r1'").dicts()
    (run,) = reader.sql("FROM run_totals WHERE run_id = 'r1'").dicts()
    assert run["hosts"] == ["aa", "bb"]
    for column in ("gpu_j", "cpu_j", "total_j", "tokens"):
        assert run[column] == each["aa"][column] + each["bb"][column]
    assert run["total_j"] == 20 * (2 * 100 + 20) + 20 * (2 * 300 + 20)
    assert run["domains"] == "gpu measured, cpu measured, dram absent"  # said once
    parts = reader.sql("FROM run_hosts WHERE run_id = 'r1' ORDER BY host").dicts()
    assert [(p["host"], p["total_j"]) for p in parts] == [
        (host, each[host]["total_j"]) for host in ("aa", "bb")
    ]
    assert [p["counts"] for p in parts] == [{"label": 1000}] * 2


def test_equal_device_numbers_of_two_hosts_are_two_devices(reader: Reader) -> None:
    rows = reader.sql("SELECT host, device, uuid FROM devices ORDER BY host, device").fetchall()
    assert [(host, uuid) for host, _, uuid in rows] == [
        (host, uuid) for host in ("aa", "bb") for uuid in ("gpu-0", "gpu-1", "cpu-2")
    ]
    assert len({device for _, device, _ in rows}) == 6
    energies = reader.sql("SELECT host, sum(energy_j) FROM stage_energy GROUP BY ALL ORDER BY ALL").fetchall()
    assert energies == [("aa", 35.0 * 220), ("bb", 35.0 * 620)]
    again = reader.sql(
        "SELECT count(*), count(*) FILTER (round(energy_j * 1e6)"
        " = round(energy_j(device, t0_ns, t1_ns) * 1e6)) FROM stage_energy"
    ).fetchall()
    assert again == [(12, 12)]  # recomputed from each host's own samples


def test_a_question_of_one_host_or_day_opens_those_files_alone(reader: Reader) -> None:
    asked = {"host = 'aa'": 1, "day = '2025-11-24' AND host = 'aa'": 1, "day = '2025-11-25'": 0}
    for where, n in asked.items():
        ((_, plan),) = reader.sql(f"EXPLAIN ANALYZE SELECT sum(cum_uj) FROM samples WHERE {where}").fetchall()
        assert f"Scanning Files: {n}/2" in plan, plan


def test_a_stage_on_one_host_does_not_stand_for_its_child_on_another(tmp_path: Path) -> None:
    """The launcher's stage is the parent of the ranks' on both hosts; the run takes both hosts' energy."""
    lake = tmp_path / "lake"
    lake.mkdir()

    def ranks(host: str) -> Callable[[Store], None]:
        def add(store: Store) -> None:
            if host == "aa":
                store.run("span", t1=T0 + 50 * S, client="c")
                store.stage("span", "launcher", "launch", T0 + 10 * S, T0 + 40 * S)
            else:
                store.run("span", t1=T0 + 40 * S)
            store.stage("span", f"rank-{host}", "rank", T0 + 15 * S, T0 + 35 * S, parent_id="launcher",
                        counts={"label": 7})  # fmt: skip

        return add

    for host in ("aa", "bb"):
        send(host_store(tmp_path / host, run=f"r-{host}", more=ranks(host)).root, lake, host)
    with open_lake(str(lake)) as reader:
        (run,) = reader.sql("FROM run_totals WHERE run_id = 'span'").dicts()
        assert run["total_j"] == 30 * 220 + 20 * 220  # the launcher's 30 s on aa, the rank's 20 s on bb
        assert run["tokens"] == 14
        assert run["host"] == "aa"
        assert run["hosts"] == ["aa", "bb"]


def test_a_rank_that_outlasts_the_launchers_stage_on_another_host_is_time_in_stages(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()

    def launcher(store: Store) -> None:
        store.run("span", t1=T0 + 50 * S, client="c")
        store.stage("span", "launcher", "launch", T0 + 10 * S, T0 + 40 * S)

    def rank(store: Store) -> None:
        store.run("span", t1=T0 + 50 * S)
        store.stage("span", "rank", "rank", T0 + 15 * S, T0 + 45 * S, parent_id="launcher")

    for host, more in (("aa", launcher), ("bb", rank)):
        send(host_store(tmp_path / host, run=f"r-{host}", more=more).root, lake, host)
    with open_lake(str(lake)) as reader:
        (run,) = reader.sql("FROM run_totals WHERE run_id = 'span'").dicts()
    assert run["staged_s"] == 35


def test_a_domain_unreadable_on_one_host_makes_the_runs_total_unknown(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    send(host_store(tmp_path / "aa").root, lake, "aa")

    def blind(store: Store) -> None:
        rows = store.rows["domains"]
        rows[:] = [(h, tuple("unreadable" if v == "measured" and "cpu" in row else v for v in row))
                   for h, row in rows]  # fmt: skip
        store.rows["energies"] = [
            (h, row)
            for h, row in store.rows["energies"]
            if row[2] != 2  # no CPU was charged
        ]
        for n, (h, row) in enumerate(store.rows["stages_log"]):
            store.rows["stages_log"][n] = (h, tuple([0, 1] if v == [0, 1, 2] else v for v in row))

    send(host_store(tmp_path / "bb", more=blind).root, lake, "bb")
    with open_lake(str(lake)) as reader:
        (run,) = reader.sql("FROM run_totals WHERE run_id = 'r1'").dicts()
        assert run["total_j"] is None
        assert "cpu: unreadable" in run["reason"]
        assert run["gpu_j"] == 2 * 20 * 200
        parts = dict(reader.sql("SELECT host, total_j FROM run_hosts WHERE run_id = 'r1'").fetchall())
        assert parts == {"aa": 4400.0, "bb": None}


def test_the_commands_of_energyq_answer_over_a_lake(lake: Path, energyq: Energyq) -> None:  # noqa: F811
    done = energyq("--lake", lake, "runs", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {r["run_id"]: r["total_j"] for r in json.loads(done.stdout)} == {
        "r1": 16800.0, "own-aa": 3300.0, "own-bb": 9300.0,
    }  # fmt: skip
    for words in (
        ("stages", "r1"),
        ("verify",),
        ("explain", "s-bb"),
        ("compare", "own-aa", "own-bb"),
        ("hosts",),
    ):
        done = energyq("--lake", lake, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    done = energyq("--lake", lake, "hosts", "r1", "--format", "json")
    assert [(r["host"], r["total_j"]) for r in json.loads(done.stdout)] == [("aa", 4400.0), ("bb", 12400.0)]


def test_a_hosts_wall_clock_that_goes_wrong_is_told_and_not_hidden(
    lake: Path,
    tmp_path: Path,
    energyq: Energyq,  # noqa: F811
) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    told = copy / "hosts" / "host=bb.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"clock_s": 5.02, "clock_doubt_s": 0.1}))
    done = energyq("--lake", copy, "hosts", "r1", "--format", "table")
    assert done.returncode == 0, done.stderr
    assert "bb.example" in done.stdout
    assert "+5.02 ± 0.10" in done.stdout
    assert "the clocks of hosts bb go wrong" in done.stdout
    page = tmp_path / "r.html"
    done = energyq("--lake", copy, "report", "r1", "-o", page)
    assert done.returncode == 0, done.stderr
    for told in ("bb.example", "+5.02 ± 0.10", "the clocks of hosts bb go wrong"):
        assert told in page.read_text()


def test_files_of_two_releases_are_read_together(lake: Path, tmp_path: Path) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    (old,) = (copy / "stages_log" / "host=aa").glob("*/*.parquet")
    with duckdb.connect() as con:  # before a column came
        con.execute(f"CREATE TABLE t AS SELECT * EXCLUDE (flags) FROM '{old}'")
        con.execute(f"COPY t TO '{old}' (FORMAT parquet)")
    told = copy / "hosts" / "host=aa.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"schemas": ["old", "new"]}))
    with open_lake(str(copy)) as reader:
        rows = reader.sql(
            "SELECT host, count(*), count(flags) FROM stages GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert rows == [("aa", 2, 0), ("bb", 2, 2)]


def test_a_damaged_segment_is_left_out_and_named(lake: Path, tmp_path: Path, energyq: Energyq) -> None:  # noqa: F811
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    (file,) = (copy / "samples" / "host=bb").glob("*/*.parquet")
    file.write_bytes(b"PAR1 no more")
    done = energyq("--lake", copy, "SELECT host, count(*) AS n FROM samples GROUP BY ALL", "--format", "json")
    assert done.returncode == 4
    assert json.loads(done.stdout) == [{"host": "aa", "n": 9000}]
    assert f"{file.relative_to(copy)} are left out" in done.stderr


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("/nowhere/lake", 75, "no folder /nowhere/lake"),
        ("", 78, "nothing is no address of a lake"),
        ("ftp://x/y", 78, "ftp://x/y is no address of a lake"),
        ("postgresql://me:hush@db/x", 5, "holds a password"),
        ("s3://k:hush@bucket", 78, "holds credentials"),
    ],
)
def test_a_lake_that_cannot_be_asked_says_why_once(
    url: str,
    code: int,
    told: str,
    energyq: Energyq,  # noqa: F811
) -> None:
    done = energyq("--lake", url, "runs")
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "hush" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_what_no_host_of_ours_has_put_there_is_not_taken_for_one(lake: Path, tmp_path: Path) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    (copy / "hosts" / "host=aa.json").write_text('{"hostname": "half a')
    odd = {"hostname": 7, "schemas": 3, "shipped_until_hour": "late", "clock_s": "5", "clock_doubt_s": 1e300}
    (copy / "hosts" / "host=bb.json").write_text(json.dumps(odd))
    (copy / "hosts" / "host=it's.json").write_text("{}")
    (here,) = (copy / "samples" / "host=aa").glob("*/*.parquet")
    for folder in ("host=a b/day=2025-11-24", "host=zz/day=2025-13-01", "host=zz/day=2025-11-24/old"):
        (copy / "samples" / folder).mkdir(parents=True)
        shutil.copy(here, copy / "samples" / folder)
    shutil.copy(here, here.with_name(".16.parquet.7.tmp"))
    with open_lake(str(copy)) as reader:
        told = "SELECT host, hostname, shipped_until_ns, clock_s FROM hosts ORDER BY host"
        assert reader.sql(told).fetchall() == [("aa", None, None, None), ("bb", None, None, None)]
        assert reader.sql("SELECT host, count(*) FROM samples GROUP BY 1 ORDER BY 1").fetchall() == [
            ("aa", 9000), ("bb", 9000),
        ]  # fmt: skip


def test_an_empty_lake_is_told(tmp_path: Path) -> None:
    with pytest.raises(LakeUnusable, match=r"no host has shipped[\s\S]*when they are over"):
        open_lake(str(tmp_path))


def test_a_lake_and_a_store_at_once_is_refused(tmp_path: Path, energyq: Energyq) -> None:  # noqa: F811
    done = energyq("--lake", tmp_path, "--store", tmp_path, "runs")
    assert done.returncode == 2
    assert "neither --store nor --endpoint" in done.stderr
