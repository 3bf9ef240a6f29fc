"""What waits in memory while the store refuses commits, and what goes first when that is too much?

Samples go, oldest first: the running integral knows what they cost, so that a gap `unstored` stands for them
which is bridged unless there was a hole in it. Of what explains them (counters, conditions …) the oldest rows
go too. Markers stay: each client keeps what is not acknowledged in its spool, and the credit bounds how much
of it is here. What stages cost stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from energyd.energy import Appended, DeviceLog
from energyd.store.write import Batch

MAX_SAMPLES: Final = 1_440_000
"""An hour of 8 GPUs at 50 Hz."""
MAX_ROWS: Final = 200_000
"""Of each table of raw rows; 7 hours of 8 GPUs."""
KEEP_SHARE: Final = 0.9
"""What is kept when there is too much, so that not every commit has to drop."""
RAW: Final = ("counters", "conditions", "shares", "clocks")
REASON: Final = "unstored"


def shorten(
    batch: Batch,
    logs: Mapping[int, DeviceLog],
    committed: Mapping[int, int],
    max_samples: int = MAX_SAMPLES,
    max_rows: int = MAX_ROWS,
) -> int:
    """Drop the oldest samples and raw rows beyond the bounds; how many samples.

    `committed`: newest sample of each device that is stored.
    """
    for table in RAW:
        rows = batch.rows.get(table, [])
        if len(rows) > max_rows:
            batch.rows[table] = rows[-int(max_rows * KEEP_SHARE) :]
    waiting = sum(len(added.t_ns) for _, added in batch.samples)
    if waiting <= max_samples:
        return 0
    every = np.sort(np.concatenate([added.t_ns for _, added in batch.samples]))
    since_ns = int(every[waiting - int(max_samples * KEEP_SHARE)])
    kept: list[tuple[int, Appended]] = []
    for device in dict.fromkeys(device for device, _ in batch.samples):
        mine = [added for d, added in batch.samples if d == device]
        kept.append((device, _device(batch, device, mine, logs[device], committed.get(device), since_ns)))
    batch.samples = kept
    return waiting - sum(len(added.t_ns) for _, added in kept)


def _device(
    batch: Batch, device: int, mine: list[Appended], log: DeviceLog, stored_ns: int | None, since_ns: int
) -> Appended:
    """One device's samples from an instant on (and at least its last), with a gap before them."""
    t, p, c = (np.concatenate([getattr(a, name) for a in mine]) for name in ("t_ns", "power_mw", "cum_uj"))
    first = min(int(np.searchsorted(t, since_ns)), len(t) - 1)
    before = [] if stored_ns is not None else [0]  # its very first sample stays: the gap begins there
    if first <= len(before):
        return Appended(t, p, c)
    t0 = int(t[0]) if stored_ns is None else stored_ns
    t1 = int(t[first])
    inside = [g for g in batch.rows.get("gaps", ()) if g[0] == device and t0 <= g[1] and g[2] <= t1]
    holed = any(gap[4] is None for gap in inside)
    cum_before = log.cum_at(t0)
    bridged = None if holed or cum_before is None else int(c[first]) - cum_before
    batch.rows["gaps"] = [g for g in batch.rows.get("gaps", ()) if g not in inside]
    batch.rows["gaps"].append((device, t0, t1, REASON, bridged))
    log.drop(t0, t1)
    keep = [*before, *range(first, len(t))]
    return Appended(t[keep], p[keep], c[keep])
