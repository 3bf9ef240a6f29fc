"""Is what was committed there once, whatever is killed, and is a sealed hour exactly its rows?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from energyd.energy import Appended, Totals
from energyd.store import HOUR_NS, Layout, hour_of_sealed
from energyd.store.columns import schema
from energyd.store.load import load
from energyd.store.quarantine import QUARANTINE
from energyd.store.write import Batch, HotStore, StoreError

HOUR = 494_000  # some hour of 2026
T0 = HOUR * HOUR_NS


def samples(t0: int, n: int, device: int = 0) -> tuple[int, Appended]:
    t = t0 + np.arange(n) * 20_000_000
    return device, Appended(t, np.full(n, 100_000, np.int32), np.arange(n) * 2_000_000)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def store(layout: Layout):
    hot = HotStore(layout)
    hot.hour(HOUR)
    yield hot
    hot.con.close()


def marker(seq: int, client: str = "c") -> tuple[object, ...]:
    return (client, seq, T0, T0, "count", "r", "s", '{"n": 1}', 0, 0, 1)


def test_every_table_takes_its_rows_with_nulls_lists_and_json(store: HotStore) -> None:
    energy = ("r", "s", 0, 1, 2, None, None, None, None, 0, None, None, None, None, "ring", ["a", "b"], "why",
              "integral", None, None, None, None)  # fmt: skip
    nothing = (*energy[:15], [], None, *energy[17:])
    run = ("r", "n", 1, None, "open", '{"seed": 0}', "{}", None, "c", 0, 1)
    store.commit(Batch(rows={"energies": [energy, nothing], "markers": [marker(1)], "runs_log": [run]}))
    assert store.fetch("SELECT flags, reason, energy_uj FROM energies") == [
        (["a", "b"], "why", None),
        ([], None, None),
    ]
    assert store.fetch("SELECT labels->>'seed' FROM runs_log") == [("0",)]


def test_an_open_row_is_replaced_and_removed_when_it_closes(store: HotStore) -> None:
    row = ("r", "s", None, "train", 1, None, 0, "open", "open", "{}", "c", 0, 1, [0, 1], [])
    store.commit(Batch(open_stages={"s": (row, "memo 1")}))
    store.commit(Batch(open_stages={"s": ((*row[:9], '{"label": 5}', *row[10:]), "memo 2")}))
    assert store.fetch("SELECT counts->>'label', devices FROM open_stages") == [("5", [0, 1])]
    assert store.fetch("SELECT memo FROM memos") == [("memo 2",)]
    store.commit(Batch(open_stages={"s": None}))
    assert store.fetch("SELECT count(*) FROM open_stages") == [(0,)]
    assert store.fetch("SELECT count(*) FROM memos") == [(0,)]


@pytest.mark.fault(
    "A daemon upgraded over an older store",
    seen="Columns that are new read NULL in older hours.",
    lost="Nothing.",
)
def test_a_store_of_an_older_release_gets_the_columns_and_tables_that_have_come_since(layout: Layout) -> None:
    old = HotStore(layout)
    old.hour(HOUR)
    old.con.execute("ALTER TABLE energies DROP COLUMN note; DROP TABLE sensors")
    old.close()
    new = HotStore(layout)
    row = ("r", "s", 0, 1, 2, *[None] * 10, [], None, "integral", 7, None, None, "odd")
    new.commit(Batch(rows={"energies": [row], "sensors": [(0, T0, "ring", "answers", *[None] * 7)]}))
    assert new.fetch("SELECT integral_uj, note FROM energies") == [(7, "odd")]
    assert new.fetch("SELECT sensor FROM sensors") == [("ring",)]
    new.con.close()


def test_a_refused_commit_writes_nothing_and_the_next_one_works(store: HotStore) -> None:
    store.con.execute("ALTER TABLE markers RENAME TO gone")
    with pytest.raises(StoreError):
        store.commit(Batch(rows={"metrics": [("r", None, 1, "m", 1.0, None)], "markers": [marker(1)]}))
    store.con.execute("ALTER TABLE gone RENAME TO markers")
    assert not (store.layout.root / QUARANTINE).exists()  # no row is to blame
    assert store.fetch("SELECT count(*) FROM metrics") == [(0,)]
    store.commit(Batch(rows={"markers": [marker(2)]}))
    assert store.fetch("SELECT count(*) FROM markers") == [(1,)]


def test_sealing_moves_an_hours_samples_and_all_other_rows_and_keeps_devices(
    store: HotStore, layout: Layout
) -> None:
    device = (0, T0, "GPU-a", "gpu", "H100", "ring", "measured", 1, 2, 0, 119, None, None, 0.05)
    batch = Batch(
        samples=[samples(T0 + HOUR_NS - 100_000_000, 10)],
        rows={"markers": [marker(k) for k in range(5)], "devices": [device]},
        clients={"c": 4},
        now_ns=T0,
    )
    store.commit(Batch(clients={"long silent": 9}, now_ns=T0 - 8 * 86_400_000_000_000))
    store.commit(batch)
    sealed = store.seal(HOUR, HOUR + 1)
    assert sealed["samples"] == layout.sealed("samples", HOUR)
    assert hour_of_sealed(sealed["samples"]) == HOUR
    with duckdb.connect() as con:
        count = f"SELECT count(*) FROM '{layout.root / sealed['samples']}'"
        assert con.execute(count).fetchone() == (5,)
        assert con.execute(count.replace("samples", "markers")).fetchone() == (5,)
    assert store.fetch("SELECT count(*), min(t_ns) FROM samples") == [(5, T0 + HOUR_NS)]
    assert store.fetch("SELECT count(*) FROM markers") == [(0,)]
    assert store.fetch("SELECT count(*) FROM devices") == [(1,)]
    assert store.fetch("FROM clients") == [("c", 4, T0)]
    assert store.meta("hour") == str(HOUR + 1)


def test_a_sealed_hour_lies_by_device_and_time_though_commits_brought_devices_in_turn(
    store: HotStore, layout: Layout
) -> None:
    for k in range(40):
        batch = [(d, samples(T0 + k * 200_000_000, 10)[1]) for d in (2, 0, 1)]
        store.commit(Batch(samples=batch))
    store.seal(HOUR, HOUR + 1)
    rows = store.con.execute(
        "SELECT device, t_ns FROM read_parquet(?)", [str(layout.root / layout.sealed("samples", HOUR))]
    ).fetchall()
    assert len(rows) == 1_200
    assert rows == sorted(rows)


def test_a_sealed_file_of_an_hour_that_was_not_committed_is_removed_at_start(
    store: HotStore, layout: Layout
) -> None:
    store.commit(Batch(samples=[samples(T0, 10)]))
    store.seal(HOUR, HOUR + 1)
    good = layout.root / layout.sealed("samples", HOUR)
    torn = layout.root / layout.sealed("samples", HOUR + 1)
    torn.write_bytes(good.read_bytes())
    loaded = load(layout, store, "boot", HOUR + 1)
    assert loaded.sealed == {"samples": [layout.sealed("samples", HOUR)]}
    assert not torn.exists()


def test_what_an_earlier_daemon_left_is_taken_over(store: HotStore, layout: Layout) -> None:
    device = (0, T0, "GPU-a", "gpu", "H100", "ring", "measured", 20, 100, 0, 119, None, None, 0.05)
    gap = (0, T0, T0 + 5, "late", None)
    store.commit(
        Batch(
            samples=[samples(T0, 10)],
            rows={"devices": [device], "gaps": [gap], "markers": [marker(7)]},
            clients={"c": 7, "d": 3},
            totals={0: Totals(t_ns=T0 + 180_000_000, power_mw=100_000, cum_uj=18_000_000, n=10, holes=1)},
        )
    )
    loaded = load(layout, store, "boot", HOUR)
    stored = loaded.devices[0]
    assert (stored.uuid, stored.max_step_ns, len(stored.t_ns), stored.totals.n) == ("GPU-a", 100, 10, 10)
    assert stored.gaps[0].bridged_uj is None
    assert loaded.last_seq == {"c": 7, "d": 3}
    assert loaded.newest_t_ns == T0 + 180_000_000


def test_a_client_whose_journal_tells_its_number_is_written_at_the_seal_and_one_refused_at_once(
    store: HotStore, layout: Layout
) -> None:
    first = [marker(k) for k in (1, 2)]
    store.commit(Batch(rows={"markers": first}, clients={"c": 2, "refused": 5}, now_ns=T0))
    assert store.fetch("FROM clients") == [("refused", 5, T0)]
    store.commit(Batch(rows={"markers": [marker(3)]}, clients={"c": 4, "refused": 6}, now_ns=T0))
    assert load(layout, store, "boot", HOUR).last_seq == {"c": 4, "refused": 6}  # 4 was refused too
    store.commit(Batch(rows={"markers": [marker(5)]}, clients={"c": 5}, now_ns=T0 + 1))
    assert load(layout, store, "boot", HOUR).last_seq == {"c": 5, "refused": 6}
    store.seal(HOUR, HOUR + 1)
    assert sorted(store.fetch("FROM clients")) == [("c", 5, T0 + 1), ("refused", 6, T0)]


def test_the_seal_writes_what_only_the_markers_of_a_daemon_that_was_killed_tell(
    store: HotStore, layout: Layout
) -> None:
    store.commit(Batch(rows={"markers": [marker(1), marker(2)]}, clients={"c": 2}, now_ns=T0))
    store.commit(Batch(rows={"markers": [marker(3, "d")]}, clients={"d": 4}, now_ns=T0))
    store.close_as_is()
    second = HotStore(layout)
    second.commit(Batch(rows={"markers": [marker(1, "new")]}, clients={"new": 1}, now_ns=T0))
    second.seal(HOUR, HOUR + 1)  # neither of the first two has said a word meanwhile
    second.close_as_is()
    third = HotStore(layout)
    assert load(layout, third, "boot", HOUR + 1).last_seq == {"c": 2, "d": 4, "new": 1}
    third.con.close()


CHILD = """
import sys, numpy as np
from pathlib import Path
from energyd.energy import Appended
from energyd.store import HOUR_NS, Layout
from energyd.store.write import Batch, HotStore
store = HotStore(Layout(Path(sys.argv[1])))
hour = store.hour(int(sys.argv[2]))
both = "(SELECT seq FROM clients UNION ALL SELECT seq FROM markers)"  # as energyd.store.load asks
(seq,) = store.fetch(f"SELECT coalesce(max(seq), 0) FROM {both}")[0]
while True:
    t = hour * HOUR_NS + seq * 1_000_000 + np.arange(50) * 1000
    rows = [("c", seq + k, 1, 1, "count", "r", "s", "{}", 0, 0, 1) for k in range(1, 21)]
    added = Appended(t, np.full(50, 7, np.int32), np.arange(50))
    last = {"c": seq + 20}
    store.commit(Batch(samples=[(0, added)], rows={"markers": rows}, clients=last, now_ns=int(t[0])))
    seq += 20
    print(seq, flush=True)
    if seq % 400 == 0:
        hour_now = hour + 1
        store.seal(hour, hour_now)
        hour = hour_now
        print("sealed", flush=True)
