"""How is a lake asked, whose segments are of many hosts? With the views of a store, which have a host there.

A bare lake is listed: which files count is told by their names. A ledger (DuckLake on PostgreSQL) knows
them, and the least and largest value of each column, so that it opens those alone that a question needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import duckdb

from energyd.store import DATED, HOUR_NS, counting
from energyd.store.base import first_line, lake_rows, quoted
from energyd.store.lake import address, parse, told_host
from energyd.store.lake_attach import (
    LEDGER,
    attach_ledger,
    check_ledger,
    explained,
    explaining,
    ledger_hosts,
    use_s3,
)
from energyd.store.lake_files import Lake, open_lake
from energyd.store.lake_keys import ENV_KEYS, read_keys
from energyd.store.lake_told import fingerprint, told_by
from energyd.store.needed import HERE
from energyd.store.read import Reader
from energyd.store.read_errors import LakeUnusable, ReadError
from energyd.store.tail import Parts

ASKED_AT_ONCE: Final = 16
"""Hosts' own words, small objects of which most of the time is the way there and back."""


class LakeReader(Reader):
    """A lake, open for questions.

    What was measured is read where it lies, file by file as a question needs it. What was learnt of it (all
    tables that are not DATED) is small, and views ask for it dozens of times: it is read once, when a
    question names it, into a database beside the reader. Bound each time anew, 1,920 files of each table
    took 31 s for `run_totals`, most of it before a row was read.
    """

    _of_lake = True

    def __init__(self, url: str, keys_file: Path | None = None) -> None:
        self._url = url
        named = os.environ.get(ENV_KEYS)
        self._keys_file = keys_file or (Path(named) if named else None)
        self.is_ledger = urlsplit(url).scheme in LEDGER
        self._where = None if self.is_ledger else address(url)
        self._alike = False  # whether no file need be opened to know its columns
        self._registered: set[str] = set()  # tables that the ledger has
        self._hosts: set[str] = set()
        in_folder = self._where is not None and self._where.bucket is None
        super().__init__(self._where.folder if self._where and in_folder else Path("/"), None)
        self.store = url if self._where is None else self._where.url

    def _open(self) -> Parts:
        self.store = self._url
        with explaining(self._url):
            # Who asks a whole fleet seldom does so on a machine that trains.
            self._con.execute(f"SET threads = {os.cpu_count() or 1}")
            self._con.execute(f"ATTACH {quoted(Path(self._scratch.name) / 'learnt.duckdb')} AS learnt")
            return self._load()

    def _raw_view(self, name: str, parts: Parts | None = None) -> str:
        table = name.removeprefix("raw_")
        rows = lake_rows(table, self._relation(table, parts or self._parts))
        if table in DATED:
            return f"CREATE OR REPLACE VIEW {name} AS {rows}"
        # In the files' order they are gathered by one core, a batch each: 1,920 files of energies took 1.7 s
        # (1.5 s of CPU), in any order 0.9 s (0.9). A view's rows have no order that anybody is promised.
        return (
            f"SET preserve_insertion_order = false; CREATE OR REPLACE TABLE learnt.main.{name} AS {rows};"
            f" SET preserve_insertion_order = true; CREATE OR REPLACE VIEW {name} AS FROM learnt.main.{name}"
        )

    def views(self) -> list[tuple[str, str, str, str, str]]:
        """As `Reader` has it; what host and day are is the same everywhere."""
        self._make(None)
        self._con.execute((HERE / "lake_comments.sql").read_text())
        said = {"host": "id of the host's store", "hosts": "ids of all hosts that it ran on",
                "day": "day (UTC) of the file that holds it: names the files to be read"}  # fmt: skip
        return [(*row[:4], row[4] or said.get(row[2], "")) for row in super().views()]

    def _load(self) -> Parts:
        keys = read_keys(self._keys_file)
        sealed: dict[str, list[str]] = {}
        if self._where is None:
            # PostgreSQL's extension wants a place for secrets; one that goes with this reader.
            self._con.execute("SET allow_persistent_secrets = true")
            self._con.execute(f"SET secret_directory = {quoted(self._scratch.name)}")
            attach_ledger(self._con, self._url, keys, read_only=True)
            hosts = ledger_hosts(self._con)
            tables = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
            self._registered = {name for (name,) in self._con.execute(tables).fetchall()}
        else:
            if self._where.bucket is not None:
                use_s3(self._con, keys)
            hosts, sealed = look_through(open_lake(self._where, keys))
            self._alike = _are_alike(hosts)
        if not hosts:
            raise LakeUnusable(
                f"no host has shipped to {self._url} yet\n  cure: `energyd start --lake` there; hours are"
                " shipped when they are over, and `energyd ship` sends what a stopped daemon left"
            )
        self._make_hosts(hosts)
        return Parts("lake", sealed, {}, {})

    def _reload(self) -> None:
        """After files vanished or were found damaged: those that are there, of the hosts that are known."""
        if self._where is None:
            return
        with explaining(self._url):
            hosts, there = look_through(open_lake(self._where, read_keys(self._keys_file)))
        self._alike = _are_alike(hosts)  # one may have been upgraded since
        mine = {t: [p for p in paths if _host_of(p) in self._hosts] for t, paths in there.items()}
        self._parts = Parts("lake", mine, {}, {})
        for table in DATED:
            if f"raw_{table}" in self._made:
                self._con.execute(self._raw_view(f"raw_{table}"))

    def _leave_out(self, error: duckdb.Error, parts: Parts | None) -> bool:
        """As `Reader` has it; of S3, what the error names, and what vanished is listed anew."""
        if self._where is None or parts is None:
            return False
        if self._where.bucket is None:
            return super()._leave_out(error, parts)
        text = str(error)
        if isinstance(error, duckdb.IOException):
            return "404" in text
        paths = (path for paths in parts.sealed.values() for path in paths)
        why = f"cannot be read: {first_line(error).partition(' in file')[0].partition(' of file')[0][:120]}"
        found = {p: why for p in paths if p in text and p not in self.left_out}
        self.left_out |= found
        return bool(found)

    def _explained(self, error: duckdb.Error, *, opening: bool = False) -> ReadError:
        if opening or isinstance(error, duckdb.IOException):
            return explained(self._url, error)
        return super()._explained(error)

    def _relation(self, table: str, parts: Parts) -> str | None:
        """Where the rows of a table are, with host and day; None: it has none yet."""
        if self._where is None:
            return f"lake.main.{table}" if table in self._registered else None
        paths = [p for p in parts.sealed.get(table, ()) if p not in self.left_out]
        kept = [quoted(f"{self._where.url}/{p}") for p in paths]
        if not kept:
            return None
        # A plain scan of samples, whose columns never change, is pruned best. Of other tables each file is
        # asked for its columns, unless all hosts say that theirs are the same.
        same = table == "samples" or self._alike
        return (
            f"read_parquet([{', '.join(kept)}], hive_partitioning = true,"
            f" hive_types = {{'host': VARCHAR, 'day': DATE}}, union_by_name = {not same})"
        )

    def _make_hosts(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        self._hosts = set(hosts)
        names = ", ".join(map(quoted, sorted(hosts)))
        self._con.execute(f"CREATE TYPE lake_host AS ENUM ({names})")
        self._con.execute(
            "CREATE TABLE raw_hosts (host VARCHAR, hostname VARCHAR, version VARCHAR,"
            " shipped_until_ns BIGINT, clock_s DOUBLE, clock_doubt_s DOUBLE)"
        )
        for host, told in sorted(hosts.items()):
            until = told.get("shipped_until_hour")
            self._con.execute(
                "INSERT INTO raw_hosts VALUES (?, ?, ?, ?, ?, ?)",
                [host, told.get("hostname"), told.get("version"), None if until is None else until * HOUR_NS,
                 told.get("clock_s"), told.get("clock_doubt_s")],
            )  # fmt: skip


def open_lake_reader(url: str, keys_file: Path | None = None) -> LakeReader:
    """Open a lake: a folder, s3://BUCKET/PREFIX or postgresql://HOST/DATABASE. Raises ReadError."""
    with explaining(url):
        check_ledger(url)
        return LakeReader(url, keys_file)


def look_through(lake: Lake) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """({host: what he says of himself}, {table: the keys that count, by host and day}). Raises LakeError."""
    folders: dict[tuple[str, str, str], set[str]] = {}
    said: dict[str, str] = {}
    hosts: dict[str, dict[str, Any]] = {}
    for key in lake.names():
        if (segment := parse(key)) is not None:
            folders.setdefault((segment.table, segment.host, segment.day), set()).add(segment.name)
            hosts.setdefault(segment.host, {})
        elif (host := told_host(key)) is not None:
            said[host] = key
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:  # a thousand hosts in turn take half a minute
        hosts |= zip(said, pool.map(lambda key: told_by(lake, key), said.values()), strict=True)
    found: dict[str, list[str]] = {}
    for (table, host, day), names in sorted(folders.items()):
        found.setdefault(table, []).extend(f"{table}/host={host}/{day}/{name}" for name in counting(names))
    return hosts, found


def _host_of(key: str) -> str:
    segment = parse(key)
    return segment.host if segment else ""


def _are_alike(hosts: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every file has today's columns, so that none need be opened to ask for them."""
    return all(told.get("schemas") == [fingerprint()] for told in hosts.values())
