"""What stands for a sealed hour that is set aside: does a gap say what the integral knows, and no more?"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from energyd.energy import Appended, Totals
from energyd.store import DROPPED, HOUR_NS, Layout, month_of, sums
from energyd.store.columns import schema
from energyd.store.load import load
from energyd.store.read import open_reader
from energyd.store.salvage import open_hot
from energyd.store.sealed import damaged_files
from energyd.store.sums import forget, missing, place
from energyd.store.upkeep_files import UpkeepFailed, compact
from energyd.store.write import Batch, HotStore, StoreError

HOUR = 494_000
S = 1_000_000_000


def hour_of(hour: int, gaps: list[tuple[int, int, int, str, int | None]]) -> Batch:
    """100 W from 10 minutes after the hour to its last second, a sample a second."""
    t = np.arange(hour * HOUR_NS + 600 * S, (hour + 1) * HOUR_NS, S)
    cum = (t - HOUR * HOUR_NS) // S * 100_000_000
    facts = {"device": 0, "t_ns": int(t[0]), "uuid": "GPU-0", "domain": "gpu", "max_step_ns": 2 * S}
    device = tuple(facts.get(name) for name, _ in schema()["devices"])
    added = Appended(t, np.full(len(t), 100_000, np.int32), cum)
    return Batch(samples=[(0, added)], rows={"devices": [device], "gaps": list(gaps)}, now_ns=int(t[-1]))


def between(hour: int) -> tuple[int, int]:
    """The silence before an hour's first sample."""
    return hour * HOUR_NS - S, hour * HOUR_NS + 600 * S


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Three sealed hours and one that is not; each silence but the first is bridged."""
    layout = Layout(tmp_path)
    store = HotStore(layout)
    store.hour(HOUR)
    for hour in range(HOUR, HOUR + 4):
        uj = 601 * 100_000_000
        store.commit(hour_of(hour, [(0, *between(hour), "daemon_down", uj)] if hour > HOUR else []))
        if hour < HOUR + 3:
            store.seal(hour, hour + 1)
    store.close()
    return layout


def told(layout: Layout, t0: int, t1: int) -> tuple[float | None, list[tuple[object, ...]]]:
    """Energy of a window, and the gaps for what is lost."""
    with open_reader(layout.root) as reader:
        energy = reader.sql("SELECT energy_j(0, $a, $b)", {"a": t0, "b": t1}).fetchall()[0][0]
        gaps = reader.sql(
            "SELECT t0_ns, t1_ns, bridged_uj FROM gaps WHERE reason = 'store_damaged'"
        ).fetchall()
    return energy, gaps


def ruin(layout: Layout, table: str, hour: int) -> None:
    (layout.root / layout.sealed(table, hour)).write_bytes(b"")
    store, mended = open_hot(layout)
    store.close()
    assert any(f"sealed/{table}" in line for line in mended.said)


def test_a_lost_hour_of_samples_is_bridged_by_the_integral_on_both_sides(layout: Layout) -> None:
    over = ((HOUR + 1) * HOUR_NS - 10 * S, (HOUR + 2) * HOUR_NS + 700 * S)
    whole, _ = told(layout, *over)
    ruin(layout, "samples", HOUR + 1)
    energy, gaps = told(layout, *over)
    assert energy == pytest.approx(whole)
    t0, t1 = (HOUR + 1) * HOUR_NS - S, (HOUR + 2) * HOUR_NS + 600 * S
    assert gaps == [(t0, t1, (t1 - t0) // S * 100_000_000)]
    ruin(layout, "samples", HOUR + 2)  # the next one too: what is between the two is one gap more
    assert told(layout, *over)[0] == pytest.approx(whole)


def test_a_lost_hour_with_a_hole_in_it_is_a_hole(layout: Layout) -> None:
    store = HotStore(layout)
    t0 = (HOUR + 1) * HOUR_NS + 1800 * S
    store.commit(Batch(rows={"gaps": [(0, t0, t0 + 60 * S, "late", None)]}))
    store.close()
    ruin(layout, "samples", HOUR + 1)
    energy, gaps = told(layout, (HOUR + 1) * HOUR_NS - 10 * S, (HOUR + 2) * HOUR_NS + 700 * S)
    assert energy is None
    assert [bridged for *_, bridged in gaps] == [None]


def test_beside_a_lost_file_thinned_seconds_are_no_gaps(layout: Layout) -> None:
    """The hour before is thinned to every other second, as an old day is; the device's step is shorter."""
    old, hour = layout.root / layout.sealed("samples", HOUR), HOUR * HOUR_NS
    thin = old.parent.with_name("day=2026-05-09") / "thin.parquet"
    thin.parent.mkdir()
    with duckdb.connect() as con:
        con.execute(f"COPY (FROM '{old}' WHERE (t_ns // {S}) % 2 = 1) TO '{thin}' (FORMAT parquet)")
    old.unlink()
    store = HotStore(layout)
    facts = {
        "device": 0,
        "t_ns": hour + 4 * HOUR_NS,
        "uuid": "GPU-0",
        "domain": "gpu",
        "max_step_ns": 3 * S // 2,
    }
    store.commit(Batch(rows={"devices": [tuple(facts.get(name) for name, _ in schema()["devices"])]}))
    store.close()
    ruin(layout, "samples", HOUR + 1)
    _, gaps = told(layout, hour, hour + HOUR_NS)
    assert [(t0, t1) for t0, t1, _ in gaps] == [((HOUR + 1) * HOUR_NS - S, (HOUR + 2) * HOUR_NS + 600 * S)]


