"""How does what the recorder learnt get on disk, once? hot.duckdb: commits, what is open, sealing.

One thread owns this. Rulings measured beforehand: commits of numpy columns, no keys on
markers (PRIMARY KEY makes the hourly DELETE take 1.2 s), duplicates kept out by `clients`, COPY and DELETE
of an hour in ONE transaction (two lose rows that arrive in between), rename before its COMMIT.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from energyd.energy import Appended, Totals
from energyd.store import HOUR_NS, KEPT, TABLES, Layout
from energyd.store.base import first_line, quoted
from energyd.store.columns import SCHEMA_SQL, inserted, schema, to_numpy
from energyd.store.durable import copy_parquet, sync
from energyd.store.quarantine import QUARANTINE, SHAPES, UNCONVERTIBLE, quarantine
from energyd.store.sums import place

_STATE_SQL = """
CREATE TABLE IF NOT EXISTS meta (k VARCHAR, v VARCHAR);
CREATE TABLE IF NOT EXISTS open_runs AS FROM runs_log LIMIT 0;
CREATE TABLE IF NOT EXISTS open_stages AS FROM stages_log LIMIT 0;
CREATE TABLE IF NOT EXISTS memos (stage_id VARCHAR, memo VARCHAR);
CREATE TABLE IF NOT EXISTS clients (client VARCHAR, seq BIGINT, t_ns BIGINT);
CREATE TABLE IF NOT EXISTS totals (device UTINYINT, state VARCHAR);
"""


CLIENT_MEMORY_NS: Final = 7 * 86_400_000_000_000
"""How long a silent client's last number is kept to tell duplicates: longer than any spool lies unseen."""


class StoreError(Exception):
    """The store refused a write (disk full, read-only …). What was to be written is still the caller's."""


@dataclass
class Batch:
    """What one commit writes."""

    samples: list[tuple[int, Appended]] = field(default_factory=list)
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    open_runs: dict[str, tuple[Any, ...] | None] = field(default_factory=dict)  # None: no longer open
    open_stages: dict[str, tuple[tuple[Any, ...], str] | None] = field(default_factory=dict)  # row, memo
    clients: dict[str, int] = field(default_factory=dict)  # last seq taken
    totals: dict[int, Totals] = field(default_factory=dict)  # of every device, or of none
    now_ns: int = 0


