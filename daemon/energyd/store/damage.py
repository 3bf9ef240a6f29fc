"""Which files of a store are damaged, and where do they go? Aside, never away: a person may want them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import duckdb

from energyd.store.base import first_line, parquet

_SIGNS: Final = (
    "Corrupt", "checksum", "replaying WAL", "Could not read enough bytes",
    "not a valid DuckDB database file", "Serialization Error", "INTERNAL Error", "FATAL Error",
)  # fmt: skip
"""What DuckDB 2.0 says of a flipped, zeroed or cut database or log: of 120 such files 68 gave one of these
and 52 opened (tests/faults/damage_figures.py). A full disk, a file of a newer release or one that may not be
read says none of them."""

ASIDE: Final = ".damaged-"
"""In the name of a file that was set aside; nothing reads such a file."""

_PARQUET_ERROR: Final = re.compile(
    r"parquet|thrift|TProtocol|bitpacked|zstd|corrupt|magic|page", re.IGNORECASE
)
"""What DuckDB says of a Parquet file that is flipped inside; often without its name."""

_MAGIC: Final = b"PAR1"
_LEAST: Final = 12  # magic, length of the footer, magic


def is_damage(error: BaseException) -> bool:
    """Whether an error of DuckDB's tells of a damaged file, and not of the machine around it."""
    return any(sign in str(error) for sign in _SIGNS)


def set_aside(path: Path) -> Path:
    """Rename to `NAME.damaged-YYYYmmddTHHMMSS` (UTC), which nothing reads; the new path. Raises OSError."""
    aside = aside_name(path)
    path.rename(aside)
    return aside


def aside_name(path: Path) -> Path:
    """A free name beside a file, which says that it is damaged and since when that is known."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name, n = f"{path.name}{ASIDE}{stamp}", 1
    while path.with_name(name).exists():
        n += 1
        name = f"{path.name}{ASIDE}{stamp}-{n}"
    return path.with_name(name)


def cut_parquet(path: Path) -> str | None:
    """Why a Parquet file cannot be whole, from its first and last bytes; None if it may be."""
    size = path.stat().st_size
    if size < _LEAST:
        return f"is {size} bytes long"
    with path.open("rb", buffering=0) as file:
        head = file.read(4)
        tail = os.pread(file.fileno(), 8, size - 8)
    if head != _MAGIC or tail[4:] != _MAGIC:
        return "does not begin and end as Parquet does"
    footer = int.from_bytes(tail[:4], "little")
    return None if footer <= size - _LEAST else f"is cut: its footer has {footer} bytes"


def unreadable_parquet(root: Path, relative: str) -> str | None:
    """Why not every value of a Parquet file can be read; None if each can (that it is right, sums tell)."""
    cut = cut_parquet(root / relative)
    if cut is not None:
        return cut
    try:
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute("SET enable_progress_bar = false")
            con.execute(f"SELECT sum(hash(t)) FROM {parquet(root, [relative])} t").fetchall()
    except duckdb.Error as error:
        return first_line(error)
    return None


def damaged_among(root: Path, paths: Iterable[str], error: BaseException) -> dict[str, str]:
    """Which of these Parquet files made DuckDB fail, and why; empty if its error tells of something else."""
    there = [p for p in paths if (root / p).exists()]
    if found := {p: why for p in there if (why := cut_parquet(root / p)) is not None}:
        return found
    text = str(error)
    if not _PARQUET_ERROR.search(text):
        return {}
    named = [p for p in there if p in text]
    return {p: why for p in named or there if (why := unreadable_parquet(root, p)) is not None}