def test_the_newest_day_is_checked_at_a_start_also_where_another_table_ends_in_a_month(
    layout: Layout,
) -> None:
    month = layout.root / "sealed" / "metrics" / "month=2026-04"
    month.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT 1 AS x) TO '{month / 'month.parquet'}' (FORMAT parquet)")
    path = layout.root / layout.sealed("samples", HOUR + 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert [d.relative for d in damaged_files(layout, thorough=False)] == [layout.sealed("samples", HOUR + 2)]


def open_again(layout: Layout) -> list[str]:
    """What the next opening has to say."""
    store, mended = open_hot(layout)
    store.close()
    return mended.said


def test_a_deleted_hour_is_missed_once_and_bridged_by_the_integral(layout: Layout) -> None:
    over = ((HOUR + 1) * HOUR_NS - 10 * S, (HOUR + 2) * HOUR_NS + 700 * S)
    whole, _ = told(layout, *over)
    gone = layout.sealed("samples", HOUR + 1)
    (layout.root / gone).unlink()
    said = open_again(layout)
    assert said[0] == f"{gone} is gone: it was written, and nothing stands for it"
    energy, gaps = told(layout, *over)
    t0, t1 = (HOUR + 1) * HOUR_NS - S, (HOUR + 2) * HOUR_NS + 600 * S
    assert gaps == [(t0, t1, (t1 - t0) // S * 100_000_000)]
    assert energy == pytest.approx(whole)
    assert open_again(layout) == []


def test_where_the_very_first_samples_are_gone_the_gap_begins_with_the_device(layout: Layout) -> None:
    for hour in (HOUR, HOUR + 1):
        (layout.root / layout.sealed("samples", hour)).unlink()
    assert len(open_again(layout)) == 3
    declared, left = HOUR * HOUR_NS + 600 * S, (HOUR + 2) * HOUR_NS + 600 * S
    assert told(layout, declared, left)[1] == [(declared, left, None)]


def test_where_the_last_samples_are_gone_the_gap_ends_where_the_totals_do(layout: Layout) -> None:
    last = (HOUR + 4) * HOUR_NS - S
    store = HotStore(layout)
    store.commit(Batch(totals={0: Totals(t_ns=last, power_mw=100_000, cum_uj=14_399 * 100_000_000)}))
    store.seal(HOUR + 3, HOUR + 4)
    store.close()
    (layout.root / layout.sealed("samples", HOUR + 3)).unlink()
    assert len(open_again(layout)) == 2
    before = (HOUR + 3) * HOUR_NS - S
    assert told(layout, before, last)[1] == [(before, last, 3_600 * 100_000_000)]


@pytest.mark.fault(
    "A damaged list of sums (sealed/sums)",
    seen="Nothing: a line that is none is passed over.",
    lost="Its file is not checked against its sum, and not missed.",
)
def test_a_damaged_list_of_sums_keeps_no_store_from_opening(layout: Layout) -> None:
    for target in (layout.root / "sealed" / "sums").glob("*.sha256"):
        lines = target.read_text().splitlines(keepends=True)
        flips = [lines[0].replace("day=20", "day=2p"), lines[0].replace("-", "-9", 1)]
        flips += [lines[0].replace("sealed/", "sealed"), lines[0].replace("/", "", 2), "\0" * 200 + "\n"]
        target.write_text("".join([*flips, "0" * 64 + "  sealed/gaps/month=2026-13/month.parquet\n", *lines]))
    assert open_again(layout) == []
    assert missing(layout.root, LATER) == []


LATER = HOUR + 24 * 40


def test_files_that_others_stand_for_or_that_were_too_old_are_not_missed(layout: Layout) -> None:
    hours = [layout.sealed("samples", HOUR + k) for k in range(3)]
    day = Path(hours[0]).parts[2]
    assert compact(layout.root, "samples", day)
    for hour in hours:  # as after the grace of open readers
        (layout.root / hour).unlink()
    assert missing(layout.root, LATER) == []
    whole = layout.root / "sealed" / "samples" / day / "day.parquet"
    whole.unlink()
    assert missing(layout.root, LATER) == [str(whole.relative_to(layout.root))]
    whole.with_name(DROPPED).touch()
    assert missing(layout.root, LATER) == []
    (layout.root / layout.sealed("gaps", HOUR + 1)).unlink()
    assert missing(layout.root, HOUR + 1) == []  # of a seal that died: its rows are not let go of yet
    assert missing(layout.root, LATER) == [layout.sealed("gaps", HOUR + 1)]


def test_of_a_lost_month_neither_its_days_nor_their_hours_are_missed(layout: Layout) -> None:
    day = layout.root / layout.sealed("gaps", HOUR + 1)
    folder = day.parent.name
    month = layout.root / "sealed" / "gaps" / month_of(folder) / "month.parquet"
    month.parent.mkdir()
    for final in (day.with_name("day.parquet"), month):  # a kill before either had its name
        place(layout.root, str(final.relative_to(layout.root)), Path(shutil.copy(day, layout.root / "tmp")))
        final.unlink()
    assert missing(layout.root, LATER) == []
    shutil.rmtree(day.parent)
    assert missing(layout.root, LATER) == [str(month.relative_to(layout.root))]
    month.touch()
    assert missing(layout.root, LATER) == []
    month.unlink()
    forget(layout.root, "gaps", month_of(folder))
    assert missing(layout.root, LATER) == []


TIDIES = """
import sys
from pathlib import Path
from energyd.store.sums import forget, place
root = Path(sys.argv[1])
for n in range(60):
    final = root / "sealed/gaps/day=2026-05-10" / f"{n}.parquet"
    final.parent.mkdir(parents=True, exist_ok=True)
    tmp = root / "theirs"
    tmp.touch()
    place(root, str(final.relative_to(root)), tmp)
    final.unlink()
    print(n, flush=True)
    forget(root, "gaps", "day=2026-05-10")  # rewrites the list
"""


def test_what_one_process_seals_stays_listed_while_another_tidies_the_same_list(tmp_path: Path) -> None:
    folder = tmp_path / "sealed" / "samples" / "day=2026-05-10"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", TIDIES, str(tmp_path)]
    placed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        for said in other.stdout:  # about to rewrite the list
            tmp = tmp_path / "ours"
            tmp.touch()
            placed.append(folder / f"{said.strip()}.parquet")
            place(tmp_path, str(placed[-1].relative_to(tmp_path)), tmp)
    assert other.returncode == 0
    listed = (tmp_path / "sealed" / "sums" / "2026-05-10.sha256").read_text().splitlines()
    assert sorted(line.split()[1] for line in listed) == sorted(str(f.relative_to(tmp_path)) for f in placed)
    assert len(placed) == 60


def test_a_process_stopped_amid_the_lists_delays_a_seal_but_does_not_hang_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "WAIT_S", 0.05)
    store = HotStore(layout)
    with (layout.root / "sealed" / "sums" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"sums/.lock was not free for 0.05 s"):
            store.seal(HOUR + 3, HOUR + 4)
    assert set(store.seal(HOUR + 3, HOUR + 4)) >= {"samples", "gaps"}
    store.close()


def test_no_day_is_made_of_fewer_hours_than_were_written(layout: Layout) -> None:
    gone = layout.root / layout.sealed("samples", HOUR + 1)
    gone.unlink()
    with pytest.raises(UpkeepFailed, match=r"is gone; cure: stop, then `energyd recover`"):
        compact(layout.root, "samples", gone.parent.name)
    open_again(layout)
    assert compact(layout.root, "samples", gone.parent.name)


def test_where_a_table_of_gaps_is_lost_a_long_step_is_taken_for_a_hole(layout: Layout) -> None:
    window = ((HOUR + 2) * HOUR_NS - 10 * S, (HOUR + 2) * HOUR_NS + 700 * S)
    ruin(layout, "gaps", HOUR + 2)
    energy, gaps = told(layout, *window)
    assert energy is None
    assert gaps == [(*between(HOUR + 2), None)]
    elsewhere = ((HOUR + 1) * HOUR_NS - 10 * S, (HOUR + 1) * HOUR_NS + 700 * S)
    assert told(layout, *elsewhere)[0] == pytest.approx(71_000)


def test_an_old_hot_file_put_back_costs_no_sealed_hour(layout: Layout, tmp_path: Path) -> None:
    store = HotStore(layout)
    store.set_meta("hour", str(HOUR + 1))  # as it was two seals ago, without the rows of since
    store.con.execute(f"DELETE FROM samples; DELETE FROM gaps WHERE t1_ns > {(HOUR + 1) * HOUR_NS}")
    store.close()
    before = {p: p.read_bytes() for p in (tmp_path / "sealed").glob("*/day=*/*.parquet")}
    store, mended = open_hot(layout)
    assert any("sealed" in line for line in mended.said)
    loaded = load(layout, store, "boot", HOUR)
    store.close()
    assert {p: p.read_bytes() for p in (tmp_path / "sealed").glob("*/day=*/*.parquet")} == before
    assert len(loaded.sealed["samples"]) == 3
    assert loaded.devices[0].totals.t_ns == (HOUR + 3) * HOUR_NS - S  # goes on after the newest sealed sample
    assert loaded.devices[0].totals.cum_uj == (3 * 3600 - 1) * 100_000_000


def test_a_salvage_cut_short_between_old_and_new_begins_again_from_what_is_aside(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HotStore(layout)
    (samples,) = store.fetch("SELECT count(*), max(cum_uj) FROM samples")
    store.set_meta("hour", str(HOUR + 1))  # older than the sealed hours: to be made anew
    store.close()

    def killed(self: Path, target: Path) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as cut:
        cut.setattr(Path, "replace", killed)
        with pytest.raises(StoreError, match="killed here"):
            open_hot(layout)
    assert not layout.hot.exists()
    store, _ = open_hot(layout)
    assert store.fetch("SELECT count(*), max(cum_uj) FROM samples") == [samples]
    store.close()
