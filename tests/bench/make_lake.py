"""A lake of any size, whose rows follow from its size: which energies would a fleet leave behind?

    python tests/bench/make_lake.py FOLDER [--hosts 64] [--devices 8] [--days 30]

One sample a second of each device, as `--ship 1s --ship-each day` leaves them; four runs a day of each group
of eight hosts, each of five stages on every host. Energies are those of the samples, to the microjoule.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from energyd.store.base import quoted
from energyd.store.columns import casts, schema, to_numpy
from energyd.store.lake import host_file
from energyd.store.lake_told import fingerprint

DAY_S: Final = 86_400
S: Final = 1_000_000_000
FIRST_DAY: Final = 20_393  # 2025-11-01
GROUP: Final = 8  # hosts of one run
STAGES: Final = {"prerun": 300, "preprocess": 1_500, "train": 16_000, "evaluate": 1_800, "export": 1_200}
RUNS_A_DAY: Final = 4


def host_name(number: int) -> str:
    return f"node{number:04}"


def make(lake: Path, hosts: int, devices: int, days: int) -> int:
    """Write it; the number of samples."""
    lake.mkdir(parents=True, exist_ok=True)
    written = 0
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("SET enable_progress_bar = false")
        for host in range(hosts):
            if not (lake / host_file(host_name(host))).exists():
                _host(con, lake, host, devices, days)
            written += devices * days * DAY_S
    return written


def _host(con: duckdb.DuckDBPyConnection, lake: Path, host: int, devices: int, days: int) -> None:
    random = np.random.default_rng(host)
    total = np.zeros(devices, np.int64)
    told = FIRST_DAY * DAY_S * S
    facts = {"t_ns": told, "domain": "gpu", "name": "a GPU", "source": "ring", "origin": "measured",
             "period_ns": 20_000_000, "max_step_ns": 100_000_000, "lag_ns": 0, "accuracy": 0.05}  # fmt: skip
    rows = [facts | {"device": d, "uuid": f"GPU-{host}-{d}"} for d in range(devices)]
    _write(con, lake, "devices", host, 0, rows)
    states = [{"t_ns": told, "domain": "gpu", "state": "measured", "source": "ring"}]
    states += [{"t_ns": told, "domain": domain, "state": "absent"} for domain in ("cpu", "dram")]
    _write(con, lake, "domains", host, 0, states)
    for day in range(days):
        t_ns = (np.int64((FIRST_DAY + day) * DAY_S) + np.arange(DAY_S)) * S
        power = (350_000 + 250_000 * random.random((devices, DAY_S))).astype(np.int32)
        cum = total[:, None] + np.cumsum(power.astype(np.int64) * 1000, axis=1)
        total = cum[:, -1]
        fresh = {
            "device": np.repeat(np.arange(devices, dtype=np.uint8), DAY_S),
            "t_ns": np.tile(t_ns, devices), "power_mw": power.ravel(), "cum_uj": cum.ravel(),
        }  # fmt: skip
        _copy(
            con,
            "SELECT device, t_ns, power_mw, cum_uj FROM fresh",
            _path(lake, "samples", host, day),
            "fresh",
            fresh,
        )
        _stages(con, lake, host, day, t_ns, cum)
    about = {"hostname": host_name(host), "version": "bench", "schemas": [fingerprint()], "clock_s": 0.0,
             "clock_doubt_s": 0.1, "shipped_until_hour": (FIRST_DAY + days) * 24}  # fmt: skip
    file = lake / host_file(host_name(host))
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(about))


def _stages(con: duckdb.DuckDBPyConnection, lake: Path, host: int, day: int, t_ns: Any, cum: Any) -> None:
    runs, stages, energies = [], [], []
    for k in range(RUNS_A_DAY):
        run, at = f"run-{day:03}-{k}-{host // GROUP:03}", k * DAY_S // RUNS_A_DAY + 60
        began = at
        for name, seconds in STAGES.items():
            a, b = int(t_ns[at]), int(t_ns[at + seconds])
            stage = f"{run}-{name}-{host:04}"
            stages.append({
                "run_id": run, "stage_id": stage, "name": name, "t0_ns": a, "t1_ns": b, "status": "ok",
                "state": "final", "counts": '{"label": 1000000}', "devices": list(range(len(cum))),
                "flags": [],
            })  # fmt: skip
            for device in range(len(cum)):
                uj = int(cum[device, at + seconds] - cum[device, at])
                energies.append({
                    "run_id": run, "stage_id": stage, "device": device, "t0_ns": a, "t1_ns": b,
                    "energy_uj": uj,
                    "self_uj": uj, "exclusive_uj": uj, "overlap_ns": 0, "coverage": 1.0, "n_samples": seconds,
                    "u_random_uj": uj // 1000, "u_total_uj": uj // 20, "source": "ring", "flags": [],
                    "method": "integral", "integral_uj": uj,
                })  # fmt: skip
            at += seconds
        runs.append({
            "run_id": run, "name": f"pipeline-{k}", "t0_ns": int(t_ns[began]), "t1_ns": int(t_ns[at]),
            "status": "ok", "labels": "{}", "client": "c" if host % GROUP == 0 else None,
        })  # fmt: skip
    for table, rows in (("runs_log", runs), ("stages_log", stages), ("energies", energies)):
        _write(con, lake, table, host, day, rows)


def _path(lake: Path, table: str, host: int, day: int) -> Path:
    date = np.datetime64(FIRST_DAY + day, "D")
    return lake / table / f"host={host_name(host)}" / f"day={date}" / "day.parquet"


def _write(
    con: duckdb.DuckDBPyConnection, lake: Path, table: str, host: int, day: int, rows: list[dict[str, Any]]
) -> None:
    columns = schema()[table]
    fresh = to_numpy(columns, [tuple(row.get(name) for name, _ in columns) for row in rows])
    _copy(con, f"SELECT {casts(columns)} FROM fresh", _path(lake, table, host, day), "fresh", fresh)


def _copy(con: duckdb.DuckDBPyConnection, query: str, path: Path, name: str = "", fresh: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if name:
        con.register(name, fresh)
    con.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet, PARQUET_VERSION V2, COMPRESSION zstd)")
    if name:
        con.unregister(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--days", type=int, default=30)
    asked = parser.parse_args()
    began = time.monotonic()
    samples = make(asked.folder, asked.hosts, asked.devices, asked.days)
    print(f"{samples / 1e6:.0f} M samples in {time.monotonic() - began:.0f} s")
