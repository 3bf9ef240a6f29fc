"""Which sealed files are damaged or gone, and what does that leave unknown? A gap in their place.

A lost hour of samples is bridged by the running integral itself: the samples on both sides hold it. Where a
table of gaps is lost, a step longer than the device's allowed gap may have been a hole, and is taken for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from energyd.store import HOUR_NS, MONTH_FILE, TABLES, THIN_FILE, Layout, end_hour, hour_of_sealed
from energyd.store.base import parquet, sealed_files
from energyd.store.damage import cut_parquet, set_aside, unreadable_parquet
from energyd.store.rebuild import REASON
from energyd.store.sums import altered, forget, missing
from energyd.store.write import HotStore

_THINNED: Final = (THIN_FILE, MONTH_FILE)
_THINNED_STEP_NS: Final = 2_000_000_000
"""Of each second the last sample stays: two neighbours are less than that apart."""


@dataclass(frozen=True)
class Damaged:
    """One sealed file that is not what it was."""

    relative: str
    why: str

    @property
    def table(self) -> str:
        """Whose rows it held."""
        return self.relative.split("/")[1]


def damaged_files(layout: Layout, *, thorough: bool) -> list[Damaged]:
    """Sealed files that cannot be trusted: those cut short, and altered ones of the newest day.

    `thorough` reads every value of every file.
    """
    files = sealed_files(layout.root, None)
    newest = max((p.split("/")[2] for paths in files.values() for p in paths[-1:]), default="", key=_end)
    found = []
    for table in TABLES:
        for path in files[table]:
            why = cut_parquet(layout.root / path)
            if why is None and (thorough or path.split("/")[2] == newest):
                why = altered(layout.root, path)
            if why is None and thorough:
                why = unreadable_parquet(layout.root, path)
            if why is not None:
                found.append(Damaged(path, why))
    return found


def set_aside_sealed(layout: Layout, *, thorough: bool) -> tuple[list[Damaged], list[str]]:
    """Set damaged sealed files aside; them, and a line for people of each. Raises OSError."""
    gone: list[Damaged] = []
    said: list[str] = []
    while found := damaged_files(layout, thorough=thorough):  # under a damaged day's file its hours may lie
        for one in found:
            aside = set_aside(layout.root / one.relative)
            said.append(f"{one.relative} {one.why}; renamed to {aside.name}")
        gone += found
    return gone, said


def deleted_files(layout: Layout, hour: int, aside: Iterable[Damaged]) -> list[Damaged]:
    """Sealed files, of hours below `hour`, that somebody took away; not those set `aside` just now."""
    known = {one.relative for one in aside}
    why = "is gone: it was written, and nothing stands for it"
    return [Damaged(path, why) for path in missing(layout.root, hour) if path not in known]


def forget_files(layout: Layout, gone: Iterable[Damaged]) -> None:
    """Miss them no more. Raises OSError."""
    for table, folder in {(one.table, one.relative.split("/")[2]) for one in gone}:
        forget(layout.root, table, folder)


def note_gaps(layout: Layout, store: HotStore, gone: Iterable[Damaged]) -> int:
    """Write a gap for each long step that lost files leave unexplained; how many.

    Where nothing is left of a device before or behind them, its first row in `devices` says since when it was
    sampled, and its totals until when.
    """
    hours = {table: [hour_of_sealed(d.relative) for d in gone if d.table == table] for table in TABLES}
    files = sealed_files(layout.root, None)
    near: set[str] = set()
    since_ns = 0  # the end of the hours lost before all others, if there are such
    for hour in hours["samples"] + hours["gaps"]:
        before = [p for p in files["samples"] if hour_of_sealed(p) <= hour]
        after = [p for p in files["samples"] if hour_of_sealed(p) > hour]
        near |= {*before[-2:], *after[:1]}
        if not before:
            since_ns = max(since_ns, (hour + 1) * HOUR_NS)
    if not (hours["samples"] or hours["gaps"]):
        return 0
    parts = [
        f"SELECT device, t_ns, cum_uj, {Path(p).name in _THINNED} AS thinned FROM {parquet(layout.root, [p])}"
        for p in sorted(near, key=files["samples"].index)
    ]
    ends = [
        "SELECT device, (state->>'t_ns')::BIGINT AS t_ns, (state->>'cum_uj')::BIGINT, false FROM totals"
        " WHERE t_ns IS NOT NULL",
        f"SELECT device, min(t_ns), NULL, false FROM devices GROUP BY device HAVING min(t_ns) < {since_ns}",
    ]
    known = _union("gaps", layout.root, files["gaps"])
    rows = store.fetch(f"""
        WITH every AS ({
        " UNION ALL ".join([*parts, "SELECT device, t_ns, cum_uj, false AS thinned FROM samples", *ends])
    }),
        allowed AS (SELECT device, arg_max(max_step_ns, t_ns) AS max_step_ns FROM devices GROUP BY device),
        step AS (
          SELECT device, lag(t_ns) OVER w AS t0_ns, t_ns AS t1_ns, cum_uj - lag(cum_uj) OVER w AS uj,
            thinned OR lag(thinned) OVER w AS thinned
          FROM every WINDOW w AS (PARTITION BY device ORDER BY t_ns)
        ),
        long AS (
          SELECT s.* FROM step s JOIN allowed a ON a.device = s.device AND s.t1_ns - s.t0_ns
            > CASE WHEN s.thinned THEN greatest(a.max_step_ns, {_THINNED_STEP_NS}) ELSE a.max_step_ns END
          WHERE NOT EXISTS (FROM {known} g
                            WHERE g.device = s.device AND g.t0_ns = s.t0_ns AND g.t1_ns = s.t1_ns)
        )
        SELECT device, t0_ns, t1_ns, uj, EXISTS (
          FROM {known} g WHERE g.device = long.device AND g.t0_ns < long.t1_ns AND g.t1_ns > long.t0_ns
            AND g.bridged_uj IS NULL) AS holed
        FROM long ORDER BY device, t0_ns
    """)
    unsure = bool(hours["gaps"])  # of what was a hole there
    store.con.execute("BEGIN")
    for device, t0, t1, uj, holed in rows:
        # Between samples that are both there nothing is lost with a file of samples.
        bridged = None if unsure or holed else uj
        store.con.execute("INSERT INTO gaps VALUES (?, ?, ?, ?, ?)", [device, t0, t1, REASON, bridged])
    store.con.execute("COMMIT")
    return len(rows)


def _end(folder: str) -> int:
    """The first hour after a day or month; of nothing, 0."""
    return end_hour(folder) if folder else 0


def _union(table: str, root: Path, paths: list[str]) -> str:
    sealed = f" UNION ALL BY NAME FROM {parquet(root, paths)}" if paths else ""
    return f"(FROM {table}{sealed})"
