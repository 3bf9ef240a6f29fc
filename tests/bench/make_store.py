"""How does a benchmark get a store of hundreds of millions of samples? Generated, every energy known.

    python tests/bench/make_store.py FOLDER --devices 8 --hz 50 --days 6 --stages 10000 [--thin-days 365]

Power is a square wave of steps with noise, as training gives it; `cum_uj` is its trapezoid in whole µJ. The
energies of all stages are computed here with numpy, so that SQL's own integration has something to be held
against. `--thin-days` puts that many days at 1 s before the raw ones, as retention leaves them; months that
are over are made one file by the daemon's own upkeep.
"""

from __future__ import annotations

import argparse
import datetime as dt
import secrets
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from energyd.config import Keep
from energyd.store import DAY_FILE, HOUR_NS, TABLES, THIN_FILE, Layout
from energyd.store.base import ROW_GROUP
from energyd.store.columns import schema
from energyd.store.durable import copy_parquet
from energyd.store.live import GRACE_S
from energyd.store.upkeep import Upkeep
from energyd.store.write import Batch, HotStore

S = 1_000_000_000
DAY_NS = 24 * HOUR_NS
END_DAY = 20_600  # days since the epoch; any will do


def power(rng: np.random.Generator, n: int, hz: float) -> Any:
    """n power readings in mW: levels that hold for about 3 s, and noise of 2 W that is often repeated."""
    holds = max(1, int(3 * hz))
    levels = rng.integers(90_000, 700_000, n // holds + 2)
    steps = np.repeat(levels, holds)[:n]
    return (steps + rng.integers(-2_000, 2_000, n) // 100 * 100).astype(np.int32)


def device_day(rng: np.random.Generator, day: int, hz: float, last: tuple[int, int, int] | None) -> Any:
    """(t_ns, power_mw, cum_uj) of one device and day, going on from its last sample (t, mW, µJ)."""
    n = int(86_400 * hz)
    step = int(S / hz)
    t = day * DAY_NS + np.arange(n, dtype=np.int64) * step + rng.integers(0, step // 20 + 1, n)
    p = power(rng, n, hz)
    t_all = t if last is None else np.concatenate([[last[0]], t])
    p_all = p if last is None else np.concatenate([[last[1]], p])
    step_uj = (p_all[:-1].astype(np.int64) + p_all[1:]) * np.diff(t_all) // 2_000_000
    cum = np.concatenate([[0 if last is None else last[2]], step_uj]).cumsum()
    return t, p, cum if last is None else cum[1:]


def edge_uj(at: Any, t: Any, p: Any, cum: Any) -> Any:
    """The running integral at instants inside a day, µJ: the step's shape scaled to the stored step."""
    i = np.clip(np.searchsorted(t, at, "right") - 1, 0, len(t) - 2)
    u, d = (at - t[i]).astype(float), (t[i + 1] - t[i]).astype(float)
    pa, pb = p[i].astype(float), p[i + 1].astype(float)
    share = (pa * u + (pb - pa) * u * u / (2 * d)) / ((pa + pb) * d / 2)
    return cum[i] + np.rint((cum[i + 1] - cum[i]) * share).astype(np.int64)


def stage_edges(rng: np.random.Generator, first_day: int, days: int, n: int) -> tuple[Any, Any]:
    """Begin and end of n stages of 0.1 s to 1,000 s; none touches the first or last second of a day."""
    length = (10 ** rng.uniform(-1, 3, n) * S).astype(np.int64)
    begin = rng.integers(first_day, first_day + days, n) * DAY_NS
    begin += S + (rng.uniform(0, 1, n) * (DAY_NS - 2 * S - length)).astype(np.int64)
    order = np.argsort(begin)
    return begin[order], (begin + length)[order]


def folder(root: Path, table: str, day: int) -> Path:
    name = (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
    path = root / "sealed" / table / f"day={name}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(con: duckdb.DuckDBPyConnection, arrays: dict[str, Any], query: str, path: Path) -> None:
    con.register("arrays", arrays)
    copy_parquet(con, query, path, ROW_GROUP)
    con.unregister("arrays")


def make(root: Path, devices: int, hz: float, days: int, n_stages: int, thin_days: int = 0) -> int:
    """Write the store; the number of samples in it."""
    rng = np.random.default_rng(4)
    first = END_DAY - days
    con = duckdb.connect(config={"threads": 1})
    con.execute("SET enable_progress_bar = false")
    last: list[tuple[int, int, int] | None] = [None] * devices
    t0, t1 = stage_edges(rng, first, days, n_stages)
    energy = np.zeros((devices, n_stages), np.int64)
    samples = 0
    for day in range(first - thin_days, END_DAY):
        raw = day >= first
        parts = []
        mine = t0 // DAY_NS == day
        for device in range(devices):
            t, p, cum = device_day(rng, day, hz if raw else 1.0, last[device])
            last[device] = (int(t[-1]), int(p[-1]), int(cum[-1]))
            energy[device, mine] = edge_uj(t1[mine], t, p, cum) - edge_uj(t0[mine], t, p, cum)
            parts.append((np.full(len(t), device, np.uint8), t, p, cum))
        names = ("device", "t_ns", "power_mw", "cum_uj")
        arrays = {name: np.concatenate([x[i] for x in parts]) for i, name in enumerate(names)}
        samples += len(arrays["t_ns"])
        path = folder(root, "samples", day) / (DAY_FILE if raw else THIN_FILE)
        write(con, arrays, "SELECT device, t_ns, power_mw, cum_uj FROM arrays", path)
        # A store that ran all year has a file a day of every table: opening it must stay cheap.
        for table in set(TABLES) - {"samples", "runs_log"}:
            empty = ", ".join(f"NULL::{kind} AS {name}" for name, kind in schema()[table])
            write(con, {"x": t[:1]}, f"SELECT {empty} WHERE false", folder(root, table, day) / DAY_FILE)
        if mine.any():
            write_stages(con, root, day, np.flatnonzero(mine), t0, t1, energy, devices)
    run = {"t0": np.array([t0[0]]), "t1": np.array([t1.max()])}
    columns = "'r' AS run_id, 'bench' AS name, t0::BIGINT AS t0_ns, t1::BIGINT AS t1_ns, 'ok' AS status"
    more = "'{}'::JSON AS labels, '{}'::JSON AS env, NULL::VARCHAR AS git_commit, 'c' AS client"
    more += ", 0 AS uid, 0 AS pid"
    write(con, run, f"SELECT {columns}, {more} FROM arrays", folder(root, "runs_log", END_DAY - 1) / DAY_FILE)
    con.close()
    hot(root, devices, hz, first - thin_days)
    keep_up(root)
    return samples


def keep_up(root: Path) -> None:
    """Whatever a daemon's upkeep would do by now, the grace of what it replaces included."""
    now = 0.0
    upkeep = Upkeep(Layout(root), Keep(raw_s=None, all_s=None, max_bytes=None), clock=lambda: now)
    idle = 0
    while idle < 3:
        now += 2 * GRACE_S
        upkeep.step(END_DAY * DAY_NS, END_DAY * 24)
        idle = idle + 1 if upkeep._child is None else 0
        if upkeep._child is not None:
            upkeep._child.wait()


def write_stages(
    con: duckdb.DuckDBPyConnection,
    root: Path,
    day: int,
    which: Any,
    t0: Any,
    t1: Any,
    energy: Any,
    devices: int,
) -> None:
    """One day's stages and their energies."""

    def typed(table: str, values: dict[str, str]) -> str:
        return ", ".join(f"({values.get(n, 'NULL')})::{kind} AS {n}" for n, kind in schema()[table])

    stage = {
        "run_id": "'r'", "stage_id": "'s' || n", "name": "'step'", "t0_ns": "t0", "t1_ns": "t1",
        "doubt_ns": "0", "status": "'ok'", "state": "'final'", "counts": "'{}'", "client": "'c'",
        "devices": f"range({devices})", "flags": "[]",
    }  # fmt: skip
    arrays = {"n": which, "t0": t0[which], "t1": t1[which]}
    query = f"SELECT {typed('stages_log', stage)} FROM arrays"
    write(con, arrays, query, folder(root, "stages_log", day) / DAY_FILE)
    cost = {
        "run_id": "'r'", "stage_id": "'s' || n", "device": "d", "t0_ns": "t0", "t1_ns": "t1",
        "energy_uj": "e", "integral_uj": "e", "self_uj": "e", "exclusive_uj": "e", "overlap_ns": "0",
        "coverage": "1", "source": "'ring'", "flags": "[]", "method": "'integral'",
    }  # fmt: skip
    many = np.repeat(which, devices)
    arrays = {
        "n": many, "d": np.tile(np.arange(devices, dtype=np.uint8), len(which)), "t0": t0[many],
        "t1": t1[many], "e": energy[:, which].T.ravel(),
    }  # fmt: skip
    query = f"SELECT {typed('energies', cost)} FROM arrays"
    write(con, arrays, query, folder(root, "energies", day) / DAY_FILE)


def hot(root: Path, devices: int, hz: float, first: int) -> None:
    """hot.duckdb with devices and domains, all days sealed."""
    t_ns = first * DAY_NS
    store = HotStore(Layout(root))
    store.hour(END_DAY * 24)
    facts = {
        "t_ns": t_ns, "domain": "gpu", "name": "bench", "source": "ring", "origin": "measured",
        "period_ns": int(S / hz), "max_step_ns": int(5 * S / hz), "lag_ns": 0, "accuracy": 0.05,
    }  # fmt: skip
    rows = [facts | {"device": d, "uuid": f"GPU-{d}"} for d in range(devices)]
    batch = Batch(
        rows={
            "devices": [tuple(r.get(c) for c, _ in schema()["devices"]) for r in rows],
            "domains": [(t_ns, "gpu", "measured", "ring", None), (t_ns, "cpu", "absent", None, "bench")],
            "boots": [(secrets.token_hex(4), t_ns, 0, "bench", "bench", "0")],
        }
    )
    store.commit(batch)
    store.close()
    Layout(root).lock.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--hz", type=float, default=50)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--thin-days", type=int, default=0)
    asked = parser.parse_args()
    asked.root.mkdir(parents=True)
    began = time.monotonic()
    n = make(asked.root, asked.devices, asked.hz, asked.days, asked.stages, asked.thin_days)
    size = sum(p.stat().st_size for p in (asked.root / "sealed" / "samples").rglob("*.parquet"))
    print(f"{n:,} samples, {size / n:.2f} bytes each, {size / 1e9:.2f} GB, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
