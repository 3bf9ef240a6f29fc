"""Does `sensor_agreement` compare the integral with the counter, and only where nothing came between?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from energyd.store import TABLES
from energyd.store.base import create_views, raw_view

S = 1_000_000_000
T0 = 1_700_000_000 * S


class Reads:
    """A store in memory: one GPU at 400 W whose counter is read once a second."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con
        for table in TABLES:
            con.execute(raw_view(table, []))
            con.execute(f"CREATE TABLE t_{table} AS FROM raw_{table}")
            con.execute(f"CREATE OR REPLACE VIEW raw_{table} AS FROM t_{table}")
        create_views(con)
        self.add("devices", device=0, t_ns=T0, uuid="GPU-0", domain="gpu", source="ring")
        self.add("devices", device=1, t_ns=T0, uuid="rapl:package-0", domain="cpu", source="rapl")
        self.add("sensors", device=0, t_ns=T0, sensor="counter", state="answers", period_ns=S // 10)

    def add(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        self.con.execute(f"INSERT INTO t_{table} ({names}) VALUES ({marks})", list(values.values()))

    def reads(self, a_s: int, b_s: int, *, ratio: float = 1.0, from_mj: int = 0, watts: int = 400) -> None:
        """Counter reads at each second of [a_s, b_s]; the integral is `ratio` times the counter's."""
        for second in range(a_s, b_s + 1):
            energy_mj = from_mj + watts * 1000 * second
            self.add(
                "counters",
                device=0,
                t_ns=T0 + second * S,
                energy_mj=energy_mj,
                cum_uj=round(ratio * watts * 1_000_000 * second),
            )

    def row(self) -> dict[str, Any]:
        found = self.con.execute("FROM sensor_agreement")
        rows = [dict(zip([d[0] for d in found.description], r, strict=True)) for r in found.fetchall()]
        assert len(rows) == 1  # a CPU has no counter beside its power: it is its counter
        return rows[0]


@pytest.fixture
def store() -> Iterator[Reads]:
    con = duckdb.connect()
    yield Reads(con)
    con.close()


def test_agreement_is_the_integral_over_the_counter_and_its_doubt_is_the_counters_step(store: Reads) -> None:
    store.reads(1, 101, ratio=1.02)
    row = store.row()
    assert row["agreement"] == pytest.approx(0.02, abs=1e-6)
    assert (row["n_reads"], row["seconds"]) == (101, 100.0)
    assert row["counter_j"] == pytest.approx(40_000)
    # 0.1 s of counter step in 100 s, by 2/√6, at the integral's 408 W.
    assert row["u_agreement"] == pytest.approx(0.8165 * 0.1 * 408 / 40_000, rel=1e-3)
    assert row["reason"] is None


def test_what_lies_before_a_gap_is_left_out_even_if_the_counter_bridged_it(store: Reads) -> None:
    store.reads(1, 50, ratio=2.0)
    store.add("gaps", device=0, t0_ns=T0 + 50 * S, t1_ns=T0 + 60 * S, reason="late", bridged_uj=4_000_000_000)
    store.reads(61, 81)
    row = store.row()
    assert (row["agreement"], row["seconds"]) == (pytest.approx(0), 20.0)


def test_what_lies_before_a_counter_reset_is_left_out(store: Reads) -> None:
    store.reads(1, 50, from_mj=10**9)
    store.reads(51, 71)
    row = store.row()
    assert (row["agreement"], row["seconds"]) == (pytest.approx(0), 20.0)


def test_what_lies_before_the_newest_probe_is_left_out(store: Reads) -> None:
    store.reads(1, 50, ratio=2.0)
    store.add("devices", device=0, t_ns=T0 + 55 * S, uuid="GPU-0", domain="gpu", source="instant")
    store.reads(56, 76)
    row = store.row()
    assert (row["agreement"], row["seconds"], row["source"]) == (pytest.approx(0), 20.0, "instant")


def test_only_the_last_ten_minutes_count(store: Reads) -> None:
    store.reads(1, 1000)
    assert store.row()["seconds"] == 600.0


def test_reads_that_no_samples_surround_do_not_count(store: Reads) -> None:
    store.add("counters", device=0, t_ns=T0 + S, energy_mj=1, cum_uj=None)
    store.reads(2, 12)
    assert store.row()["n_reads"] == 11


def test_without_two_reads_the_agreement_is_null_with_a_reason(store: Reads) -> None:
    store.reads(1, 1)
    row = store.row()
    assert row["agreement"] is None
    assert "fewer than two" in row["reason"]


def test_a_gpu_without_a_counter_says_so(store: Reads) -> None:
    store.add(
        "sensors", device=0, t_ns=T0 + 1, sensor="counter", state="absent", reason="not supported (NVML 3)"
    )
    row = store.row()
    assert row["agreement"] is None
    assert row["reason"] == "no counter: not supported (NVML 3)"


def test_a_counter_whose_step_is_not_known_leaves_the_doubt_null_and_says_so(store: Reads) -> None:
    store.add("sensors", device=0, t_ns=T0 + 1, sensor="counter", state="answers")
    store.reads(1, 11)
    row = store.row()
    assert row["agreement"] == pytest.approx(0)
    assert row["u_agreement"] is None
    assert "not known" in row["reason"]
