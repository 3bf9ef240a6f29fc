"""How does a test get a lake of which every number is known? Stores of known numbers, shipped for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.energy_store import HOUR, MS, T0, S, Store
from energyd.store import TABLES
from energyd.store.outbox import Outbox
from energyd.store.ship_files import Order, Outcome, ship

GPU_W, CPU_W = 100, 20


def host_store(root: Path, *, watts: int = GPU_W, run: str = "r1", more: Any = None) -> Store:
    """Two GPUs at `watts` and a CPU at 20 W for 60 s; a stage of `run` from 10 s to 30 s; all sealed."""
    store = Store(root)
    for device in (0, 1):
        store.device(device)
        store.power(device, range(T0, T0 + 60 * S, 20 * MS), lambda _: watts * 1000)
    store.device(2, "cpu")
    store.power(2, range(T0, T0 + 60 * S, 20 * MS), lambda _: CPU_W * 1000)
    store.domain("gpu", "measured", "ring")
    store.domain("cpu", "measured", "rapl")
    store.domain("dram", "absent", None, "no such domain")
    store.run(run, t1=T0 + 50 * S, client="c")
    store.stage(run, f"{run}-{root.name}", "train", T0 + 10 * S, T0 + 30 * S, counts={"label": 1000})
    if more is not None:
        more(store)
    for rows in store.rows.values():
        rows[:] = [(HOUR if hour is None else hour, row) for hour, row in rows]
    store.write(HOUR + 1)
    return store


def order(store: Path, lake: Path | str, host: str, **own: Any) -> Order:
    about = {"hostname": f"{host}.example", "version": "0.1.0"}
    return Order(str(store), host, str(lake), about=about, **own)


def send(store: Path, lake: Path | str, host: str, **own: Any) -> Outcome:
    """Collect what is sealed and ship it, as the daemon does."""
    Outbox(store).collect(HOUR + 1)
    return ship(order(store, lake, host, **own))


def rows_in(store: Store) -> int:
    return len(store.samples) + sum(len(rows) for table, rows in store.rows.items() if table in TABLES)