"""


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_writer_killed_again_and_again_loses_no_commit_and_doubles_none(layout: Layout) -> None:
    rng = np.random.default_rng(5)
    told = 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(layout.root), str(HOUR)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(int(rng.integers(5, 60))):
            line = child.stdout.readline()
            assert line, "the writer died by itself"
            told = told if line.startswith("sealed") else int(line)
        child.kill()
        rest = child.stdout.read().split()
        told = max([told, *(int(word) for word in rest if word.isdigit())])
        child.wait()
        child.stdout.close()
    store = HotStore(layout)
    loaded = load(layout, store, "boot", HOUR)
    files = [str(layout.root / f) for f in loaded.sealed["markers"]]
    (sealed,) = duckdb.execute("SELECT count(*) FROM read_parquet(?)", [files]).fetchall()
    seqs = duckdb.execute("SELECT seq FROM read_parquet(?)", [files]).fetchall()
    seqs += store.fetch("SELECT seq FROM markers")
    store.con.close()
    found = sorted(s for (s,) in seqs)
    assert sealed[0] > 0
    assert found == list(range(1, len(found) + 1))
    assert told <= len(found) <= told + 20  # at most one commit was durable and not yet told


def test_every_column_of_the_schema_can_be_written_and_read(store: HotStore) -> None:
    sample = {"UTINYINT": 1, "SMALLINT": 2, "INTEGER": 3, "BIGINT": 2**62, "DOUBLE": 0.5, "VARCHAR": "x\x00'"}
    sample |= {"JSON": "{}", "UTINYINT[]": [1], "VARCHAR[]": ["y"]}
    for table, columns in schema().items():
        row = tuple(sample[kind] for _, kind in columns)
        empty = tuple(None for _ in columns)
        store.commit(Batch(rows={table: [row, empty]}))
        assert sorted(store.fetch(f"FROM {table}"), key=str) == sorted([row, empty], key=str)


def test_a_row_that_no_column_takes_goes_to_the_quarantine_and_the_others_get_in(store: HotStore) -> None:
    far, odd = marker(2), (*marker(3)[:8], 2**40, 0, 1)  # a uid beyond the column
    text = ("c", 4, T0, "when?", *marker(4)[4:])
    run = ("r", "n", 1, None, "open", "{no JSON", "{}", None, "c", 0, 1)
    store.commit(
        Batch(
            samples=[samples(T0, 10)], rows={"markers": [marker(1), far, odd, text]},
            open_runs={"r": run}, clients={"c": 4}, now_ns=T0,
        )
    )  # fmt: skip
    assert store.fetch("SELECT seq FROM markers ORDER BY seq") == [(1,), (2,)]
    assert store.fetch("SELECT count(*) FROM samples") == [(10,)]
    assert store.fetch("SELECT seq FROM clients") == [(4,)]
    assert store.quarantined == 3
    told = [json.loads(line) for line in (store.layout.root / QUARANTINE).read_text().splitlines()]
    assert [line["table"] for line in told] == ["markers", "markers", "open_runs"]
    assert all(line["why"] for line in told)
    assert str(2**40) in told[0]["row"]
    assert "'{no JSON'" in told[2]["row"]
    store.commit(Batch(rows={"markers": [marker(5)]}))
    assert store.quarantined == 3