class HotStore:
    """hot.duckdb, open for writing."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.quarantined = 0  # rows set aside since it was opened
        self._held: dict[str, set[str]] | None = None  # by table of what changes: the keys that it holds
        self._due: dict[str, tuple[str, int, int]] = {}  # rows of clients, which until the seal markers tell
        self.con = duckdb.connect(config={"threads": 1, "memory_limit": "512MB"})
        try:
            self.con.execute("SET enable_progress_bar = false")
            self.con.execute(f"ATTACH {quoted(layout.hot)} AS hot (STORAGE_VERSION 'v1.2.0')")
            self.con.execute("USE hot")
            have = {r[0] for r in self.con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            if "samples" not in have:
                self.con.execute(f"BEGIN; {SCHEMA_SQL}; {_STATE_SQL}; COMMIT")
            else:
                self._widen(have)
                self._due = self._told()
            self.con.execute("SET preserve_insertion_order = true")
            if not self.meta("host_id"):
                self.set_meta("host_id", secrets.token_hex(8))
        except duckdb.Error as error:
            self.con.close()
            raise StoreError(f"cannot open {layout.hot}: {first_line(error)}") from error

    def close(self) -> None:
        """Checkpoint and close, so that no write-ahead log of this version is left for another."""
        try:
            self.con.execute("CHECKPOINT hot")
        except duckdb.Error:
            pass  # the log stays and is replayed at the next start
        self.con.close()

    def close_as_is(self) -> None:
        """Close and leave the file and its log as they are, for whoever salvages them."""
        try:
            self.con.execute("PRAGMA disable_checkpoint_on_shutdown")
        except duckdb.Error:
            pass  # one that met an unreadable block answers nothing any more, and writes nothing
        self.con.close()

    def meta(self, key: str) -> str | None:
        """A value kept across restarts."""
        found = self.con.execute("SELECT v FROM meta WHERE k = ?", [key]).fetchone()
        return None if found is None else str(found[0])

    def plan_briefly(self) -> None:
        """Only commits, live files and seals from now on: do without most of DuckDB's optimizers.

        A commit is a dozen statements on few rows, and planning them takes longer than running them: this
        saves a fifth of its CPU time (100 markers a second). The optimizers that spare reading stay.
        """
        names = {name for (name,) in self.fetch("SELECT name FROM duckdb_optimizers()")} - _OPTIMIZERS
        self.con.execute(f"SET disabled_optimizers = '{','.join(sorted(names))}'")

    def commit(self, batch: Batch) -> None:
        """Write everything in one transaction. Raises StoreError; then nothing was written.

        Rows that no column can take are moved from `batch` to the quarantine.
        """
        try:
            self._write(batch)
        except UNCONVERTIBLE as error:  # one bad row must not keep all others out for ever
            self._rollback()
            if not self._sift(batch, str(error)):
                raise StoreError(first_line(error)) from error
            self.commit(batch)
        except duckdb.Error as error:
            self._rollback()
            raise StoreError(first_line(error)) from error

    def _sift(self, batch: Batch, why: str) -> bool:
        """Move rows that cannot be converted out of a batch; whether there were any. Raises StoreError."""
        runs = [(k, row) for k, row in batch.open_runs.items() if row is not None]
        stages = [(k, held[0]) for k, held in batch.open_stages.items() if held is not None]
        tables = {**batch.rows, "open_runs": [r for _, r in runs], "open_stages": [r for _, r in stages]}
        try:
            found = quarantine(self.layout, tables, why, batch.now_ns)
        except OSError as error:
            raise StoreError(f"cannot write {self.layout.root / QUARANTINE}: {error.strerror}") from error
        for i in found.pop("open_runs", ()):
            batch.open_runs[runs[i][0]] = None
        for i in found.pop("open_stages", ()):
            batch.open_stages[stages[i][0]] = None
        for table, bad in found.items():
            batch.rows[table] = [row for i, row in enumerate(batch.rows[table]) if i not in bad]
        taken = sum(len(rows) for rows in tables.values()) - sum(map(len, batch.rows.values()))
        taken -= sum(map(bool, batch.open_runs.values())) + sum(map(bool, batch.open_stages.values()))
        self.quarantined += taken
        return taken > 0

    def _write(self, batch: Batch) -> None:
        held = self._held = self._held or self._keys()
        clients = {c: (c, seq, batch.now_ns) for c, seq in batch.clients.items()}
        told = {row[0]: row[1] for row in batch.rows.get("markers", ()) if row[1] is not None}
        untold = {c: row for c, row in clients.items() if told.get(c, 0) < row[1]}  # refused: in no journal
        stages = {k: v and v[0] for k, v in batch.open_stages.items()}
        memos = {k: v and (k, v[1]) for k, v in batch.open_stages.items()}
        self.con.execute("BEGIN")
        for table, rows in batch.rows.items():
            self._insert(table, rows)
        self._insert_samples(batch.samples)
        changing: dict[str, Mapping[str, tuple[Any, ...] | None]] = {
            "open_runs": batch.open_runs, "open_stages": stages, "memos": memos, "clients": untold,
        }  # fmt: skip
        for table, changed in changing.items():
            self._replace(table, changed, held[table])
        self._set_totals(batch.totals)
        self.con.execute("COMMIT")
        for table, changed in changing.items():
            held[table] -= changed.keys()
            held[table] |= {key for key, row in changed.items() if row is not None}
        self._due.update(clients)

    def _told(self) -> dict[str, tuple[str, int, int]]:
        """Rows of clients that only an earlier daemon's markers tell: it ended before the seal wrote them."""
        rows = self.fetch(
            "SELECT client, max(seq), max(arrived_ns) FROM markers WHERE seq IS NOT NULL GROUP BY client"
        )
        written = dict(self.fetch("SELECT client, seq FROM clients"))
        return {row[0]: row for row in rows if row[1] > written.get(row[0], 0)}

    def _keys(self) -> dict[str, set[str]]:
        """By table of what changes, the keys that it holds."""
        asked = {table: self.fetch(f"SELECT {key} FROM {table}") for table, key in _KEYS.items()}
        return {table: {key for (key,) in rows} for table, rows in asked.items()}

    def seal(self, hour: int, current_hour: int) -> dict[str, str]:
        """Move one hour into sealed files; {table: relative path}. Raises StoreError, nothing moved.

        Samples by their time; all other tables whole (a late marker's row goes to the hour of its
        commit). Then `meta.hour` is the first hour that is not sealed.
        """
        hi = (hour + 1) * HOUR_NS
        sealed: dict[str, str] = {}
        tmps: list[tuple[Path, Path]] = []
        try:
            self.con.execute("BEGIN")
            for table in TABLES:
                where = f"WHERE t_ns < {hi}" if table == "samples" else ""
                if not self.con.execute(f"SELECT 1 FROM {table} {where} LIMIT 1").fetchone():
                    continue
                relative = self.layout.sealed(table, hour)
                final = self.layout.root / relative
                _make_folder(final.parent)
                tmp = final.with_suffix(".tmp")
                query = self._in_order(hi) if table == "samples" else f"SELECT * FROM {table}"
                copy_parquet(self.con, query, tmp)
                tmps.append((tmp, final))
                sealed[table] = relative
                if table not in KEPT:
                    self.con.execute(f"DELETE FROM {table} {where}")
            self._replace("clients", self._due, (self._held or self._keys())["clients"])
            self.con.execute("DELETE FROM clients WHERE t_ns < ?", [hi - CLIENT_MEMORY_NS])
            self.set_meta("hour", str(max(hour + 1, min(current_hour, self._oldest_hour(current_hour)))))
            for tmp, final in tmps:
                sync(tmp)
                place(self.layout.root, str(final.relative_to(self.layout.root)), tmp)
                sync(final.parent)
            self.con.execute("COMMIT")
        except (duckdb.Error, OSError) as error:
            self._rollback()
            raise StoreError(first_line(error)) from error
        self._due, self._held = {}, None
        try:
            self.con.execute("CHECKPOINT hot")
        except duckdb.Error:
            pass  # the hour is sealed; the file shrinks at the next one
        return sealed

    def _in_order(self, before_ns: int) -> str:
        """The query of samples up to an instant, by device and time.

        Device after device, each already in order as it was inserted: a sort of an hour of eight devices
        takes 60 MB.
        """
        devices = self.con.execute("SELECT DISTINCT device FROM samples ORDER BY device").fetchall()
        return " UNION ALL ".join(
            f"SELECT * FROM samples WHERE device = {device} AND t_ns < {before_ns}" for (device,) in devices
        )

    def _widen(self, have: set[str]) -> None:
        """Give a store of an older release the tables and columns that have come since."""
        for table, columns in schema().items():
            kinds = ", ".join(f"{name} {kind}" for name, kind in columns)
            if table not in have:
                self.con.execute(f"CREATE TABLE {table} ({kinds})")
            for held in (table, *(t for t, shape in SHAPES.items() if shape == table)):
                for name, kind in columns:
                    self.con.execute(f"ALTER TABLE {held} ADD COLUMN IF NOT EXISTS {name} {kind}")

    def hour(self, current_hour: int) -> int:
        """The first hour that is not sealed; set to the current one in a new store."""
        found = self.meta("hour")
        if found is None:
            self.set_meta("hour", str(current_hour))
            return current_hour
        return int(found)

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a small query."""
        return self.con.execute(sql).fetchall()

    def fetch_dicts(self, table: str) -> list[dict[str, Any]]:
        """All rows of a small table, by column name."""
        result = self.con.execute(f"SELECT * FROM {table}")
        names = [d[0] for d in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    # ---- inside a transaction ------------------------------------------------------------------------

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        columns = schema()[SHAPES.get(table, table)] if table not in _STATE_COLUMNS else _STATE_COLUMNS[table]
        fresh = to_numpy(columns, rows)  # noqa: F841 (DuckDB reads the local variable by its name)
        self.con.execute(f"INSERT INTO {table} BY NAME SELECT {inserted(columns)} FROM fresh")

    def _insert_samples(self, samples: list[tuple[int, Appended]]) -> None:
        if not samples:
            return
        fresh = {  # noqa: F841
            "device": np.concatenate([np.full(len(a.t_ns), d, np.uint8) for d, a in samples]),
            "t_ns": np.concatenate([a.t_ns for _, a in samples]),
            "power_mw": np.concatenate([a.power_mw for _, a in samples]),
            "cum_uj": np.concatenate([a.cum_uj for _, a in samples]),
        }
        self.con.execute("INSERT INTO samples SELECT device, t_ns, power_mw, cum_uj FROM fresh")

    def _replace(self, table: str, rows: Mapping[str, tuple[Any, ...] | None], held: Collection[str]) -> None:
        """Write rows in place of those of the same keys. `held`: all keys that the table holds."""
        gone = [key for key in rows if key in held]
        if gone and len(gone) == len(held):  # no need to look for them: a third of the time
            self.con.execute(f"DELETE FROM {table}")
        elif gone:  # most stages are over before their first commit, and finding none costs as much as some
            self.con.execute(f"DELETE FROM {table} WHERE {_KEYS[table]} IN (SELECT unnest($1))", [gone])
        self._insert(table, [r for r in rows.values() if r is not None])

    def _set_totals(self, totals: Mapping[int, Totals]) -> None:
        """Of all devices at once: to find and replace some costs twice as much as to replace them all."""
        if not totals:
            return
        self.con.execute("DELETE FROM totals")
        states = [json.dumps(vars(t)) for t in totals.values()]
        self.con.execute("INSERT INTO totals SELECT unnest($1), unnest($2)", [list(totals), states])

    def _oldest_hour(self, default: int) -> int:
        found = self.con.execute("SELECT min(t_ns) FROM samples").fetchone()
        return default if found is None or found[0] is None else int(found[0]) // HOUR_NS

    def set_meta(self, key: str, value: str) -> None:
        """Keep a value across restarts."""
        self.con.execute("DELETE FROM meta WHERE k = ?", [key])
        self.con.execute("INSERT INTO meta VALUES (?, ?)", [key, value])

    def _rollback(self) -> None:
        try:
            self.con.execute("ROLLBACK")
        except duckdb.Error:
            pass  # the failed COMMIT has rolled back already


_OPTIMIZERS: Final = {
    "filter_pushdown",
    "filter_pullup",
    "limit_pushdown",
    "unused_columns",
    "column_lifetime",
}
"""Those of DuckDB's that stay on: they spare reading rows and columns."""

_KEYS: Final = {"open_runs": "run_id", "open_stages": "stage_id", "memos": "stage_id", "clients": "client"}
"""Tables whose rows change, and by what they are found."""

_STATE_COLUMNS = {
    "memos": [("stage_id", "VARCHAR"), ("memo", "VARCHAR")],
    "clients": [("client", "VARCHAR"), ("seq", "BIGINT"), ("t_ns", "BIGINT")],
}


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
