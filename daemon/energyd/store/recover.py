"""What of a store is damaged, what was saved, what is lost? All of it looked through, while no daemon runs.

A starting daemon mends what would keep it from going on and looks at the newest day; this reads every file.
Both do the same with what they find, so that a second run finds nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from energyd.store import TABLES, Layout
from energyd.store.base import first_line, sealed_files
from energyd.store.catalogue import write_catalogue
from energyd.store.damage import ASIDE
from energyd.store.lock import DaemonLock
from energyd.store.rebuild import REASON
from energyd.store.salvage import newest_live, open_hot
from energyd.store.write import StoreError


@dataclass(frozen=True)
class Report:
    """What was found. `rows` are those of hot.duckdb now; sealed files hold the rest."""

    store: str
    dry_run: bool
    found: list[str]  # one line a damaged file, and what became of it
    sealed_files: int  # that are whole
    rows: dict[str, int]
    newest_t_ns: int | None  # sample in hot.duckdb; later ones are lost if it was damaged
    gaps: list[dict[str, Any]]  # that stand for what is lost
    set_aside: list[str]  # now and earlier, relative to the store

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{self.store}: {'nothing is damaged' if not self.found else 'damaged'}"]
        out += [f"  {line}" for line in self.found]
        kept = ", ".join(f"{n} {table}" for table, n in self.rows.items() if n) or "no rows"
        newest = f", newest sample {_time(self.newest_t_ns)}" if self.newest_t_ns else ""
        out.append(f"  whole    {self.sealed_files} sealed files; hot.duckdb: {kept}{newest}")
        for gap in self.gaps:
            cost = (
                "energy unknown" if gap["bridged_uj"] is None else f"{gap['bridged_uj'] / 1e6:.1f} J, known"
            )
            span = f"{_time(gap['t0_ns'])} to {_time(gap['t1_ns'])}"
            out.append(f"  lost     samples of device {gap['device']}, {span}: {cost}")
        out += [f"  aside    {path}" for path in self.set_aside]
        if self.found and self.dry_run:
            out.append("  nothing was changed (--dry-run)")
        elif self.set_aside:
            out.append("  nothing reads the files aside; keep them elsewhere or delete them")
        return out


def recover(root: Path, *, dry_run: bool = False) -> Report:
    """Look through a store and mend it. Raises AlreadyRunning, StoreError, OSError."""
    root = root.absolute()
    layout = Layout(root)
    if not (layout.hot.exists() or any(sealed_files(root, None).values())):
        raise StoreError(f"no store at {root}: there is neither hot.duckdb nor a sealed file")
    lock = DaemonLock(layout.lock)
    try:
        with _pretended(layout) if dry_run else contextlib.nullcontext(layout) as place:
            return _look_through(place, root, dry_run)
    except duckdb.Error as error:
        raise StoreError(first_line(error)) from error
    finally:
        lock.release(lock.left.get("unstored"))


def _look_through(layout: Layout, root: Path, dry_run: bool) -> Report:
    store, mended = open_hot(layout, thorough=True)
    try:
        found = list(mended.said)
        rows = {t: int(store.fetch(f"SELECT count(*) FROM {t}")[0][0]) for t in TABLES}
        ((newest,),) = store.fetch("SELECT max(t_ns) FROM samples")
        names = ("device", "t0_ns", "t1_ns", "bridged_uj")
        gaps = [
            dict(zip(names, row, strict=True))
            for row in store.fetch(
                f"SELECT {', '.join(names)} FROM gaps WHERE reason = '{REASON}' ORDER BY ALL"
            )
        ]
        hour = int(store.meta("hour") or 0)
    finally:
        store.close()
    why = _catalogue_damage(layout)
    if why is not None:
        found.append(f"{layout.catalogue.name} {why}; written anew")
    if (found or not layout.catalogue.exists()) and not dry_run:
        write_catalogue(root, hour, newest_live(layout)[0].files)
    return Report(
        store=str(root),
        dry_run=dry_run,
        found=found,
        sealed_files=sum(map(len, sealed_files(layout.root, hour).values())),
        rows=rows,
        newest_t_ns=newest,
        gaps=gaps,
        set_aside=sorted(str(p.relative_to(root)) for p in root.rglob(f"*{ASIDE}*")),
    )


@contextlib.contextmanager
def _pretended(layout: Layout) -> Iterator[Layout]:
    """The same store in a folder of its own: what may be written is copied, sealed files are links."""
    with tempfile.TemporaryDirectory(prefix="energyd-recover-") as scratch:
        root = Path(scratch)
        for path in [*layout.root.glob("*"), *layout.root.glob("live/*"), *layout.root.glob("sealed/**/*")]:
            target = root / path.relative_to(layout.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.name.startswith(layout.hot.name) or path.parent.name in {"live", "sums"}:
                shutil.copy(path, target)
            elif path.is_file() and path != layout.lock:
                target.symlink_to(path)
        yield Layout(root)


def _catalogue_damage(layout: Layout) -> str | None:
    """Why no tool can open the catalogue; None if one can, or if there is none."""
    if not layout.catalogue.exists():
        return None
    try:
        with duckdb.connect(str(layout.catalogue), read_only=True) as con:
            con.execute("SELECT view_name, sql FROM duckdb_views()").fetchall()
    except duckdb.Error as error:
        return first_line(error)
    return None


def _time(t_ns: int) -> str:
    return dt.datetime.fromtimestamp(t_ns / 1e9, tz=dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
