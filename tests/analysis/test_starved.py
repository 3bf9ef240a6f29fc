"""Does the starved share say for how much of a training its device idled, or why nobody can tell?"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader
from energyq.commands import run

IDLE_MW, BUSY_MW = 70_000, 500_000


def defined(t_ns: list[int], power_mw: list[int], t0: int, t1: int, floor_w: float) -> float:
    """The share by its definition, sample by sample, for a curve without a gap."""
    t, w = np.array(t_ns), np.array(power_mw) / 1e3
    dt = np.clip(np.minimum(t, t1) - np.maximum(np.concatenate(([t[0]], t[:-1])), t0), 0, None)
    order = np.argsort(w, kind="stable")
    busy_w = w[order][np.searchsorted(np.cumsum(dt[order]) / dt.sum(), 0.95 - 1e-9)]
    return float(dt[w <= floor_w + 0.25 * (busy_w - floor_w)].sum() / dt.sum())


def starved(root: Path, runs: list[str] | None = None) -> dict[str, dict[str, Any]]:
    with open_reader(root) as reader:
        rows = reader.sql("FROM raw_starved_totals($runs::VARCHAR[])", {"runs": runs}).dicts()
    return {f"{r['run_id']} {r['stage_id']}": r for r in rows}


def waiting(t_ns: int) -> int:
    """Idle at first, then three seconds of work in every ten."""
    return IDLE_MW if t_ns < T0 + 10 * S or t_ns // S % 10 >= 3 else BUSY_MW


@pytest.fixture
def loaded(store: Store) -> Store:
    """One GPU that waits for its loader, and one run on it that idled first."""
    store.device(0)
    store.power(0, range(T0, T0 + 120 * S, 20 * MS), waiting)
    store.run("r1", "kd")
    store.stage("r1", "idle", "prerun.idle", T0 + S, T0 + 9 * S)
    store.stage("r1", "train", "student.train", T0 + 10 * S, T0 + 110 * S)
    return store


def test_the_share_is_that_of_the_definition_for_any_curve(store: Store) -> None:
    dice = np.random.default_rng(3)
    t_ns = [T0 + int(x) for x in np.cumsum(dice.integers(5 * MS, 90 * MS, 2_000))]
    power_mw = [int(x) for x in dice.choice([IDLE_MW, 130_000, 300_000, BUSY_MW], 2_000)]
    store.device(0)
    store.power(0, t_ns, dict(zip(t_ns, power_mw, strict=True)).__getitem__)
    t0, t1 = t_ns[100] + 3 * MS, t_ns[1_800] - 2 * MS
    with open_reader(store.write()) as reader:
        for floor_w in (70.0, 120.0):
            (share,) = reader.sql(f"SELECT starved_share(0, {t0}, {t1}, {floor_w})").fetchall()[0]
            assert share == pytest.approx(defined(t_ns, power_mw, t0, t1, floor_w), abs=1e-9)
            assert 0.2 < share < 0.6


def test_a_training_that_waits_seven_seconds_in_ten_is_starved_by_the_runs_own_idle_stage(
    loaded: Store,
) -> None:
    (row,) = starved(loaded.write()).values()
    assert row["starved_share"] == pytest.approx(0.7, abs=0.01)
    assert (row["floor_w"], row["floor_by"]) == (pytest.approx(70), "prerun.idle")


def test_without_an_idle_stage_the_floor_is_the_devices_low_quantile(loaded: Store) -> None:
    loaded.run("r2", "sft")
    loaded.stage("r2", "train", "student.train", T0 + 10 * S, T0 + 110 * S)
    row = starved(loaded.write(), ["r2"])["r2 train"]
    assert (row["floor_by"], row["floor_w"]) == ("low quantile", pytest.approx(70))
    assert row["starved_share"] == pytest.approx(0.7, abs=0.01)


def test_a_device_that_never_idled_has_no_floor_and_so_no_share_but_a_reason(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 60 * S, 20 * MS), lambda t: BUSY_MW + t // (20 * MS) % 7)
    store.run("r1")
    store.stage("r1", "s", "student.train", T0 + S, T0 + 50 * S)
    (row,) = starved(store.write()).values()
    assert (row["starved_share"], row["starved_reason"]) == (None, "no idle floor: the device never idled")


def test_time_without_samples_counts_neither_as_idle_nor_as_busy(store: Store) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 20 * S, 20 * MS), lambda t: IDLE_MW if t < T0 + 15 * S else BUSY_MW)
    store.after_gap(0, T0 + 60 * S, BUSY_MW, 10**9)
    store.power(0, range(T0 + 60 * S + 20 * MS, T0 + 65 * S, 20 * MS), lambda t: BUSY_MW)
    with open_reader(store.write()) as reader:
        query = f"SELECT starved_share(0, {T0 + 10 * S}, {T0 + 65 * S - 20 * MS}, 70.0)"
        assert reader.sql(query).fetchall()[0][0] == pytest.approx(1 / 3, abs=0.01)  # 5 s of 15 s


def test_the_share_outlives_thinning_to_one_sample_a_second(loaded: Store) -> None:
    whole = starved(loaded.write())["r1 train"]["starved_share"]
    loaded.samples = [s for s in loaded.samples if s[1] % S == S - 20 * MS]
    loaded.root = loaded.root.with_name("thinned")
    assert starved(loaded.write())["r1 train"]["starved_share"] == pytest.approx(whole, abs=0.02)


def test_gpus_tell_it_and_a_training_on_the_cpu_alone_has_no_share_but_a_reason(loaded: Store) -> None:
    loaded.device(1, "cpu", max_step_ns=3 * S, period_ns=S)
    loaded.power(1, range(T0, T0 + 120 * S, S), lambda t: 20_000 if t % (10 * S) else 100_000)
    loaded.run("r2")
    for run_id, devices in (("r1", [0, 1]), ("r2", [1])):
        loaded.stage(run_id, f"{run_id}i", "prerun.idle", T0 + S, T0 + 9 * S, devices=devices)
        loaded.stage(run_id, f"{run_id}t", "student.train", T0 + 10 * S, T0 + 110 * S, devices=devices)
    found = starved(loaded.write())
    assert found["r1 r1t"]["starved_share"] == pytest.approx(0.7, abs=0.01)
    assert (found["r2 r2t"]["starved_share"], found["r2 r2t"]["floor_w"]) == (None, None)
    assert found["r2 r2t"]["starved_reason"].startswith("no GPU: a CPU's power is the whole machine's")


def test_stages_shows_it_as_a_column_and_a_flag_in_every_format(
    loaded: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(loaded.write())
    run(["stages", "--store", root, "--format", "table"])
    shown = capsys.readouterr().out
    assert "starved %" in shown
    assert "¹ STARVED: over a quarter of its time near the idle floor" in shown
    run(["stages", "--store", root, "--format", "json"])
    told = {r["stage"]: r["starved_share"] for r in json.loads(capsys.readouterr().out)}
    assert told == {"prerun.idle": None, "student.train": pytest.approx(0.7, abs=0.01)}
    run(["stages", "--store", root, "--format", "csv"])
    rows = {r["stage"]: r["starved_share"] for r in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["prerun.idle"] == ""
    run(["stages", "--store", root, "--format", "parquet", "-o", str(tmp_path / "s.parquet")])
    kept = duckdb.sql(
        f"SELECT stage, starved_share FROM '{tmp_path / 's.parquet'}' ORDER BY stage"
    ).fetchall()
    assert kept == [("prerun.idle", None), ("student.train", told["student.train"])]
    run(["report", "kd", "--store", root, "-o", str(tmp_path / "r.html")])
    assert "STARVED: over a quarter" in (tmp_path / "r.html").read_text()
