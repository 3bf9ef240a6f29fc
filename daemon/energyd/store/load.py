"""What did earlier daemons leave in this store? Everything a starting one takes over."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from energyd.energy import Gap, Totals
from energyd.roughness import I32, I64, NONE
from energyd.store import Layout, hour_of_sealed, is_hour_file
from energyd.store.base import sealed_files
from energyd.store.live import newest_live_t_ns
from energyd.store.write import HotStore

log = logging.getLogger("energyd")


@dataclass
class StoredDevice:
    """A device as the store knows it: totals, and its samples and gaps of the unsealed hour."""

    uuid: str
    max_step_ns: int
    totals: Totals
    t_ns: I64
    power_mw: I32
    cum_uj: I64
    gaps: list[Gap]


@dataclass
class Loaded:
    """The state of a store at the start of a daemon."""

    devices: dict[int, StoredDevice]
    runs: list[dict[str, Any]]
    stages: list[tuple[dict[str, Any], str | None]]  # row of open_stages, memo
    last_seq: dict[str, int]
    sealed: dict[str, list[str]]
    boot_offset_ns: int | None
    same_boot: bool  # the last daemon ran in this boot
    newest_t_ns: int | None


def load(layout: Layout, store: HotStore, boot_id: str, current_hour: int) -> Loaded:
    """Read the state; remove sealed files of hours that were not committed as sealed."""
    hour = store.hour(current_hour)
    sealed = _sealed_files(layout, hour)
    devices = _devices(store)
    newest = max((d.totals.t_ns for d in devices.values() if d.totals.t_ns is not None), default=None)
    live = newest_live_t_ns(layout)
    boots = store.fetch("SELECT boot_id, offset_ns FROM boots ORDER BY t_ns")
    offsets = dict(boots)
    last_seq = dict(store.fetch("SELECT client, seq FROM clients"))
    for client, seq in store.fetch(
        "SELECT client, max(seq) FROM markers WHERE seq IS NOT NULL GROUP BY client"
    ):
        last_seq[client] = max(seq, last_seq.get(client, 0))
    memos = dict(store.fetch("SELECT stage_id, memo FROM memos"))
    lost = live if live is not None and (newest is None or live > newest) else None
    if lost is not None:
        log.error("store: hot.duckdb ends before a live file: its write-ahead log was damaged")
    return Loaded(
        devices=devices,
        runs=store.fetch_dicts("open_runs"),
        stages=[(row, memos.get(row["stage_id"])) for row in store.fetch_dicts("open_stages")],
        last_seq=last_seq,
        sealed=sealed,
        boot_offset_ns=offsets.get(boot_id),
        same_boot=bool(boots) and boots[-1][0] == boot_id,
        newest_t_ns=max((t for t in (newest, live) if t is not None), default=None),
    )


def _sealed_files(layout: Layout, hour: int) -> dict[str, list[str]]:
    """Sealed files by table. One of an hour not yet sealed is a torn attempt: its rows are in hot.duckdb."""
    for path in (layout.root / "sealed").glob("*/*=*/*"):
        torn = is_hour_file(path.name) and hour_of_sealed(str(path.relative_to(layout.root))) >= hour
        if torn or path.suffix == ".tmp":
            path.unlink()
    return {table: paths for table, paths in sealed_files(layout.root, hour).items() if paths}


def _devices(store: HotStore) -> dict[int, StoredDevice]:
    newest = "arg_max(uuid, t_ns), arg_max(max_step_ns, t_ns)"
    rows = store.fetch(f"SELECT device, {newest} FROM devices GROUP BY device ORDER BY device")
    totals = {d: _totals(json.loads(s)) for d, s in store.fetch("SELECT device, state FROM totals")}
    gaps: dict[int, list[Gap]] = {}
    for device, *gap in store.fetch(
        "SELECT device, t0_ns, t1_ns, reason, bridged_uj FROM gaps ORDER BY t0_ns"
    ):
        gaps.setdefault(device, []).append(Gap(*gap))
    found = {}
    for device, uuid, max_step_ns in rows:
        arrays = store.con.execute(
            "SELECT t_ns, power_mw, cum_uj FROM samples WHERE device = ? ORDER BY t_ns", [device]
        ).fetchnumpy()
        found[device] = StoredDevice(
            uuid,
            max_step_ns,
            totals.get(device, Totals()),
            np.asarray(arrays["t_ns"], np.int64),
            np.asarray(arrays["power_mw"], np.int32),
            np.asarray(arrays["cum_uj"], np.int64),
            gaps.get(device, []),
        )
    return found


def _totals(packed: dict[str, Any]) -> Totals:
    sums = {name: tuple(packed.get(name, NONE)) for name in ("rough", "read_rough")}
    return Totals(**{**packed, **sums})
