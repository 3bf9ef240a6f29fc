"""Does the reader find every row once, with and without a living daemon, and never stand in its way?"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from analysis.energy_store import HOUR, MS, T0, S, Store, tail_of
from energyd.store import HOUR_NS
from energyd.store.read import (
    DaemonUnresponsive,
    QueryFailed,
    QueryMalformed,
    StoreNotFound,
    StoreUnreadable,
    open_reader,
)


def hours(store: Store, n: int) -> Store:
    """One GPU at 1 Hz for n hours and a half; a run in the first hour and one in the last."""
    store.device(0, max_step_ns=3 * S, period_ns=S)
    store.power(0, range(T0, T0 + n * HOUR_NS + HOUR_NS // 2, S), lambda t: 100_000)
    store.run("old", hour=HOUR)
    store.stage("old", "s-old", "train", T0 + S, T0 + 11 * S, hour=HOUR)
    store.run("new", t0=T0 + n * HOUR_NS, t1=None)
    store.stage("new", "s-new", "train", T0 + n * HOUR_NS + S, T0 + n * HOUR_NS + 11 * S)
    return store


def check_whole(root: Path, store: Store, source: str) -> None:
    with open_reader(root) as reader:
        assert reader.source == source
        assert reader.sql("SELECT count(*), count(DISTINCT t_ns), max(cum_uj) FROM samples").fetchall() == [
            (len(store.samples), len(store.samples), store.samples[-1][3])
        ]
        assert reader.newest_t_ns == store.samples[-1][1]
        assert reader.sql("SELECT run_id FROM runs ORDER BY 1").fetchall() == [("new",), ("old",)]
        assert reader.sql("SELECT DISTINCT energy_j FROM stage_energy").fetchall() == [(1000.0,)]


def test_without_a_daemon_sealed_and_hot_are_one_table(store: Store) -> None:
    check_whole(hours(store, 3).write(HOUR + 3), store, "files")


def test_a_seal_that_died_before_its_commit_counts_no_row_twice(store: Store) -> None:
    check_whole(hours(store, 2).write(HOUR + 2, stale_seal=True), store, "files")


def test_live_files_are_left_out_when_no_daemon_lives_as_hot_holds_their_rows(store: Store) -> None:
    root = hours(store, 1).write(HOUR + 1)
    store.live(["samples", "stages_log", "energies"], T0 + 2 * HOUR_NS)
    check_whole(root, store, "files")


def test_with_a_daemon_sealed_live_and_tail_are_one_table(store: Store, daemon: Callable[..., str]) -> None:
    root = hours(store, 2).write(HOUR + 2)
    cut = T0 + 2 * HOUR_NS + 600 * S
    live = store.live(["samples"], cut)
    daemon(root, tail_of(store, live, cut))
    check_whole(root, store, "daemon")


def test_only_files_that_the_daemon_names_are_read_while_it_lives(
    store: Store, daemon: Callable[..., str]
) -> None:
    """A sealed file appears before its hour is switched; a glob would count it twice."""
    root = hours(store, 2).write(HOUR + 2, stale_seal=True)
    body = tail_of(store, {}, T0 + 2 * HOUR_NS)
    body["sealed"] = {
        t: [p for p in paths if store_hour(p) < HOUR + 2] for t, paths in body["sealed"].items()
    }
    daemon(root, body)
    check_whole(root, store, "daemon")


def store_hour(path: str) -> int:
    from energyd.store import hour_of_sealed

    return hour_of_sealed(path)


def test_a_stage_open_in_the_live_file_and_closed_in_the_tail_is_closed(
    store: Store, daemon: Callable[..., str]
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 30 * S, 20 * MS), lambda t: 100_000)
    store.run("r1", t1=None)
    store.stage("r1", "s1", "train", T0 + S, None)
    root = store.write()
    live = store.live(["samples", "runs_log", "stages_log"], T0 + 5 * S)
    store.rows.pop("open_runs")
    store.rows.pop("open_stages")
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + S, T0 + 11 * S)
    body = tail_of(store, {t: live[t] for t in ("samples",)}, T0 + 5 * S)
    daemon(root, body | {"live": live})
    with open_reader(root) as reader:
        assert reader.sql("SELECT status, t1_ns FROM stages").fetchall() == [("ok", T0 + 11 * S)]
        assert reader.sql("SELECT status FROM runs").fetchall() == [("ok",)]
        assert reader.sql("SELECT energy_j FROM stage_energy").fetchall() == [(1000.0,)]


def test_an_open_stages_counts_are_those_of_the_tail_not_of_the_older_live_file(
    store: Store, daemon: Callable[..., str]
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 30 * S, 20 * MS), lambda t: 100_000)
    store.run("r1", t1=None)
    store.stage("r1", "s1", "train", T0 + S, None, counts={"label": 1})
    root = store.write()
    live = store.live(["samples", "runs_log", "stages_log"], T0 + 5 * S)
    store.rows.pop("open_stages")
    store.stage("r1", "s1", "train", T0 + S, None, counts={"label": 77})
    body = tail_of(store, {"samples": live["samples"]}, T0 + 5 * S)
    daemon(root, body | {"live": live})
    with open_reader(root) as reader:
        assert reader.sql("SELECT unit, total_n FROM counts").fetchall() == [("label", 77)]
        assert reader.sql("SELECT counts FROM raw_stages_log").fetchall() == [('{"label": 77}',)]


def test_a_run_that_is_closed_in_the_live_file_and_opened_again_by_a_late_child_keeps_its_own_row(
    store: Store, daemon: Callable[..., str]
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 30 * S, S), lambda t: 100_000)
    store.run("r1", name="train", client="creator")
    root = store.write()
    live = store.live(["samples", "runs_log"], T0 + 5 * S)
    store.rows.pop("runs_log")
    store.run("r1", name="r1", t0=T0 + 20 * S, t1=None, client=None)
    daemon(root, tail_of(store, {"samples": live["samples"]}, T0 + 5 * S) | {"live": live})
    with open_reader(root) as reader:
        assert reader.sql("SELECT name, status FROM runs").fetchall() == [("train", "ok")]


def test_a_file_that_vanished_since_the_reply_is_asked_for_again(
    store: Store, daemon: Callable[..., str]
) -> None:
    root = hours(store, 1).write(HOUR + 1)
    good = tail_of(store, {}, T0 + HOUR_NS)
    stale = good | {"live": {"samples": "live/samples-gone.1.parquet"}}
    daemon(root, stale, good)
    check_whole(root, store, "daemon")


def test_a_file_that_vanishes_between_two_queries_is_asked_for_again(
    store: Store, daemon: Callable[..., str]
) -> None:
    root = hours(store, 1).write(HOUR + 1)
    cut = T0 + HOUR_NS + 600 * S
    live = store.live(["samples"], cut)
    daemon(root, tail_of(store, live, cut), tail_of(store, {}, T0 + HOUR_NS))
    with open_reader(root) as reader:
        n = reader.sql("SELECT count(*) FROM samples").fetchall()
        (root / live["samples"]).unlink()
        assert reader.sql("SELECT count(*) FROM samples").fetchall() == n == [(len(store.samples),)]


def test_a_sealed_file_that_is_gone_for_good_is_an_error_not_a_smaller_answer(
    store: Store, daemon: Callable[..., str]
) -> None:
    root = hours(store, 1).write(HOUR + 1)
    body = tail_of(store, {}, T0 + HOUR_NS)
    (root / body["sealed"]["samples"][0]).unlink()
    daemon(root, body)
    with open_reader(root) as reader:
        assert reader.sql("SELECT run_id FROM runs ORDER BY 1").fetchall() == [("new",), ("old",)]
        with pytest.raises(StoreUnreadable, match=r"\.parquet"):
            reader.sql("SELECT max(t_ns) FROM samples")


def test_a_reader_without_a_daemon_does_not_keep_one_from_starting(store: Store) -> None:
    root = hours(store, 1).write(HOUR + 1)
    with open_reader(root) as reader:
        fd = os.open(root / "lock", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with duckdb.connect(root / "hot.duckdb") as con:
            con.execute("DELETE FROM samples")
        os.close(fd)
        assert reader.sql("SELECT count(*) FROM samples").fetchall() == [(len(store.samples),)]


def test_rows_that_lie_in_the_write_ahead_log_of_a_killed_daemon_are_read(store: Store) -> None:
    root = hours(store, 1).write(HOUR + 1)
    script = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        f"c.execute('INSERT INTO samples VALUES (0, {T0 + 2 * HOUR_NS}, 7, 8)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, root / "hot.duckdb"], check=False)
    assert (root / "hot.duckdb.wal").exists()
    with open_reader(root) as reader:
        assert reader.newest_t_ns == T0 + 2 * HOUR_NS


def test_a_store_that_was_moved_or_lacks_its_lock_still_answers(store: Store, tmp_path: Path) -> None:
    root = hours(store, 1).write(HOUR + 1)
    (root / "lock").unlink()
    moved = tmp_path / "it's [moved]*"
    shutil.move(root, moved)
    check_whole(moved, store, "files")


def test_a_daemon_that_holds_the_lock_but_is_silent_is_named(
    store: Store, daemon: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energyd.store.tail.ANSWER_WITHIN_S", 0.5)
    monkeypatch.setattr("energyd.store.tail.ASK_TIMEOUT_S", 0.3)
    root = hours(store, 1).write(HOUR + 1)
    endpoint = daemon(root, mode="silent")
    with pytest.raises(DaemonUnresponsive, match=r"does not answer") as caught:
        open_reader(root)
    assert endpoint in str(caught.value)


def test_a_daemon_that_is_still_starting_is_waited_for(store: Store, daemon: Callable[..., str]) -> None:
    """It locks before it listens: a reader in between must not fail."""
    root = hours(store, 1).write(HOUR + 1)
    daemon(root, tail_of(store, {}, T0 + HOUR_NS), mode="late")
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(_source(root)))
    waiting.start()
    (root / "go").touch()
    waiting.join(30)
    assert found == ["daemon"]


def _source(root: Path) -> str:
    with open_reader(root) as reader:
        return reader.source


def test_a_path_with_nothing_and_a_folder_that_is_no_store_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="there is nothing"):
        open_reader(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotFound, match="not a folder"):
        open_reader(tmp_path / "file")
    with pytest.raises(StoreNotFound, match=r"neither hot\.duckdb nor sealed"):
        open_reader(tmp_path)


def test_a_damaged_hot_file_is_named_not_skipped(store: Store) -> None:
    root = hours(store, 1).write(HOUR + 1)
    hot = root / "hot.duckdb"
    hot.write_bytes(b"\0" * 4096 + hot.read_bytes()[4096:])
    with pytest.raises(StoreUnreadable, match="cannot read the store"):
        open_reader(root)


def test_malformed_sql_is_one_error_with_its_line_and_the_reader_goes_on(store: Store) -> None:
    with open_reader(hours(store, 0).write()) as reader:
        with pytest.raises(QueryMalformed, match="SELEC 1"):
            reader.sql("SELEC 1")
        with pytest.raises(QueryMalformed, match="nope"):
            reader.sql("SELECT nope FROM samples")
        with pytest.raises(QueryFailed, match="Could not convert"):
            reader.sql("SELECT 'x'::INTEGER").fetchall()
        assert reader.sql("SELECT 1").fetchall() == [(1,)]


def test_what_a_query_changes_stays_in_its_own_process(store: Store) -> None:
    root = hours(store, 0).write()
    before = (root / "hot.duckdb").read_bytes()
    with open_reader(root) as reader:
        reader.sql("CREATE TABLE mine AS SELECT 1 AS x")
        with pytest.raises(QueryFailed):
            reader.sql("CREATE TABLE hot.mine AS SELECT 1 AS x")
        assert reader.sql("FROM mine").fetchall() == [(1,)]
    assert (root / "hot.duckdb").read_bytes() == before


def test_the_copy_of_the_hot_file_is_gone_after_the_reader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hours(store, 0).write()
    scratch = root.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with open_reader(root):
        assert list(scratch.iterdir())
    assert not list(scratch.iterdir())
