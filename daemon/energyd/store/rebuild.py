"""How do the rows that are left become one consistent hot.duckdb? Each once, and the integral goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from energyd.energy import Totals
from energyd.store import HOUR_NS, KEPT, TABLES, hour_of_sealed
from energyd.store.base import parquet, quoted
from energyd.store.write import CLIENT_MEMORY_NS, HotStore

REASON: Final = "store_damaged"
"""Of a gap, or of energy that is NULL: what would have told is lost with a damaged file."""

STATE_TABLES: Final = ("meta", "open_runs", "open_stages", "memos", "clients", "totals")
_LOGS: Final = {"runs_log": ("open_runs", "run_id", "t1_ns IS NOT NULL"),
                "stages_log": ("open_stages", "stage_id", "state = 'final'")}  # fmt: skip
_CONSISTENT: Final = ("meta", "samples", "gaps", "totals", "open_stages", "memos")
"""Only together do these tell where a stage began in the integral."""


@dataclass(frozen=True)
class Sources:
    """What is left of a store. Paths of `old` are full, the others relative to `root`."""

    root: Path
    old: dict[str, Path]  # tables of the damaged hot.duckdb, as far as they could be read
    live: dict[str, str]
    sealed: dict[str, list[str]]  # oldest first; some may be damaged
    hour: int | None  # the first that is not sealed; None: nothing tells
    sealed_hour: dict[str, int]  # newest sealed hour of each table


def fill(store: HotStore, left: Sources) -> dict[str, int]:
    """Fill an empty hot.duckdb; {table: rows}. Raises duckdb.Error."""
    return _Rebuild(store, left).fill()


class _Rebuild:
    """One hot.duckdb being made."""

    def __init__(self, store: HotStore, left: Sources) -> None:
        self.con, self.store, self.left = store.con, store, left
        self.meta = dict(store.fetch(f"FROM {_full(left.old['meta'])}")) if "meta" in left.old else {}
        hours = [int(h) for h in (self.meta.get("hour"), left.hour) if h is not None]
        self.hour = max(hours, default=None)
        # What was open in an hour that is sealed since may be closed by now, and the integral went on.
        stale = "hour" in self.meta and self.hour is not None and int(self.meta["hour"]) < self.hour
        self.current = left.old if not stale else {}
        self.consistent = set(_CONSISTENT) <= self.current.keys()
        self.devices: list[int] = []
        self.last_sealed: dict[int, tuple[int, int, int]] = {}

    def fill(self) -> dict[str, int]:
        for table in TABLES:
            if table != "samples":
                self._rows(table)
        self.devices = [d for (d,) in self.store.fetch("SELECT DISTINCT device FROM devices ORDER BY 1")]
        self.last_sealed = self._newest_sealed()
        self._samples()
        news = self._open()
        self._memos(keep=self.consistent and not news)
        self._clients()
        self._gaps()
        self._totals()
        self._meta()
        return {t: int(self.store.fetch(f"SELECT count(*) FROM {t}")[0][0]) for t in TABLES}

    # ---- rows ----------------------------------------------------------------------------------------

    def _rows(self, table: str) -> None:
        left = self.left
        # Where the old one's hour is sealed for this table, its rows are in that file.
        sealed = int(self.meta.get("hour") or left.hour or 0) <= left.sealed_hour.get(table, -1)
        if table in left.old and (table in KEPT or not sealed):
            self.con.execute(f"INSERT INTO {table} BY NAME FROM {_full(left.old[table])}")
        if table in KEPT:  # each sealed file of these holds all rows until then
            for path in reversed(left.sealed[table]):
                if self._add_missing(table, parquet(left.root, [path])):
                    break
        if table in left.live:
            where = f" WHERE {_LOGS[table][2]}" if table in _LOGS else ""
            self._add_missing(table, f"(FROM {parquet(left.root, [left.live[table]])}{where})")

    def _add_missing(self, table: str, relation: str) -> bool:
        """Rows that are not there yet (of equal rows as many as the side has that has more), if readable."""
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE fresh AS FROM {table} LIMIT 0")
        try:
            self.con.execute(f"INSERT INTO fresh BY NAME FROM {relation}")
        except duckdb.Error:
            return False
        every = "" if table in KEPT else "ALL"
        self.con.execute(f"INSERT INTO {table} (FROM fresh EXCEPT {every} FROM {table})")
        self.con.execute("DROP TABLE fresh")
        return True

    def _newest_sealed(self) -> dict[int, tuple[int, int, int]]:
        """{device: (t_ns, power_mw, cum_uj)} of its last sealed sample."""
        found: dict[int, tuple[int, int, int]] = {}
        for path in reversed(self.left.sealed["samples"]):
            try:
                rows = self.store.fetch(
                    "SELECT device, max(t_ns), arg_max(power_mw, t_ns), arg_max(cum_uj, t_ns)"
                    f" FROM {parquet(self.left.root, [path])} GROUP BY device"
                )
            except duckdb.Error:
                continue  # damaged as well
            for device, *sample in rows:
                found.setdefault(device, (sample[0], sample[1], sample[2]))
            if set(self.devices) <= found.keys():
                break
        return found

    def _samples(self) -> None:
        """Of both sources what follows the sealed hours: first the old one's, then what follows those."""
        old, live = self.left.old.get("samples"), self.left.live.get("samples")
        relations = [_full(old)] if old else []
        relations += [parquet(self.left.root, [live])] if live else []
        for relation in relations:
            floors = {d: row[0] for d, row in self.last_sealed.items()}
            floors.update(self.store.fetch("SELECT device, max(t_ns) FROM samples GROUP BY 1"))
            for (device,) in self.store.fetch(f"SELECT DISTINCT device FROM {relation} ORDER BY 1"):
                self.con.execute(
                    f"INSERT INTO samples SELECT device, t_ns, power_mw, cum_uj FROM {relation}"
                    f" WHERE device = {device} AND t_ns > {floors.get(device, -1)} ORDER BY t_ns"
                )

    # ---- what was open -------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Runs and stages that were open, as the newer source knows them, unless they are known to be closed.

        True: the live files know of a stage's end that the old one does not.
        """
        news = False
        for table, (held, key, closed) in _LOGS.items():
            if held in self.current:
                self.con.execute(f"INSERT INTO {held} BY NAME FROM {_full(self.current[held])}")
            if table in self.left.live:
                live = parquet(self.left.root, [self.left.live[table]])
                if held == "open_stages":
                    over = f"SELECT {key} FROM {live} WHERE state <> 'open'"
                    news = bool(
                        self.store.fetch(f"FROM {held} WHERE state = 'open' AND {key} IN ({over}) LIMIT 1")
                    )
                    # One that has ended since is newer; else the old one's row is.
                    self.con.execute(f"DELETE FROM {held} WHERE state = 'open' AND {key} IN ({over})")
                self.con.execute(
                    f"INSERT INTO {held} BY NAME FROM {live} WHERE NOT ({closed})"
                    f" AND {key} NOT IN (SELECT {key} FROM {held})"
                )
            self.con.execute(f"DELETE FROM {held} WHERE {key} IN (SELECT {key} FROM {table})")
        # Energies of a stage whose last row is lost: they are found again when it is settled again.
        self.con.execute("DELETE FROM energies WHERE stage_id IN (SELECT stage_id FROM open_stages)")
        return news

    def _memos(self, *, keep: bool) -> None:
        """Where each open stage began in the integral; where that is lost its energy is NULL, and why."""
        if keep:
            self.con.execute(
                f"INSERT INTO memos FROM {_full(self.current['memos'])}"
                " WHERE stage_id IN (SELECT stage_id FROM open_stages)"
            )
        have = {stage for (stage,) in self.store.fetch("SELECT stage_id FROM memos")}
        parents = dict(self.store.fetch("SELECT stage_id, parent_id FROM open_stages"))
        for stage in parents.keys() - have:
            parent = parents[stage]
            above: list[str] = []
            while parent is not None and parent not in above:
                above.insert(0, parent)
                parent = parents.get(parent)
            begin = {device: {"reason": REASON} for device in self.devices}
            memo = json.dumps({"ancestors": above, "begin": begin})
            self.con.execute("INSERT INTO memos VALUES (?, ?)", [stage, memo])

    def _clients(self) -> None:
        """Up to which number each client's markers are stored, so that none is taken twice."""
        known = "SELECT client, max(seq), max(t_ns) FROM {} WHERE seq IS NOT NULL GROUP BY client"
        found: dict[str, tuple[int, int]] = {}
        since = (self.hour or 0) - CLIENT_MEMORY_NS // HOUR_NS
        relations = [parquet(self.left.root, [p]) for p in self.left.sealed["markers"]
                     if hour_of_sealed(p) >= since]  # fmt: skip
        for relation in [
            *relations,
            "markers",
            *(_full(p) for t, p in self.left.old.items() if t == "clients"),
        ]:
            try:
                rows = self.store.fetch(known.format(relation))
            except duckdb.Error:
                continue  # a damaged sealed hour
            for client, seq, t_ns in rows:
                before = found.get(client, (0, 0))
                found[client] = max(seq, before[0]), max(t_ns, before[1])
        for client, (seq, t_ns) in found.items():
            self.con.execute("INSERT INTO clients VALUES (?, ?, ?)", [client, seq, t_ns])

    # ---- the integral --------------------------------------------------------------------------------

    def _gaps(self) -> None:
        """A long step whose gap is lost with its row may have been a hole: so it is taken for one."""
        allowed = dict(
            self.store.fetch("SELECT device, arg_max(max_step_ns, t_ns) FROM devices GROUP BY device")
        )
        known = set(self.store.fetch("SELECT device, t1_ns FROM gaps"))
        for device in self.devices:
            first = f"{self.last_sealed[device][0]}" if device in self.last_sealed else "NULL"
            steps = self.store.fetch(
                f"SELECT lag(t_ns, 1, {first}::BIGINT) OVER (ORDER BY t_ns) AS t0, t_ns"
                f" FROM samples WHERE device = {device} QUALIFY t_ns - t0 > {allowed[device]}"
            )
            lost = [(device, t0, t1, REASON, None) for t0, t1 in steps if (device, t1) not in known]
            for gap in lost:
                self.con.execute("INSERT INTO gaps VALUES (?, ?, ?, ?, ?)", gap)

    def _totals(self) -> None:
        """Where each device's integral goes on: at its newest sample that is left."""
        known: dict[int, dict[str, Any]] = {}
        if self.consistent:
            known = {d: json.loads(s) for d, s in self.store.fetch(f"FROM {_full(self.current['totals'])}")}
        newest = {
            d: (t, p, c, n)
            for d, t, p, c, n in self.store.fetch(
                "SELECT device, max(t_ns), arg_max(power_mw, t_ns), arg_max(cum_uj, t_ns), count(*)"
                " FROM samples GROUP BY 1"
            )
        }
        gaps = self.store.fetch("SELECT device, t0_ns, t1_ns, bridged_uj FROM gaps")
        for device in sorted(newest.keys() | self.last_sealed.keys()):
            # One more than the samples of this hour says that there were others before it.
            t_ns, power, cum, n = newest.get(device) or (*self.last_sealed[device], 1)
            mine = [(t0, t1, uj) for d, t0, t1, uj in gaps if d == device]
            packed = known.get(device)
            if packed is not None and (packed["t_ns"] or 0) > t_ns:
                t_ns, power, cum = (
                    packed["t_ns"],
                    packed["power_mw"],
                    packed["cum_uj"],
                )  # its sealed hour is lost
                mine = []
            elif packed is None or packed["t_ns"] is None:
                packed = asdict(Totals(n=n + (device in self.last_sealed)))
            else:
                since = packed["t_ns"]
                mine = [gap for gap in mine if gap[1] > since]
                ((more,),) = self.store.fetch(
                    f"SELECT count(*) FROM samples WHERE device = {device} AND t_ns > {since}"
                )
                packed["n"] += more
                if more:
                    packed.update(rough_t_ns=since, remainder=0)
            packed["gap_ns"] += sum(t1 - t0 for t0, t1, _ in mine)
            packed["holes"] += sum(uj is None for _, _, uj in mine)
            packed.update(t_ns=t_ns, power_mw=power, cum_uj=cum)
            self.con.execute("INSERT INTO totals VALUES (?, ?)", [device, json.dumps(packed)])

    def _meta(self) -> None:
        """The store stays who it was."""
        boots = self.store.fetch("SELECT host_id FROM boots ORDER BY t_ns DESC LIMIT 1")
        host: Sequence[Any] = [self.meta.get("host_id"), *(b for (b,) in boots)]
        if named := [h for h in host if h]:
            self.store.set_meta("host_id", named[0])
        hour = self.hour
        if hour is None:
            ((oldest,),) = self.store.fetch("SELECT min(t_ns) FROM samples")
            hour = None if oldest is None else oldest // HOUR_NS
        if hour is not None:
            self.store.set_meta("hour", str(hour))


def _full(path: Path) -> str:
    return f"read_parquet({quoted(path)})"
