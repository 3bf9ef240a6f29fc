"""How does a test get a store whose every number is known? Real DuckDB and Parquet, by schema.sql."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from energyd.energy import DeviceLog, Totals
from energyd.store import HOUR_NS, TABLES, Layout
from energyd.store.columns import SCHEMA_SQL, inserted, schema, to_numpy

HOUR = 490_000
T0 = HOUR * HOUR_NS
"""The hour in which these stores begin."""
S = 1_000_000_000
MS = 1_000_000


@dataclass
class Store:
    """Collects rows, then writes them as sealed hours, live files and hot.duckdb."""

    root: Path
    logs: dict[int, DeviceLog] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    doubts: dict[int, tuple[float, float]] = field(default_factory=dict)
    """{device: (u_random, u_total)} as shares of each energy from here on; none: doubt is not stated."""
    samples: list[tuple[int, int, int, int]] = field(default_factory=list)
    rows: dict[str, list[tuple[int | None, tuple[Any, ...]]]] = field(default_factory=dict)

    def device(self, device: int, domain: str = "gpu", **own: Any) -> None:
        """One device with its newest probe."""
        facts = {
            "device": device, "t_ns": T0, "uuid": f"{domain}-{device}", "domain": domain,
            "name": f"test {domain}",
            "source": {"gpu": "ring", "cpu": "rapl", "dram": "rapl"}[domain], "origin": "measured",
            "period_ns": 20 * MS, "max_step_ns": 100 * MS, "lag_ns": 0,
        } | own  # fmt: skip
        self.add("devices", **facts)
        self.sources[device] = facts["source"]
        self.logs[device] = DeviceLog(device, facts["max_step_ns"], Totals())

    def domain(self, domain: str, state: str, source: str | None = None, reason: str | None = None) -> None:
        self.add("domains", t_ns=T0, domain=domain, state=state, source=source, reason=reason)

    def power(self, device: int, t_ns: Iterable[int], power_mw: Callable[[int], int]) -> None:
        """Samples with no gap before them."""
        t = np.array(list(t_ns), np.int64)
        p = np.array([power_mw(int(x)) for x in t], np.int32)
        self._keep(device, self.logs[device].append(t, p))

    def after_gap(
        self, device: int, t_ns: int, power_mw: int, bridged_uj: int | None, reason: str = "lost"
    ) -> None:
        """The one sample that ends a gap; what nothing bridges is a hole."""
        added = self.logs[device].append_after_gap(t_ns, power_mw, reason, bridged_uj)
        self._keep(device, added)
        gap = added.gaps[0]
        self.add(
            "gaps", device=device, t0_ns=gap.t0_ns, t1_ns=gap.t1_ns, reason=reason, bridged_uj=bridged_uj
        )

    def _keep(self, device: int, added: Any) -> None:
        columns = (added.t_ns, added.power_mw, added.cum_uj)
        self.samples += [(device, int(t), int(p), int(c)) for t, p, c in zip(*columns, strict=True)]

    def add(self, table: str, hour: int | None = None, **values: Any) -> None:
        """One row, sealed in `hour` or (None) hot. `open_runs` and `open_stages` are tables of hot.duckdb."""
        shape = {"open_runs": "runs_log", "open_stages": "stages_log"}.get(table, table)
        unknown = set(values) - {name for name, _ in schema()[shape]}
        assert not unknown, unknown
        row = tuple(values.get(name) for name, _ in schema()[shape])
        self.rows.setdefault(table, []).append((hour, row))

    def run(
        self, run_id: str, name: str = "kd", t0: int = T0, t1: int | None = T0 + 60 * S, **own: Any
    ) -> None:
        status = {"status": "open" if t1 is None else "ok"}
        hour = own.pop("hour", None)
        table = "open_runs" if t1 is None else "runs_log"
        self.add(
            table,
            hour,
            **({"run_id": run_id, "name": name, "t0_ns": t0, "t1_ns": t1, "labels": "{}"} | status | own),
        )

    def stage(self, run_id: str, stage_id: str, name: str, t0: int, t1: int | None, **own: Any) -> None:
        """A stage and, once it has ended, its energies as ingest computes them."""
        hour = own.pop("hour", None)
        devices = own.pop("devices", sorted(self.logs))
        counts = json.dumps(own.pop("counts", {}))
        state = own.pop("state", "open" if t1 is None else "final")
        flags = own.pop("energy_flags", {})
        more = own.pop("energies", {})
        table = "stages_log" if state == "final" else "open_stages"
        facts = {
            "run_id": run_id, "stage_id": stage_id, "name": name, "t0_ns": t0, "t1_ns": t1, "state": state,
            "status": "open" if t1 is None else "ok", "counts": counts, "devices": devices, "flags": [],
        } | own  # fmt: skip
        self.add(table, hour, **facts)
        if state == "final":
            assert t1 is not None
            for device in devices:
                self.energy(run_id, stage_id, device, t0, t1, flags.get(device, []), hour, **more)

    def energy(
        self,
        run_id: str,
        stage_id: str,
        device: int,
        t0: int,
        t1: int,
        flags: list[str],
        hour: int | None = None,
        **more: Any,
    ) -> None:
        """The row of `energies` that the ingest code yields for this window; `more`: columns that differ."""
        energy_uj, reason, coverage, n = self.ingest(device, t0, t1)
        doubt = {}
        if energy_uj is not None and device in self.doubts:
            random, total = (round(share * energy_uj) for share in self.doubts[device])
            doubt = {"u_random_uj": random, "u_total_uj": total}
        self.add(
            "energies", hour,
            **{"run_id": run_id, "stage_id": stage_id, "device": device, "t0_ns": t0, "t1_ns": t1,
               "energy_uj": energy_uj, "self_uj": energy_uj, "exclusive_uj": energy_uj, "overlap_ns": 0,
               "coverage": coverage, "n_samples": n, "source": self.sources[device], "flags": flags,
               "reason": reason, **doubt, **more},
        )  # fmt: skip

    def ingest(
        self, device: int, t0: int, t1: int
    ) -> tuple[int | None, str | None, float | None, int | None]:
        """(energy_uj, reason, coverage, n_samples) by energyd.energy, the code that runs in the daemon."""
        log = self.logs[device]
        a, b = log.edge_at(t0), log.edge_at(t1)
        if not hasattr(a, "e_uj") or not hasattr(b, "e_uj"):
            return None, getattr(a, "reason", "pending"), None, None
        coverage = 1 - (b.gap_ns - a.gap_ns) / (t1 - t0) if t1 > t0 else None
        if a.holes != b.holes or a.in_hole or b.in_hole:
            return None, "gap_without_counter", coverage, b.n - a.n
        return b.e_uj - a.e_uj, None, coverage, b.n - a.n

    def write(self, hour: int = HOUR, *, stale_seal: bool = False) -> Path:
        """Put everything on disk: hours below `hour` sealed, the rest in hot.duckdb.

        `stale_seal`: also the half-finished seal of `hour` itself, as a kill before its commit leaves it.
        """
        layout = Layout(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        layout.hot.write_bytes(_empty_hot())
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"ATTACH '{layout.hot}' AS hot")
            con.execute("USE hot; BEGIN")
            con.execute("INSERT INTO meta VALUES ('hour', ?), ('host_id', 'h0')", [str(hour)])
            self._fill(con, "samples", [(None, row) for row in self.samples])
            for h in sorted({r[1] // HOUR_NS for r in self.samples} | {h for _, h in self._sealed_rows()}):
                if h < hour or stale_seal:
                    self._seal(con, layout, h)
            con.execute("DELETE FROM samples WHERE t_ns < ?", [hour * HOUR_NS])
            for table, rows in self.rows.items():
                self._fill(con, table, [r for r in rows if r[0] is None])
            con.execute("COMMIT; USE memory; DETACH hot")
        layout.lock.touch()
        return self.root

    def live(self, tables: Iterable[str], before_ns: int) -> dict[str, str]:
        """Write live files of the current hour: samples before `before_ns`, other tables whole."""
        (self.root / "live").mkdir(exist_ok=True)
        found = {}
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"ATTACH '{self.root}/hot.duckdb' AS hot (READ_ONLY)")
            for table in tables:
                relative = f"live/{table}-{HOUR}.1.parquet"
                where = f" WHERE t_ns < {before_ns}" if table == "samples" else ""
                query = f"FROM hot.{table}{where}"
                if table in ("runs_log", "stages_log"):
                    query += f" UNION ALL FROM hot.open_{table[:-4]}"
                con.execute(f"COPY ({query}) TO '{self.root / relative}' (FORMAT parquet)")
                found[table] = relative
        return found

    def _sealed_rows(self) -> Iterable[tuple[str, int]]:
        return ((table, hour) for table, rows in self.rows.items() for hour, _ in rows if hour is not None)

    def _seal(self, con: duckdb.DuckDBPyConnection, layout: Layout, hour: int) -> None:
        for table in TABLES:
            source = (
                f"samples WHERE t_ns // {HOUR_NS} = {hour} ORDER BY device, t_ns"
                if table == "samples"
                else table
            )
            if table != "samples":
                self._fill(con, table, [r for r in self.rows.get(table, []) if r[0] == hour])
            if con.execute(f"SELECT 1 FROM {source.partition('ORDER')[0]} LIMIT 1").fetchone():
                path = layout.root / layout.sealed(table, hour)
                path.parent.mkdir(parents=True, exist_ok=True)
                con.execute(
                    f"COPY (FROM {source}) TO '{path}' (FORMAT parquet, PARQUET_VERSION V2, COMPRESSION zstd)"
                )
            if table != "samples":
                con.execute(f"DELETE FROM {table}")

    def _fill(
        self, con: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[int | None, tuple[Any, ...]]]
    ) -> None:
        if rows:
            columns = schema()[{"open_runs": "runs_log", "open_stages": "stages_log"}.get(table, table)]
            con.register("fresh", to_numpy(columns, [row for _, row in rows]))
            con.execute(f"INSERT INTO {table} BY NAME SELECT {inserted(columns)} FROM fresh")
            con.unregister("fresh")


@cache
def _empty_hot() -> bytes:
    """hot.duckdb without a row: its tables take longer to make than most tests' rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hot.duckdb"
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"ATTACH '{path}' AS hot (STORAGE_VERSION 'v1.2.0')")
            con.execute(f"USE hot; BEGIN; {SCHEMA_SQL}")
            con.execute("CREATE TABLE open_runs AS FROM runs_log LIMIT 0")
            con.execute("CREATE TABLE open_stages AS FROM stages_log LIMIT 0")
            con.execute("CREATE TABLE meta (k VARCHAR, v VARCHAR)")
            con.execute("COMMIT; USE memory; DETACH hot")
        return path.read_bytes()


