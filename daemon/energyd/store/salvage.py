"""What can be had back when hot.duckdb is damaged, cut short or gone? A new one from all that is left.

Three sources, each a state of some moment: hot.duckdb as far as it can be read (a damaged log up to its
damage), the live files of a minute ago, the sealed hours. Rows that two of them hold are taken once, and the
running integral goes on from the newest sample that is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from energyd.store import KEPT, TABLES, Layout, hour_of_sealed
from energyd.store.base import first_line, parquet, quoted, sealed_files
from energyd.store.damage import ASIDE, aside_name, is_damage, set_aside, unreadable_parquet
from energyd.store.durable import copy_parquet, sync
from energyd.store.rebuild import REASON, STATE_TABLES, Sources, fill
from energyd.store.sealed import deleted_files, forget_files, note_gaps, set_aside_sealed
from energyd.store.write import HotStore, StoreError

ROWS_LOST: Final = "rows_lost"
"""In `meta` of a hot.duckdb made anew: 1 until a daemon has taken it over, and named the gap by it."""
_TRIES: Final = 4
_LIVE_FILE: Final = re.compile(r"([a-z_]+)-(\d+)\.(\d+)\.parquet")


@dataclass
class Mended:
    """What was wrong with a store when it was opened, in lines for people; empty: nothing."""

    said: list[str] = field(default_factory=list)
    rows_lost: bool = False  # of the newest: what follows the last sample left is a gap


def open_hot(layout: Layout, *, thorough: bool = False) -> tuple[HotStore, Mended]:
    """hot.duckdb, mended where it must be. Raises StoreError where the trouble is no damage.

    What is damaged is renamed aside; nothing that can be read is lost. The caller holds the store's lock.
    Sealed files stay listed until gaps stand for them: a start that dies in between is made good by the next.
    `thorough`: every value of every sealed file is read.
    """
    gone, said = set_aside_sealed(layout, thorough=thorough)
    live, more = newest_live(layout)
    mended = Mended(said + more)
    store, why = _try_open(layout, live)
    if store is None:
        _rebuild(layout, live, why, mended)
        store = HotStore(layout)
    mended.rows_lost = store.meta(ROWS_LOST) == "1"
    deleted = deleted_files(layout, int(store.meta("hour") or 0), gone)
    mended.said += (f"{one.relative} {one.why}" for one in deleted)
    gone += deleted
    if gone:
        gaps = note_gaps(layout, store, gone)
        mended.said.append(f"{gaps} gaps `{REASON}` stand for what those sealed files held of samples")
        forget_files(layout, gone)
    return store, mended


def _try_open(layout: Layout, live: Live) -> tuple[HotStore | None, str]:
    """hot.duckdb as it is, or why it cannot be gone on with. Raises StoreError where that is no damage."""
    if (why := _lost(layout, live)) is not None:
        return None, why
    try:
        store = HotStore(layout)
    except StoreError as error:
        if not is_damage(error):
            raise
        return None, str(error)
    try:
        why = _unreadable(store) or _behind(layout, store, live)
    except duckdb.Error as error:
        why = first_line(error)
    if why is None:
        return store, ""
    store.close_as_is()
    return None, why


@dataclass(frozen=True)
class Live:
    """The newest readable live file of each table, and the hour that their names tell."""

    files: dict[str, str] = field(default_factory=dict)
    hour: int | None = None
    newest_t_ns: int | None = None


def newest_live(layout: Layout) -> tuple[Live, list[str]]:
    """The newest live files, and what was wrong with others.

    Damaged ones are set aside: an older one of the same table takes their place.
    """
    said: list[str] = []
    found: dict[str, list[tuple[int, int, str]]] = {}
    for path in (layout.root / "live").glob("*.parquet"):
        if (m := _LIVE_FILE.fullmatch(path.name)) and m[1] in TABLES:
            found.setdefault(m[1], []).append((int(m[2]), int(m[3]), f"live/{path.name}"))
    newest = max((max(f)[0] for f in found.values()), default=None)
    files: dict[str, str] = {}
    for table, ways in found.items():
        for hour, _, relative in sorted(ways, reverse=True):
            if hour != newest:
                break  # of an hour that is sealed
            why = unreadable_parquet(layout.root, relative)
            if why is None and table == "samples":
                why = _implausible(layout.root, relative)
            if why is None:
                files[table] = relative
                break
            aside = set_aside(layout.root / relative)
            said.append(f"{relative} {why}; renamed to {aside.name}")
    t_ns = None
    if "samples" in files:
        with duckdb.connect(config={"threads": 1}) as con:
            newest_row = con.execute(f"SELECT max(t_ns) FROM {parquet(layout.root, [files['samples']])}")
            (t_ns,) = newest_row.fetchall()[0]
    return Live(files, newest, t_ns), said


def _implausible(root: Path, relative: str) -> str | None:
    """A flipped byte may still decompress: times and the running integral only ever grow."""
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("SET enable_progress_bar = false")
        wrong = con.execute(
            "SELECT count(*) FROM (SELECT t_ns - lag(t_ns) OVER w AS step, cum_uj - lag(cum_uj) OVER w AS uj,"
            f" power_mw FROM {parquet(root, [relative])} WINDOW w AS (PARTITION BY device ORDER BY t_ns))"
            " WHERE step <= 0 OR uj < 0 OR power_mw < 0"
        ).fetchall()[0][0]
    return f"holds {wrong} impossible samples" if wrong else None


def _lost(layout: Layout, live: Live) -> str | None:
    """Why there can be no hot.duckdb to open although the store is not new."""
    if layout.hot.exists() and layout.hot.stat().st_size:
        return None
    if live.files or any(sealed_files(layout.root, None).values()):
        return "is empty" if layout.hot.exists() else "is gone"
    return None


def _unreadable(store: HotStore) -> str | None:
    """Why not every value can be read; None if each can (1.4 M samples: 0.05 s)."""
    for table in (*TABLES, *STATE_TABLES):
        try:
            store.con.execute(f"SELECT sum(hash(t)) FROM {table} t").fetchall()
        except duckdb.OutOfMemoryException as error:
            store.close_as_is()
            raise StoreError(f"cannot read {store.layout.hot}: {first_line(error)}") from error
        except duckdb.Error as error:
            return f"{table}: {first_line(error)}"
    return None


def _behind(layout: Layout, store: HotStore, live: Live) -> str | None:
    """Whether it ends before what was made from it: a log that lost its end is replayed without a word."""
    ((newest,),) = store.fetch("SELECT max(t_ns) FROM samples")
    if live.newest_t_ns is not None and (newest is None or newest < live.newest_t_ns):
        sealed_since = live.hour is not None and live.hour < int(store.meta("hour") or 0)
        if not sealed_since:
            return "ends before a live file that was copied from it: its log lost its end"
    if (hour := store.meta("hour")) is None:
        return None if not live.files else "does not know its hour"
    if live.hour is not None and live.hour > int(hour):
        return "does not know of an hour that is sealed"
    for table, paths in sealed_files(layout.root, None).items():
        for path in paths:
            if hour_of_sealed(path) > int(hour) or (
                hour_of_sealed(path) == int(hour) and _rows(store, layout, path) > _rows(store, table=table)
            ):
                return f"does not hold what {path} was sealed from"
    return None


def _rows(store: HotStore, layout: Layout | None = None, path: str = "", table: str = "") -> int:
    """Rows of a table of it, or of a sealed file (one that cannot be read has none)."""
    relation = parquet(layout.root, [path]) if layout is not None else table
    try:
        return int(store.fetch(f"SELECT count(*) FROM {relation}")[0][0])
    except duckdb.Error:
        return 0


def _rebuild(layout: Layout, live: Live, why: str, mended: Mended) -> None:
    """Write a new hot.duckdb beside the old one, then change them over."""
    for left in layout.root.glob(".salvage-*"):  # a start that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = layout.root / f".salvage-{os.getpid()}"
    try:
        work.mkdir(mode=0o750)
        old, unreadable = _export_old(layout, work)
        fresh = HotStore(Layout(work))
        try:
            counts = fill(fresh, _sources(layout, old, live))
            fresh.set_meta(ROWS_LOST, "1")
        finally:
            fresh.close()
        sync(work / layout.hot.name)
        aside = _change_over(layout, work / layout.hot.name)
    except (duckdb.Error, OSError) as error:
        raise StoreError(f"cannot mend {layout.hot}: {first_line(error)}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    where = f"; renamed to {aside.name}" if aside else ""
    mended.said.append(f"{layout.hot.name} {why.removeprefix(layout.hot.name).strip()}{where}")
    kept = ", ".join(f"{n} {table}" for table, n in counts.items() if n) or "no rows"
    mended.said.append(f"a new {layout.hot.name} holds what could be read: {kept}")
    if unreadable:
        mended.said.append(f"not readable in the damaged one: {', '.join(unreadable)}")


def _export_old(layout: Layout, work: Path) -> tuple[dict[str, Path], list[str]]:
    """What can be read from the damaged one, each table a file; and the tables of which nothing can.

    Without one, from the last that was set aside: a start that died between the two left it so.
    """
    asides = sorted(p for p in layout.root.glob(f"{layout.hot.name}{ASIDE}*") if not p.name.endswith(".wal"))
    hot = layout.hot if layout.hot.exists() else asides[-1] if asides else None
    if hot is None or not hot.stat().st_size:
        return {}, []
    copy = work / "old.duckdb"
    for path in (hot, *_logs(hot)):
        shutil.copy(path, copy.with_name(copy.name + path.name.removeprefix(hot.name)))
    if not _cut_to_readable(copy):
        return {}, ["all of it"]
    found: dict[str, Path] = {}
    unreadable = []
    for table in (*TABLES, *STATE_TABLES):
        target = work / f"{table}.parquet"
        try:  # each on its own: after an unreadable block a connection answers nothing any more
            with _attached(copy) as con:
                copy_parquet(con, f"FROM old.{table}", target)
            found[table] = target
        except duckdb.Error:
            unreadable.append(table)
    return found, unreadable


def _cut_to_readable(copy: Path) -> bool:
    """Shorten the log of a copy to where its damage begins, else drop it; whether it can be opened then.

    DuckDB names where the entry begins that it cannot replay: cut there, 60 of 60 logs opened with all
    earlier commits whole (`tests/faults/damage_figures.py`).
    """
    wal = copy.with_name(copy.name + ".wal")
    for _ in range(_TRIES):
        try:
            with _attached(copy):
                return True
        except duckdb.Error as error:
            if not (logs := _logs(copy)):
                return False
            at = re.search(r"entry at byte position (\d+)", str(error))
            if at and wal.exists() and int(at[1]) < wal.stat().st_size:
                os.truncate(wal, int(at[1]))
            else:
                for path in logs:
                    path.unlink()
    return False


@contextlib.contextmanager
def _attached(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1, "memory_limit": "512MB"}) as con:
        con.execute("SET enable_progress_bar = false")
        con.execute(f"ATTACH {quoted(path)} AS old (READ_ONLY)")
        yield con


def _sources(layout: Layout, old: dict[str, Path], live: Live) -> Sources:
    """All that is left, and which hour is the first that is not sealed."""
    all_sealed = sealed_files(layout.root, None)
    newest = {t: max(map(hour_of_sealed, ps)) for t, ps in all_sealed.items() if ps}
    hours = [h + 1 for h in newest.values()] + ([live.hour] if live.hour is not None else [])
    return Sources(
        root=layout.root,
        old=old,
        # A seal that died half-way has sealed some tables of its hour: the same rows.
        live={
            t: p
            for t, p in live.files.items()
            if t in ("samples", *KEPT) or live.hour is None or newest.get(t, -1) < live.hour
        },
        sealed=all_sealed,
        hour=max(hours, default=None),
        sealed_hour=newest,
    )


def _change_over(layout: Layout, fresh: Path) -> Path | None:
    """Put the new one in the old one's place; the old one's new name.

    The old one goes before the new one comes, that no log of the one meets the other. A crash in between
    leaves neither: the next start begins again from what is aside.
    """
    if not layout.hot.exists():
        fresh.replace(layout.hot)
        sync(layout.root)
        return None
    aside = aside_name(layout.hot)
    old = [layout.hot, *_logs(layout.hot)]
    for path in old:
        os.link(path, aside.with_name(aside.name + path.name.removeprefix(layout.hot.name)))
    sync(layout.root)
    for path in old:
        path.unlink()
    fresh.replace(layout.hot)
    sync(layout.root)
    return aside


def _logs(hot: Path) -> list[Path]:
    """What DuckDB keeps beside a database: its log, and a second one where a kill cut a checkpoint short."""
    return [p for p in hot.parent.glob(f"{hot.name}.*") if p.name.endswith("wal") and
            ASIDE not in p.name.removeprefix(hot.name)]  # fmt: skip
