"""How do shipped segments get into a ledger, uncopied: each once, in batches, whoever else is at it?

The ledger is DuckLake on PostgreSQL: a table for each of ours with host and day beside, partitioned by both.
One transaction adds a batch and takes a turn, a row that it changes: of two registrars at once the later
one's commit is refused, and it looks anew at what is there. A day's file takes the place of its hours in one
transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import duckdb

from energyd.store import TABLES, counting, is_hour_file
from energyd.store.base import first_line, quoted
from energyd.store.columns import schema
from energyd.store.lake import Address, LakeError, LakeRefused, LakeUnreachable, Segment, address, parse
from energyd.store.lake_attach import LEDGER, attach_ledger, check_ledger, explained
from energyd.store.lake_files import open_lake
from energyd.store.lake_keys import read_keys
from energyd.store.lake_read import look_through

BATCH: Final = 200
"""Segments a transaction: each is a row in PostgreSQL, and some a column; a commit costs as much as a few."""
TRIES: Final = 20


@dataclass
class Registered:
    """What became of it."""

    added: int = 0
    known: int = 0  # were there before
    hosts: int = 0
    left_out: dict[str, str] = field(default_factory=dict)  # {key: why}; tried again next time


def register(lake_url: str, ledger_url: str, keys_file: Path | None = None) -> Registered:
    """Add every segment of a lake that counts and is not in the ledger yet. Raises LakeError, ReadError."""
    check_ledger(ledger_url)
    said = urlsplit(ledger_url)
    if said.password is not None or "password" in said.query:  # of another kind: its error would show it
        raise LakeRefused("the ledger's address holds a password\n  cure: postgresql://USER@HOST/DATABASE")
    if not ledger_url.startswith(tuple(f"{scheme}://" for scheme in LEDGER)):
        raise LakeError(f"no ledger at {ledger_url}\n  cure: --ledger postgresql://USER@HOST/DATABASE")
    where, keys = address(lake_url), read_keys(keys_file)
    hosts, found = look_through(open_lake(where, keys))
    done = Registered(hosts=len(hosts))
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as con:
        try:
            # Of a new ledger the first registrar makes the tables, and another at that moment fails.
            _again(lambda: attach_ledger(con, ledger_url, keys, read_only=False, data=where.url))
            _in_turn(con, lambda: _make_tables(con))
            _in_turn(con, lambda: _tell_hosts(con, hosts))
            for table in TABLES:
                pending = iter(found.get(table, []))
                while batch := list(islice(pending, BATCH)):
                    before = (done.added, done.known)
                    _in_turn(con, lambda batch=batch, table=table, before=before: (  # type: ignore[misc]
                        _add(con, where, table, batch, done, before)
                    ))  # fmt: skip
        except duckdb.Error as error:
            raise explained(ledger_url, error) from error
    return done


def _in_turn(con: duckdb.DuckDBPyConnection, work: Callable[[], object]) -> None:
    """Do it in one transaction, again if another registrar's came first. Raises duckdb.Error, LakeError."""

    def whole() -> None:
        con.execute("BEGIN")
        try:
            work()
            con.execute("COMMIT")
        except BaseException:
            _rollback(con)
            raise

    _again(whole)


def _again(work: Callable[[], object]) -> None:
    """Do it, and again while others are first. Raises duckdb.Error, LakeError."""
    for left in reversed(range(TRIES)):
        try:
            work()
            return
        except duckdb.Error as error:
            text = str(error).lower()
            if "conflict" not in text and "already exists" not in text and "duplicate key" not in text:
                raise
            if not left:
                raise LakeUnreachable(
                    "others register all the time, and were first each time\n  cure: one registrar is enough"
                ) from error
            time.sleep(0.05 * (TRIES - left))


def _rollback(con: duckdb.DuckDBPyConnection) -> None:
    try:
        con.execute("ROLLBACK")
    except duckdb.Error:
        pass  # the failed COMMIT has rolled back already