def exact_uj(points: list[tuple[int, int]], t0: int, t1: int) -> Fraction:
    """∫P dt between two instants for power linear between (t_ns, power_mw) points, µJ, exactly."""
    total = Fraction(0)
    for (ta, pa), (tb, pb) in pairwise(points):
        a, b = max(ta, t0), min(tb, t1)
        if a < b:
            slope = Fraction(pb - pa, tb - ta)
            mean_mw = pa + slope * (Fraction(a + b, 2) - ta)
            total += mean_mw * (b - a) / 1_000_000  # mW · ns = pJ
    return total


def tail_of(store: Store, live: Mapping[str, str], after_ns: int, hour: int = HOUR) -> dict[str, Any]:
    """The answer to AskTail for this store: its sealed files, these live ones, and what is newer."""
    sealed = {
        table: [
            str(p.relative_to(store.root))
            for p in sorted((store.root / "sealed" / table).glob("day=*/*.parquet"))
        ]
        for table in TABLES
    }
    samples: dict[str, dict[str, bytes]] = {}
    for device in store.logs:
        mine = [r for r in store.samples if r[0] == device and r[1] >= after_ns]
        columns = zip(*mine, strict=True) if mine else ((), (), (), ())
        _, t, p, c = columns
        samples[str(device)] = {
            "t_ns": np.array(t, "<i8").tobytes(), "power_mw": np.array(p, "<i4").tobytes(),
            "cum_uj": np.array(c, "<i8").tobytes(),
        }  # fmt: skip
    rows: dict[str, list[list[Any]]] = {}
    for table, found in store.rows.items():
        shape = {"open_runs": "runs_log", "open_stages": "stages_log"}.get(table, table)
        fresh = [list(row) for h, row in found if h is None]
        if table not in live or shape != table:
            rows.setdefault(shape, []).extend(fresh)
    return {
        "hour": hour, "watermark_ns": after_ns, "host_id": "h0", "store": str(store.root), "sealed": sealed,
        "live": dict(live), "samples": samples, "rows": rows,
    }  # fmt: skip
