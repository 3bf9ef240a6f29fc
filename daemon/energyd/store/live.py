"""What can a reader without the daemon's help see of the current hour? Live Parquet and the catalogue.

Every export gets new names, because DuckDB readers return wrong rows from a file that is replaced under
them (measured); old names are unlinked after a grace.
"""

from __future__ import annotations

import time
from typing import Final

import duckdb

from energyd.roughness import I32, I64
from energyd.store import TABLES, Layout
from energyd.store.base import first_line
from energyd.store.catalogue import write_catalogue
from energyd.store.durable import copy_parquet
from energyd.store.write import HotStore, StoreError

GRACE_S: Final = 600.0
Arrays = list[tuple[int, I64, I32, I64]]


class LiveFiles:
    """Writes and names the live files."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.current: dict[str, str] = {}
        self.left_out: dict[str, str] = {}  # damaged sealed files that the catalogue does without, and why
        self._doomed: list[tuple[float, str]] = []
        folder = layout.root / "live"
        folder.mkdir(mode=0o750, exist_ok=True)
        leftover = [f"live/{p.name}" for p in folder.iterdir()]
        self._doom(leftover)

    def export(self, store: HotStore, samples: Arrays, hour: int, now_ns: int) -> dict[str, str]:
        """Write the unsealed hour as it is now; {table: path}, for `switch`. Raises StoreError."""
        generation = now_ns // 1_000_000
        new: dict[str, str] = {}
        try:
            if samples:
                new["samples"] = self._layout.live("samples", hour, generation)
                self._write_samples(samples, new["samples"])
            for table in TABLES:
                if table == "samples":
                    continue
                query = f"SELECT * FROM {table}"
                if table in ("runs_log", "stages_log"):
                    query += f" UNION ALL SELECT * FROM open_{table[:-4]}"
                if store.con.execute(f"SELECT 1 FROM ({query}) LIMIT 1").fetchone():
                    new[table] = self._layout.live(table, hour, generation)
                    copy_parquet(store.con, query, self._layout.root / new[table])
            self.left_out = write_catalogue(self._layout.root, hour, new)
        except (duckdb.Error, OSError) as error:
            raise StoreError(first_line(error)) from error
        return new

    def switch(self, new: dict[str, str]) -> None:
        """Name other files from now on; those before go after the grace."""
        self._doom(list(self.current.values()))
        self.current = new

    def _write_samples(self, samples: Arrays, relative: str) -> None:
        # From arrays, already in (device, t_ns) order, on a connection of its own: half the cost of a
        # sorted COPY from hot.duckdb, and commits do not wait. Device after device, for one array of all
        # would hold the hour's samples twice.
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute("SET enable_progress_bar = false")
            parts = []
            for device, t_ns, power_mw, cum_uj in samples:
                con.register(f"of_{device}", {"t_ns": t_ns, "power_mw": power_mw, "cum_uj": cum_uj})
                parts.append(f"SELECT {device}::UTINYINT AS device, t_ns, power_mw, cum_uj FROM of_{device}")
            copy_parquet(con, " UNION ALL ".join(parts), self._layout.root / relative)

    def _doom(self, relatives: list[str]) -> None:
        now = time.monotonic()
        self._doomed += [(now + GRACE_S, r) for r in relatives]
        keep = []
        for when, relative in self._doomed:
            if when > now:
                keep.append((when, relative))
            else:
                (self._layout.root / relative).unlink(missing_ok=True)
        self._doomed = keep
