"""Does a store stay right while it grows old: days made one file, thinned, dropped, killed in between?"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analysis.energy_store import HOUR, MS, T0, S, Store
from energyd.config import ConfigError, Keep, resolve
from energyd.store import DAY_FILE, HOUR_NS, KEPT, MONTH_FILE, TABLES, THIN_FILE, Layout
from energyd.store.base import sealed_files
from energyd.store.catalogue import write_catalogue
from energyd.store.columns import schema
from energyd.store.load import load
from energyd.store.read import open_reader
from energyd.store.sums import missing, place
from energyd.store.upkeep import STEP_S, Upkeep
from energyd.store.write import HotStore
from real_daemon import wait_for

MIDNIGHT = T0 - T0 % (24 * HOUR_NS) + 24 * HOUR_NS
DAY = "day=2025-11-24"
FOREVER = Keep(raw_s=None, all_s=None, max_bytes=None)
END = HOUR + 12  # all below is sealed; midnight was at HOUR + 8


def wave(t: int) -> int:
    """100 to 400 W in mW: a saw-tooth of 0.7 s, so that no second is like another."""
    return 100_000 + (t - T0) % (700 * MS) * 300_000 // (700 * MS)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two devices at 50 Hz: two minutes by day, with gaps and stages, and two over midnight; all sealed."""
    made = Store(tmp_path_factory.mktemp("pristine") / "store")
    for device in (0, 1):
        made.device(device)
        made.power(device, range(T0, T0 + 60 * S, 20 * MS), wave)
        made.after_gap(device, T0 + 60 * S + 333 * MS, 250_000, 90_000_000 if device else None)
        made.power(device, range(T0 + 60 * S + 340 * MS, T0 + 120 * S, 20 * MS), wave)
        made.after_gap(device, MIDNIGHT - 60 * S + 7, 300_000, 10**9, "suspend")
        made.power(device, range(MIDNIGHT - 60 * S + 27 * MS, MIDNIGHT + 60 * S, 20 * MS), wave)
    for table in ("devices", "gaps"):
        made.rows[table] = [(HOUR, row) for _, row in made.rows[table]]
    made.run("r", t1=MIDNIGHT + 60 * S, hour=HOUR + 8)
    edges = [
        (T0 + 3 * S + 1, T0 + 3 * S + 31 * MS), (T0 + 5 * S + 5 * MS, T0 + 48 * S + 990 * MS),
        (T0 + 50 * S, T0 + 100 * S), (T0 + 60 * S + 100 * MS, T0 + 70 * S),
        (MIDNIGHT - 20 * S - 3 * MS, MIDNIGHT + 7 * S + 11), (MIDNIGHT - 9 * S, MIDNIGHT - 1),
        (MIDNIGHT + 1, MIDNIGHT + 30 * S),
    ]  # fmt: skip
    for i, (t0, t1) in enumerate(edges):
        hour = t1 // HOUR_NS
        made.stage("r", f"s{i}", "step", t0, t1, hour=hour, counts={"label": i}, flags=["synced"])
    root = made.write(END)
    for path in root.glob("sealed/*/*/*.parquet"):  # as a seal does
        place(root, str(path.relative_to(root)), path)
    (root / "hot.duckdb").unlink()
    hot = HotStore(Layout(root))
    hot.hour(END)
    hot.close()
    return root


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    """That store, for one test to wear out."""
    return shutil.copytree(pristine, tmp_path / "store")


class Hours:
    """Upkeep of a store, with a clock that the test moves."""

    def __init__(self, store: Path, keep: Keep = FOREVER, hour: int = END) -> None:
        self.now, self.hour, self.store = 0.0, hour, store
        self.upkeep = Upkeep(Layout(store), keep, clock=lambda: self.now)
        self.lists: list[dict[str, list[str]]] = []

    def step(self, after_days: float = 0) -> None:
        self.now += STEP_S
        found = self.upkeep.step(self.hour * HOUR_NS + int(after_days * 24 * HOUR_NS), self.hour)
        if found is not None:
            self.lists.append(found)
        assert missing(self.store, self.hour) == []  # whatever goes, nobody takes it for a loss

    def settle(self, after_days: float = 0) -> None:
        """Until there is nothing to do, and the grace of what was replaced is over."""
        idle = 0
        while idle < 3:
            self.step(after_days)
            child = self.upkeep._child
            idle = idle + 1 if child is None else 0
            if child is not None:
                child.wait(60)
        self.now += 700
        self.step(after_days)
        self.step(after_days)


