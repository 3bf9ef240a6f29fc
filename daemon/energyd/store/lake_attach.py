"""How does DuckDB get at a ledger or at S3, with which extensions, and what do its errors about them mean?"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import duckdb

from energyd.store.base import first_line, quoted
from energyd.store.lake import LakeError, LakeRefused, LakeUnreachable
from energyd.store.read_errors import LakeAway, LakeForbidden, LakeUnusable, ReadError

LEDGER: Final = ("postgresql", "postgres")
"""How the address of a ledger begins."""


@contextlib.contextmanager
def explaining(url: str) -> Iterator[None]:
    """Errors of a lake, and DuckDB's about it, as ReadErrors."""
    try:
        yield
    except LakeRefused as error:
        raise LakeForbidden(str(error)) from error
    except LakeUnreachable as error:
        raise LakeAway(str(error)) from error
    except LakeError as error:
        raise LakeUnusable(str(error)) from error
    except duckdb.Error as error:
        raise explained(url, error) from error


def check_ledger(url: str) -> None:
    """Refuse an address that holds a password. Raises LakeError."""
    parts = urlsplit(url)
    if parts.scheme in LEDGER and (parts.password is not None or "password" in parts.query):
        raise LakeRefused(
            "the ledger's address holds a password, which every process list and log would show\n"
            "  cure: PGPASSFILE, or PGPASSWORD in --lake-keys FILE (mode 0600)"
        )


def attach_ledger(
    con: duckdb.DuckDBPyConnection, url: str, keys: Mapping[str, str], *, read_only: bool, data: str = ""
) -> None:
    """Attach a ledger as `lake`; `data`: where its segments lie, once. Raises LakeError, duckdb.Error."""
    for name in ("ducklake", "postgres_scanner"):
        load_extension(con, name, "a ledger")
    if keys.get("PGPASSWORD"):
        os.environ["PGPASSWORD"] = keys["PGPASSWORD"]  # in the address it would be in every error
    if keys.get("AWS_ACCESS_KEY_ID"):
        use_s3(con, keys)
    options = ["READ_ONLY" if read_only else "CREATE_IF_NOT_EXISTS true"]
    if data:
        options.append(f"DATA_PATH {quoted(data)}")
    con.execute(f"ATTACH {quoted(f'ducklake:postgres:{url}')} AS lake ({', '.join(options)})")


def use_s3(con: duckdb.DuckDBPyConnection, keys: Mapping[str, str]) -> None:
    """Let a connection read S3. Raises LakeError."""
    load_extension(con, "httpfs", "S3")
    if not keys.get("AWS_ACCESS_KEY_ID") or not keys.get("AWS_SECRET_ACCESS_KEY"):
        raise LakeRefused(
            "no credentials for S3\n"
            "  cure: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment or --lake-keys FILE"
        )
    parts = urlsplit(keys.get("AWS_ENDPOINT_URL", ""))
    given = {
        "KEY_ID": keys["AWS_ACCESS_KEY_ID"], "SECRET": keys["AWS_SECRET_ACCESS_KEY"],
        "SESSION_TOKEN": keys.get("AWS_SESSION_TOKEN"),
        "REGION": keys.get("AWS_REGION") or keys.get("AWS_DEFAULT_REGION") or "us-east-1",
        "ENDPOINT": parts.netloc or None, "URL_STYLE": "path" if parts.netloc else None,
        "USE_SSL": "false" if parts.scheme == "http" else None,
    }  # fmt: skip
    options = ", ".join(f"{name} {quoted(value)}" for name, value in given.items() if value)
    try:
        con.execute(f"CREATE OR REPLACE SECRET lake (TYPE s3, {options})")
    except duckdb.Error:  # its text may hold them
        raise LakeRefused("DuckDB does not take the S3 credentials\n  cure: look at their spelling") from None


def load_extension(con: duckdb.DuckDBPyConnection, name: str, what: str) -> None:
    """Load an extension of DuckDB from the package that brings it, else one that is installed. No network."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    at = [
        p for f in folders for p in Path(f).glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
    ]
    try:
        con.execute(f"LOAD {quoted(at[0]) if at else name}")
    except duckdb.Error as error:
        raise LakeError(
            f"{what} needs DuckDB's extension {name}, which is not here for DuckDB {duckdb.__version__}\n"
            "  cure: a virtual environment of its own with pip install 'energyd[fleet]' (docs/fleet.md)"
        ) from error


def ledger_hosts(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """What the registrar wrote down of each host."""
    try:
        rows = con.execute("SELECT host, facts FROM lake.main.hosts_told").fetchall()
    except duckdb.CatalogException:
        return {}
    return {host: json.loads(facts) for host, facts in rows}


def explained(url: str, error: duckdb.Error) -> ReadError:
    """DuckDB's error about a lake as one of ours, without an address of its own making."""
    text = str(error)
    if "password authentication failed" in text or "no password supplied" in text:
        return LakeForbidden(
            f"{url}: PostgreSQL does not take this user or password\n"
            "  cure: PGPASSFILE, or PGPASSWORD in --lake-keys FILE (mode 0600)"
        )
    if re.search(r'database ".*" does not exist', text):  # the server answers, and trying again helps nobody
        return LakeUnusable(
            f"{url}: PostgreSQL has no such database\n  cure: createdb, then `energyd register`"
        )
    if "could not connect" in text or "Connection refused" in text or "connection to server" in text:
        return LakeAway(f"{url}: PostgreSQL does not answer\n  cure: try again, or look after it")
    if re.search(r"Could not (connect|establish)|[Tt]imed? ?out", text):
        return LakeAway(f"{url}: {first_line(error)[:200]}\n  cure: try again, or look after it")
    if re.search(r"\b403\b|[Pp]ermission denied", text):
        return LakeForbidden(f"{url}: forbidden: {first_line(error)[:160]}\n  cure: other credentials")
    return LakeUnusable(f"cannot read the lake {url}: {first_line(error)[:200]}\n  cure: docs/fleet.md")