def _make_tables(con: duckdb.DuckDBPyConnection) -> None:
    """What is missing of tables and columns: a newer release brings some."""
    rows = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns()"
        " WHERE database_name = 'lake' AND schema_name = 'main'"
    ).fetchall()
    have: dict[str, set[str]] = {}
    for table, column in rows:
        have.setdefault(table, set()).add(column)
    if "turn" not in have:
        con.execute("CREATE TABLE lake.main.turn (n BIGINT)")
        con.execute("INSERT INTO lake.main.turn VALUES (0)")
        con.execute("CREATE TABLE lake.main.hosts_told (host VARCHAR, facts VARCHAR)")
    for table, columns in schema().items():
        if table not in have:
            kinds = ", ".join(f"{name} {kind}" for name, kind in columns)
            con.execute(f"CREATE TABLE lake.main.{table} (host VARCHAR, day DATE, {kinds})")
            con.execute(f"ALTER TABLE lake.main.{table} SET PARTITIONED BY (host, day)")
            continue
        for name, kind in columns:
            if name not in have[table]:
                con.execute(f"ALTER TABLE lake.main.{table} ADD COLUMN {name} {kind}")


def _take_turn(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("UPDATE lake.main.turn SET n = n + 1")


def _tell_hosts(con: duckdb.DuckDBPyConnection, hosts: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what the hosts say of themselves, of those who say something new."""
    before = dict(con.execute("SELECT host, facts FROM lake.main.hosts_told").fetchall())
    fresh = {host: json.dumps(told, sort_keys=True) for host, told in hosts.items()}
    news = {host: facts for host, facts in fresh.items() if before.get(host) != facts}
    if news:
        _take_turn(con)
        con.execute("DELETE FROM lake.main.hosts_told WHERE host IN (SELECT unnest($1))", [list(news)])
        con.execute("INSERT INTO lake.main.hosts_told SELECT unnest($1), unnest($2)",
                    [list(news), list(news.values())])  # fmt: skip


def _add(
    con: duckdb.DuckDBPyConnection,
    where: Address,
    table: str,
    keys: list[str],
    done: Registered,
    before: tuple[int, int],
) -> None:
    """Add one batch of a table; counted anew at each try."""
    done.added, done.known = before
    known = set(_registered(con, where, table))
    folders: dict[str, set[str]] = {}
    for key in known:
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    # What was listed may be old: another registrar has put the day's file in the place of its hours since.
    fresh = [key for key in keys if key not in known and _counts(key, folders)]
    done.known += len(keys) - len(fresh)
    if not fresh:
        return
    _take_turn(con)
    for key in fresh:
        segment = parse(key)
        assert segment is not None
        if (why := _strange(con, where, segment)) is not None:
            done.left_out[key] = why
            continue
        # A day's file stands for all of its hours. Asked of a day without any, DuckLake reads what this very
        # transaction has added: a batch took minutes.
        if not is_hour_file(segment.name) and key.rpartition("/")[0] in folders:
            con.execute(
                f"DELETE FROM lake.main.{table} WHERE host = $1 AND day = $2::DATE",
                [segment.host, segment.day.removeprefix("day=")],
            )
        con.execute(
            f"CALL ducklake_add_data_files('lake', '{table}', {quoted(f'{where.url}/{key}')},"
            " hive_partitioning => true, allow_missing => true)"
        )
        done.added += 1


def _counts(key: str, folders: Mapping[str, set[str]]) -> bool:
    """Whether a segment holds what none of those does that are in the ledger of its day already."""
    folder, _, name = key.rpartition("/")
    return name in counting({*folders.get(folder, ()), name})


def _registered(con: duckdb.DuckDBPyConnection, where: Address, table: str) -> Iterator[str]:
    """The keys of a table's segments that are in the ledger."""
    rows = con.execute(f"SELECT data_file FROM ducklake_list_files('lake', '{table}')").fetchall()
    for (path,) in rows:
        yield str(path).removeprefix(f"{where.url}/")


def _strange(con: duckdb.DuckDBPyConnection, where: Address, segment: Segment) -> str | None:
    """Why a segment cannot be added, from its columns; None if it can."""
    ours = dict(schema()[segment.table])
    file = quoted(f"{where.url}/{segment.key}")
    try:
        with con.cursor() as look:  # a file that cannot be read must not end the batch's transaction
            found = look.execute(
                "SELECT column_name, column_type FROM"
                f" (DESCRIBE FROM read_parquet({file}, hive_partitioning = false))"
            ).fetchall()
    except duckdb.Error as error:
        return f"cannot be read: {first_line(error)[:120]}"
    if newer := sorted(name for name, _ in found if name not in ours):
        return f"is of a newer release: it has {', '.join(newer)}; cure: upgrade energyd here"
    for name, kind in found:
        if kind != ours[name] and {kind, ours[name]} != {"JSON", "VARCHAR"}:
            return f"has {name} as {kind}, which is {ours[name]} here; cure: the same release on both"
    return None
