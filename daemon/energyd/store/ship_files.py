"""How do the files that wait get into the lake? A process of its own, at nice 19, which the daemon can lose.

Run as `python -m energyd.store.ship_files` by `shipping.Shipper`, with an Order as JSON on its stdin; it says
what became of it as JSON on its stdout. A kill anywhere leaves what was not shipped in the outbox, or shipped
and still in the outbox, which the next one finds in the lake under its name.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb

from energyd.store.base import first_line
from energyd.store.lake import LakeError, LakeRefused, LakeTaken, Segment, address, host_file
from energyd.store.lake_files import Lake, open_lake
from energyd.store.lake_keys import read_keys
from energyd.store.lake_thin import thin_segment
from energyd.store.lake_told import fingerprint, told_by
from energyd.store.outbox import THINNED, Outbox, Waiting
from energyd.store.sums import altered

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Order:
    """What is to be shipped, and where to. Holds no credential."""

    store: str
    host: str
    lake: str
    keys: str | None = None  # the file with them
    samples: str = "raw"  # or 1s
    about: dict[str, Any] = field(default_factory=dict)  # what hosts/host=….json says of us


@dataclass
class Outcome:
    """What became of it."""

    files: int = 0
    bytes: int = 0
    refused: list[str] = field(default_factory=list)  # why, one by one
    error: str | None = None  # why it ended before all was done
    for_good: bool = False  # and trying again will not help
    clock_s: float | None = None  # the wall clock here less the lake's
    clock_doubt_s: float | None = None


def ship(order: Order) -> Outcome:
    """Put everything that waits into the lake. Raises nothing that a lake or a disk can do."""
    done = Outcome()
    outbox = Outbox(Path(order.store))
    try:
        lake = open_lake(address(order.lake), read_keys(Path(order.keys) if order.keys else None))
        until = 0
        for waiting in outbox.waiting():
            _ship_one(order, outbox, lake, waiting, done)
            until = max(until, waiting.end_hour)
        if done.files:
            _tell(order, lake, until, done)
    except LakeError as error:
        done.error, done.for_good = str(error), isinstance(error, LakeRefused)
    except (OSError, duckdb.Error) as error:
        done.error = f"cannot ship from {outbox.root}: {first_line(error)}"
    return done


def _ship_one(order: Order, outbox: Outbox, lake: Lake, waiting: Waiting, done: Outcome) -> None:
    sealed = f"sealed/{waiting.relative}"
    if not waiting.name.endswith(THINNED) and (Path(order.store) / sealed).exists():
        why = altered(Path(order.store), sealed)  # a flipped bit would pass for what was measured
        if why is not None:
            outbox.refuse(waiting)
            done.refused.append(f"{sealed} {why}; cure: stop, then `energyd recover`")
            return
    if order.samples == "1s" and waiting.table == "samples" and not waiting.name.endswith(THINNED):
        waiting = thin_segment(Path(order.store), outbox, waiting)
    key = Segment(waiting.table, order.host, waiting.day, waiting.final_name).key
    try:
        lake.put(key, outbox.path(waiting))
    except LakeTaken as error:
        outbox.refuse(waiting)
        done.refused.append(str(error))
        return
    outbox.done(waiting)
    done.files += 1
    done.bytes += waiting.size_bytes


def _tell(order: Order, lake: Lake, until_hour: int, done: Outcome) -> None:
    """Say who we are, how far we have shipped, and how our wall clock goes by the lake's."""
    key = host_file(order.host)
    try:
        before = told_by(lake, key)
    except LakeRefused:  # who may not list is told `forbidden` by S3 where there is nothing yet
        before = {}
    facts = {
        **order.about,
        "host": order.host,
        "shipped_until_hour": max(until_hour, before.get("shipped_until_hour", 0)),
        "schemas": sorted({*before.get("schemas", ()), fingerprint()}),
    }
    done.clock_s, done.clock_doubt_s = lake.tell(key, json.dumps(facts))
    clock = {"clock_s": done.clock_s, "clock_doubt_s": done.clock_doubt_s, "told_s": time.time()}
    lake.tell(key, json.dumps(facts | clock))


def main() -> None:
    """Read an order, carry it out, say what became of it."""
    os.nice(19)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # ends with the daemon
    os.umask(0o027)
    json.dump(asdict(ship(Order(**json.load(sys.stdin)))), sys.stdout)


if __name__ == "__main__":
    main()