def rows(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    found = {}
    with open_reader(store) as reader:
        for table in TABLES:
            kind = "DISTINCT " if table in KEPT else ""
            columns = ", ".join(name for name, _ in schema()[table])
            found[table] = sorted(reader.sql(f"SELECT {kind}{columns} FROM raw_{table}").fetchall(), key=repr)
    return found


def energies(store: Path) -> list[tuple[Any, ...]]:
    """Every stage's energy on each device as stored and as SQL finds it in the samples that are left."""
    with open_reader(store) as reader:
        return reader.sql(
            "WITH w AS (SELECT stage_id, device, t0_ns, t1_ns, energy_j AS told_j FROM stage_energy)"
            " SELECT stage_id, device, told_j, energy_j, coverage FROM integrate('w') ORDER BY ALL"
        ).fetchall()


def files(store: Path) -> set[str]:
    return {str(p.relative_to(store / "sealed")) for p in (store / "sealed").glob("*/*=*/*")}


def test_a_day_that_is_over_becomes_one_file_a_table_with_every_row(store: Path) -> None:
    before = rows(store)
    told = energies(store)
    assert len(before["samples"]) > 20_000
    assert len(before["energies"]) == 14
    old = files(store)
    hours = Hours(store)
    hours.settle()
    assert {f for f in files(store) if DAY in f} == {
        f"{table}/{DAY}/{DAY_FILE}" for table in {f.split("/")[0] for f in old if DAY in f}
    }
    assert {f for f in files(store) if DAY not in f} == {f for f in old if DAY not in f}  # today: not over
    assert rows(store) == before
    assert energies(store) == told
    with duckdb.connect() as con:
        path = str(store / "sealed" / "samples" / DAY / DAY_FILE)
        order = con.execute("SELECT device, t_ns FROM read_parquet(?)", [path]).fetchall()
    assert order == sorted(order)


def test_a_file_goes_only_when_the_grace_after_its_last_naming_is_over(store: Path) -> None:
    old = {f for f in files(store) if DAY in f}
    hours = Hours(store)
    hours.step()
    hours.upkeep._child.wait(60)
    assert all(DAY_FILE not in p for paths in hours.lists[-1].values() for p in paths)
    while hours.lists[-1]["samples"][0].rpartition("/")[2] != DAY_FILE:
        hours.step()
    switched = hours.now
    while old <= files(store):
        hours.step()
    assert hours.now - switched >= 600
    hours.settle()
    assert not old & files(store)


def test_a_day_is_left_alone_until_the_next_days_first_hour_is_sealed(store: Path) -> None:
    hours = Hours(store, hour=HOUR + 8)
    before = files(store)
    hours.settle()
    assert files(store) == before


def test_a_file_that_stands_for_others_beside_it_shows_no_row_twice(store: Path) -> None:
    """As a kill leaves it between the rename and the unlinking."""
    before = rows(store)
    command = [sys.executable, "-m", "energyd.store.upkeep_files", str(store), DAY]
    subprocess.run(command, check=True)
    assert {p.name for p in (store / "sealed" / "samples" / DAY).iterdir()} > {DAY_FILE, "16.parquet"}
    assert rows(store) == before
    hot = HotStore(Layout(store))
    loaded = load(Layout(store), hot, "b", END)
    hot.close()
    assert loaded.sealed["samples"] == [f"sealed/samples/{DAY}/{DAY_FILE}"] + [
        f"sealed/samples/day=2025-11-25/{h:02}.parquet" for h in (0,)
    ]
    subprocess.run([*command, "--thin"], check=True)
    told = energies(store)
    assert [r[3] for r in told] == [r[2] for r in told]
    assert sealed_files(store, None)["samples"][0].endswith(THIN_FILE)


@pytest.mark.parametrize("child", ["upkeep_files", "ship_files"])
def test_a_child_that_makes_or_ships_files_loads_no_numpy(child: str) -> None:
    program = f"import sys, energyd.store.{child}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_killed_at_any_moment_it_loses_nothing_and_ends_the_same(store: Path) -> None:
    before = rows(store)
    command = [sys.executable, "-m", "energyd.store.upkeep_files", str(store), DAY]
    for table in ("samples", "gaps", "energies"):  # killed as soon as this table's file is being made
        child = subprocess.Popen(command)
        folder = store / "sealed" / table / DAY
        wait_for(lambda f=folder, c=child: any(f.glob("day*")) or c.poll() is not None, 30)
        child.kill()
        child.wait()
        assert rows(store) == before
    hot = HotStore(Layout(store))
    load(Layout(store), hot, "b", END)
    hot.close()
    assert not [f for f in files(store) if f.endswith(".tmp")]
    hours = Hours(store)
    hours.settle()
    assert rows(store) == before


def test_thinned_samples_give_every_stage_the_same_energy_to_the_microjoule(store: Path) -> None:
    told = energies(store)
    assert [r[3] for r in told] == [r[2] for r in told]
    assert None in [r[3] for r in told]  # the hole stays one
    before = rows(store)["samples"]
    Hours(store, Keep(raw_s=7 * 86_400.0, all_s=None, max_bytes=None)).settle(after_days=9)
    kept = rows(store)["samples"]
    assert set(kept) <= set(before)
    of_day = [r for r in kept if r[1] < MIDNIGHT]
    assert len(of_day) < len([r for r in before if r[1] < MIDNIGHT]) / 20
    assert {(d, t // S) for d, t, _, _ in kept} == {(d, t // S) for d, t, _, _ in before}
    assert energies(store) == told


def test_a_window_nobody_named_is_off_by_less_than_a_second_of_its_swing_once_thinned(store: Path) -> None:
    windows = (
        "SELECT (i % 2)::UTINYINT AS device, $t0 + i * 123456789 AS t0_ns, $t0 + i * 123456789 + $n AS t1_ns"
        " FROM range(60) t(i)"
    )

    def found(n: int) -> list[float]:
        with open_reader(store) as reader:
            text = windows.replace("$t0", str(T0 + S)).replace("$n", str(n))
            return [
                x for (x,) in reader.sql(f"WITH w AS ({text}) SELECT energy_j FROM integrate('w')").fetchall()
            ]

    exact = {n: found(n) for n in (100 * MS, 40 * S)}
    Hours(store, Keep(raw_s=7 * 86_400.0, all_s=None, max_bytes=None)).settle(after_days=9)
    for n, true in exact.items():
        off = [abs(a - b) for a, b in zip(true, found(n), strict=True)]
        assert 0 < max(off) < 300 * 0.5  # J: the swing of 300 W, for half a second (a quarter at each edge)


def test_old_samples_go_and_what_stages_cost_stays(store: Path) -> None:
    told = energies(store)
    Hours(store, Keep(raw_s=None, all_s=400 * 86_400.0, max_bytes=None)).settle(after_days=402)
    assert not (store / "sealed" / "samples" / DAY).exists()
    assert [r[:3] for r in energies(store)] == [r[:3] for r in told]
    left = {r[0]: r[3] for r in energies(store)}
    assert left["s1"] is None  # no sample: no energy, never 0
    assert (store / "sealed" / "energies" / DAY).exists()


def test_a_store_over_its_size_drops_its_oldest_days_first(store: Path) -> None:
    size = sum((store / p).stat().st_size for ps in sealed_files(store, None).values() for p in ps)
    keep = Keep(raw_s=None, all_s=None, max_bytes=size - 1)
    hours = Hours(store, keep, hour=END + 24)
    hours.step()
    first = [p.split("/")[2] for p in hours.lists[0]["samples"]]
    assert first == ["day=2025-11-25"]
    assert "dropped" in {p.name for p in (store / "sealed" / "samples" / DAY).iterdir()}
    hours.settle()
    assert not (store / "sealed" / "samples" / DAY).exists()
    assert sealed_files(store, None)["samples"]


def test_a_reader_that_is_open_gets_the_same_answer_before_and_after_files_are_replaced(store: Path) -> None:
    ask = "SELECT count(*), sum(power_mw), max(cum_uj) FROM samples"
    with open_reader(store) as reader:
        before = reader.sql(ask).fetchall()
        hours = Hours(store)
        hours.step()
        hours.upkeep._child.wait(60)
        hours.step()
        assert reader.sql(ask).fetchall() == before  # files of its list are all there
        hours.settle()
        assert not list((store / "sealed" / "samples" / DAY).glob("[0-9]*"))
        assert reader.sql(ask).fetchall() == before  # they are gone: it asks for the list anew


def test_a_damaged_file_is_left_where_it_is_said_and_not_tried_again_at_once(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = next((store / "sealed" / "samples" / DAY).glob("*.parquet"))
    bad.write_bytes(bad.read_bytes()[:1000])
    hours = Hours(store)
    with caplog.at_level(logging.ERROR, logger="energyd"):
        hours.settle()
    said = [r.message for r in caplog.records]
    assert len(said) == 1
    assert "upkeep of day=2025-11-24: samples: " in said[0]
    assert bad.exists()
    assert not (store / "sealed" / "samples" / DAY / DAY_FILE).exists()
    assert (store / "sealed" / "energies" / DAY / DAY_FILE).exists()


def test_an_end_ends_the_child(store: Path) -> None:
    hours = Hours(store)
    hours.step()
    child = hours.upkeep._child
    hours.upkeep.close()
    assert child.returncode is not None


MONTH = "month=2025-11"
NEXT_MONTH = HOUR + 8 + 6 * 24 + 2  # by which November is over and sealed
A_WEEK = Keep(raw_s=7 * 86_400.0, all_s=None, max_bytes=None)


def days_settled(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """November as days, one file each and thinned, and the month not yet over; its rows."""
    hot = HotStore(Layout(store))
    hot.set_meta("hour", str(NEXT_MONTH))  # all before is sealed
    hot.close()
    Hours(store, A_WEEK, hour=NEXT_MONTH - 3).settle(after_days=9)
    assert {f.split("/")[1] for f in files(store)} == {DAY, "day=2025-11-25"}
    return rows(store)


def test_a_month_that_is_over_becomes_one_file_a_table_with_every_row(store: Path) -> None:
    before = days_settled(store)
    told = energies(store)
    tables = [f.split("/")[0] for f in files(store)]
    two = {table for table in tables if tables.count(table) == 2}  # one day is one file already
    assert {"samples", "energies", "stages_log"} <= two
    hours = Hours(store, A_WEEK, hour=NEXT_MONTH)
    hours.settle(after_days=9)
    assert {f for f in files(store) if f.split("/")[0] in two} == {f"{t}/{MONTH}/{MONTH_FILE}" for t in two}
    assert rows(store) == before
    assert energies(store) == told
    assert hours.lists[-1] == {t: ps for t, ps in sealed_files(store, None).items() if ps}


def test_a_month_with_a_day_that_a_lake_is_still_owed_stays_days(store: Path) -> None:
    days_settled(store)
    before = files(store)
    state = store / "outbox" / "state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"owed": [f"energies/{DAY}"]}))
    Hours(store, A_WEEK, hour=NEXT_MONTH).settle(after_days=9)
    assert files(store) == before
    state.write_text(json.dumps({"owed": []}))
    Hours(store, A_WEEK, hour=NEXT_MONTH).settle(after_days=9)
    assert f"energies/{MONTH}/{MONTH_FILE}" in files(store)


def test_samples_that_are_not_thinned_stay_days(store: Path) -> None:
    Hours(store, hour=NEXT_MONTH).settle()
    assert {p.name for p in (store / "sealed" / "samples").iterdir()} == {DAY, "day=2025-11-25"}
    assert {p.name for p in (store / "sealed" / "energies").iterdir()} == {MONTH}


def test_a_month_beside_its_days_shows_no_row_twice(store: Path) -> None:
    """As a kill leaves it between the rename and the unlinking, and as each kind of reader sees it."""
    before = days_settled(store)
    days = files(store)
    subprocess.run([sys.executable, "-m", "energyd.store.upkeep_files", str(store), MONTH], check=True)
    assert days < files(store)
    assert rows(store) == before
    hot = HotStore(Layout(store))
    loaded = load(Layout(store), hot, "b", NEXT_MONTH)
    hot.close()
    assert loaded.sealed["samples"] == [f"sealed/samples/{MONTH}/{MONTH_FILE}"]
    write_catalogue(store, NEXT_MONTH, {})
    with duckdb.connect(str(store / "energy.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM samples").fetchall() == [(len(before["samples"]),)]


def test_half_a_month_file_counts_for_nothing_and_is_cleared_away(store: Path) -> None:
    before = days_settled(store)
    half = store / "sealed" / "samples" / MONTH / "month.4711.tmp"
    half.parent.mkdir()
    half.write_bytes(b"PAR1")
    assert rows(store) == before
    hot = HotStore(Layout(store))
    load(Layout(store), hot, "b", NEXT_MONTH)
    hot.close()
    assert not half.exists()
    Hours(store, A_WEEK, hour=NEXT_MONTH).settle(after_days=9)
    assert rows(store) == before


def test_a_reader_that_is_open_gets_the_same_answer_before_and_after_days_become_a_month(store: Path) -> None:
    days_settled(store)
    ask = "SELECT count(*), sum(power_mw), max(cum_uj) FROM samples"
    with open_reader(store) as reader:
        before = reader.sql(ask).fetchall()
        hours = Hours(store, A_WEEK, hour=NEXT_MONTH)
        hours.step(after_days=9)
        hours.upkeep._child.wait(60)
        hours.step(after_days=9)
        assert reader.sql(ask).fetchall() == before
        hours.settle(after_days=9)
        assert not (store / "sealed" / "samples" / DAY).exists()
        assert reader.sql(ask).fetchall() == before


def test_a_dropped_months_days_never_come_back(store: Path) -> None:
    """Dropped while its days still have their grace: the mark outlives them."""
    days_settled(store)
    told = energies(store)
    subprocess.run([sys.executable, "-m", "energyd.store.upkeep_files", str(store), MONTH], check=True)
    hours = Hours(store, Keep(raw_s=None, all_s=30 * 86_400.0, max_bytes=None), hour=NEXT_MONTH)
    for _ in range(20):  # the grace of the days, and of the month
        hours.step(after_days=40)
        assert rows(store)["samples"] == []
    hours.now += 700
    for _ in range(5):
        hours.step(after_days=40)
        hours.now += 3600
        assert rows(store)["samples"] == []
    assert list((store / "sealed" / "samples").iterdir()) == []
    assert [r[:3] for r in energies(store)] == [r[:3] for r in told]


def test_a_store_over_its_size_drops_what_ended_first_be_it_day_or_month(store: Path) -> None:
    days_settled(store)
    (store / "sealed" / "samples" / "day=2025-12-01").mkdir()
    first = store / "sealed" / "samples" / DAY / THIN_FILE
    shutil.copy(first, store / "sealed" / "samples" / "day=2025-12-01" / DAY_FILE)
    subprocess.run([sys.executable, "-m", "energyd.store.upkeep_files", str(store), MONTH], check=True)
    size = sum((store / p).stat().st_size for ps in sealed_files(store, None).values() for p in ps)
    hours = Hours(store, Keep(raw_s=None, all_s=None, max_bytes=size - 1), hour=NEXT_MONTH + 24)
    hours.step()
    assert hours.lists[0]["samples"] == [f"sealed/samples/day=2025-12-01/{DAY_FILE}"]


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ({}, {}, Keep()),
        ({"keep_raw": "36h", "keep": "never", "max_size": "2TB"}, {}, Keep(129_600.0, None, 2 * 10**12)),
        ({"keep_raw": "2d"}, {"ENERGYD_KEEP_RAW": "9d", "ENERGYD_MAX_SIZE": "500MB"},
         Keep(172_800.0, Keep.all_s, 5 * 10**8)),
        ({"keep_raw": "never"}, {}, Keep(None, Keep.all_s, Keep.max_bytes)),
    ],
)  # fmt: skip
def test_how_long_is_kept_is_said_by_flag_then_environment_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: Any, environment: Any, expected: Keep
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve(store=tmp_path, **flags).keep == expected


@pytest.mark.parametrize("flags", [{"keep": "7"}, {"max_size": "3 cows"}, {"keep": "0d"}, {"keep_raw": "7GB"},
                                   {"keep_raw": "9d", "keep": "8d"}])  # fmt: skip
def test_how_long_is_kept_is_refused_where_it_means_nothing(tmp_path: Path, flags: Any) -> None:
    with pytest.raises(ConfigError, match=r"--(keep|max-size)"):
        resolve(store=tmp_path, **flags)
