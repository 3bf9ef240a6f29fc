"""How often does damage go unseen, and how much of a damaged log can be had back? Some figures in comments.

    python tests/faults/damage_figures.py

Damages copies of a store that a killed daemon left: sealed Parquet files by one bit (store/sums.py),
hot.duckdb and its log by a bit, a block of zeros or a cut (store/damage.py), and the log alone by a bit,
which is then cut where DuckDB says that it cannot go on (store/salvage.py).
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from damaged import DAMAGES, flip, make_template
from energyd.store import TABLES, Layout
from energyd.store.damage import is_damage
from energyd.store.salvage import _attached, _cut_to_readable
from energyd.store.write import HotStore, StoreError
from real_daemon import Daemon

FLIPPED, HARMED, LOGS = 300, 120, 60


def main() -> None:
    work = Path(tempfile.mkdtemp())
    daemon = Daemon(work, {})
    try:
        store = make_template(daemon).store
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
    sys.stdout.write(f"DuckDB {duckdb.__version__}\n")
    for what, look in (
        (f"{FLIPPED} sealed files with one flipped bit", parquet_bits),
        (f"{HARMED} times hot.duckdb or its log, flipped, zeroed or cut", hot_files),
        (f"{LOGS} logs with one flipped bit, cut where DuckDB names it", logs),
    ):
        found = look(store, work / look.__name__)
        told = ", ".join(f"{n} {outcome}" for outcome, n in found.most_common())
        sys.stdout.write(f"{what}: {told}\n")
        sys.stdout.flush()
    shutil.rmtree(work)


def parquet_bits(store: Path, work: Path) -> Counter[str]:
    """What reading says of sealed files with one flipped bit."""
    rng, found = random.Random(1), Counter[str]()
    files = [p for p in sorted(store.glob("sealed/*/*/*.parquet")) if p.parts[-3] in TABLES]
    before = {path: rows(path) for path in files}
    work.mkdir()
    for _ in range(FLIPPED):
        path = rng.choice(files)
        copy = Path(shutil.copy(path, work / path.name))
        flip(copy, rng.random())
        try:
            same = rows(copy) == before[path]
        except duckdb.Error:
            found["an error"] += 1
        else:
            found["read as before" if same else "read with other values and no error"] += 1
    return found


def rows(path: Path) -> list[Any]:
    with duckdb.connect(config={"threads": 1}) as con:
        return con.execute(f"FROM read_parquet('{path}', hive_partitioning = false)").fetchall()


def hot_files(store: Path, work: Path) -> Counter[str]:
    """What opening says of damaged databases and logs."""
    rng, found = random.Random(2), Counter[str]()
    for _ in range(HARMED):
        layout = copied(store, work)
        harmed = rng.choice([layout.hot, layout.hot.with_name("hot.duckdb.wal")])
        DAMAGES[rng.choice(sorted(DAMAGES))](harmed, rng.random())
        try:
            HotStore(layout).close_as_is()
            found["opened"] += 1
        except StoreError as error:
            found["told by a known sign" if is_damage(error) else f"UNKNOWN: {error}"] += 1
    return found


def logs(store: Path, work: Path) -> Counter[str]:
    """What is left of damaged logs: of each table the rows of the first commits, in their order?"""
    rng, found = random.Random(3), Counter[str]()
    whole = markers(copied(store, work).hot)
    for _ in range(LOGS):
        hot = copied(store, work).hot
        flip(hot.with_name("hot.duckdb.wal"), rng.random())
        if not _cut_to_readable(hot):
            found["not to be opened"] += 1
            continue
        left = markers(hot)
        kept = left == whole[: len(left)] and (len(left) > 0 or not hot.with_name("hot.duckdb.wal").exists())
        found["opened, all earlier commits whole" if kept else "opened, not in order"] += 1
    return found


def markers(hot: Path) -> list[Any]:
    with _attached(hot) as con:
        return con.execute("FROM old.markers").fetchall()


def copied(store: Path, work: Path) -> Layout:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for path in store.glob("hot.duckdb*"):
        shutil.copy(path, work)
    return Layout(work)


if __name__ == "__main__":
    main()
