"""Is a sealed file still there and, bit for bit, what was written? Lists that `sha256sum -c` reads.

DuckDB checks its own files, and Parquet says little: of 300 small sealed files with one flipped bit 110 gave
an error, 39 were read with other values and none (tests/faults/damage_figures.py). From the store's folder:
sha256sum --ignore-missing -c sealed/sums/*.sha256
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from energyd.store import (
    DAY_FILE,
    DROPPED,
    MONTH_FILE,
    THIN_FILE,
    counting,
    end_hour,
    hour_of_sealed,
    is_folder,
    is_hour_file,
    month_of,
    names_in,
)

WAIT_S: Final = 5.0
"""How long another process may be at the lists: it takes milliseconds."""
_CHUNK: Final = 1 << 20
_LINE: Final = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<path>sealed/[a-z_]+/(?P<folder>[^/]+)/[^/]+)")


def place(store: Path, relative: str, file: Path) -> None:
    """Write down what `file` holds, then rename it to `relative`. Raises OSError.

    In one step, as others see it: who tidies in between would find a line whose file is not there.
    """
    line = f"{digest(file)}  {relative}\n".encode()
    target = _list_of(store, relative)
    with _alone(store):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        file.rename(store / relative)


def altered(store: Path, relative: str) -> str | None:
    """Why a sealed file is not what was written; None if it is, or if nobody wrote it down."""
    expected = _listed(_list_of(store, relative)).get(relative)
    if expected is None or digest(store / relative) == expected:
        return None
    return "is not what was written: its SHA-256 differs"


def missing(store: Path, before_hour: int) -> list[str]:
    """Files of hours below `before_hour` that were written and are gone, though nothing stands for them.

    A longer file stands for what it was made of, `dropped` for what was too old. Of a day's or month's one
    file only that is told, not what it was made of. Relative to the store, oldest first.
    """
    listed: dict[tuple[str, str], set[str]] = {}  # (table, folder): names
    for target in (store / "sealed" / "sums").glob("*.sha256"):
        for path in _listed(target):
            if hour_of_sealed(path) < before_hour:
                _, table, folder, name = path.split("/")
                listed.setdefault((table, folder), set()).add(name)
    gone: list[str] = []
    for table, folder in sorted(listed, key=lambda key: (end_hour(key[1]), key)):
        month = month_of(folder)
        of_month = names_in(store / "sealed" / table / month)
        was_whole = MONTH_FILE in listed.get((table, month), set())
        if of_month & {MONTH_FILE, DROPPED}:
            continue  # it stands for its days
        if was_whole and not _has_days(store, table, month):
            gone += [f"sealed/{table}/{month}/{MONTH_FILE}"] if folder == month else []
        elif folder != month:
            there = names_in(store / "sealed" / table / folder)
            names = _unreplaced(listed[table, folder], there)
            gone += (f"sealed/{table}/{folder}/{name}" for name in names)
    return gone


def _has_days(store: Path, table: str, month: str) -> bool:
    """Whether a file of one of a month's days is there."""
    root = store / "sealed" / table
    days = (name for name in names_in(root) if is_folder(name) and name != month == month_of(name))
    return any(counting(names_in(root / day)) for day in days)


def _unreplaced(listed: set[str], there: set[str]) -> list[str]:
    """Of one day's files those that are gone, and nothing stands for them."""
    if DROPPED in there:
        return []
    for whole in (THIN_FILE, DAY_FILE):
        if whole in there:
            return []
        if whole in listed and not counting(there):
            return [whole]
    return sorted(filter(is_hour_file, listed - there))


def forget(store: Path, table: str, folder: str) -> None:
    """Take the files of a table's day or month that are no more from the list; of a month its days' as well.

    Only once it is known what became of them. Raises OSError.
    """
    whole = folder == month_of(folder)
    with _alone(store):
        for target in (store / "sealed" / "sums").glob(f"{_name_of(folder)}{'*' if whole else ''}.sha256"):
            _keep(store, target, lambda path: path.split("/")[1] != table)


def tidy(store: Path, folder: str) -> None:
    """Forget files for which others stand: of a day (`day=…`), or (`month=…`) of all until that month's end.

    Only for folders that get no more files: the daemon appends to today's list. One that is gone stays.
    """
    until = _name_of(folder)
    with _alone(store):
        gone = set(missing(store, end_hour(folder)))
        for target in sorted((store / "sealed" / "sums").glob("*.sha256")):
            of_days = folder.startswith("day=")
            if target.stem == until if of_days else target.stem[: len(until)] <= until:
                _keep(store, target, gone.__contains__)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Change the lists alone: the daemon seals while upkeep's child tidies. Raises OSError."""
    folder = store / "sealed" / "sums"
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:  # that of a stopped process; who seals tries again
                    raise TimeoutError(f"{folder / '.lock'} was not free for {WAIT_S:g} s") from None
                time.sleep(0.005)
        yield
    finally:
        os.close(fd)


def _keep(store: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Of a list the files that are there, and those wanted."""
    listed = _listed(target)
    kept = {p: digest_ for p, digest_ in listed.items() if wanted(p) or (store / p).exists()}
    if not kept:
        target.unlink(missing_ok=True)
    elif kept != listed:
        aside = target.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text("".join(f"{digest_}  {path}\n" for path, digest_ in kept.items()))
        aside.replace(target)


def digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    found = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _list_of(store: Path, relative: str) -> Path:
    """The list of a sealed file's day or month."""
    return store / "sealed" / "sums" / f"{_name_of(relative.split('/')[2])}.sha256"


def _name_of(folder: str) -> str:
    return folder.partition("=")[2]


def _listed(target: Path) -> dict[str, str]:
    """{path: SHA-256}; of a path twice the later (a seal that died before its commit is done again).

    A line that is none is passed over: its file goes unchecked.
    """
    try:
        text = target.read_text(errors="replace")
    except FileNotFoundError:
        return {}
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return {m["path"]: m["digest"] for m in lines if m and _is_dated(m["folder"])}


def _is_dated(folder: str) -> bool:
    """Whether there is such a day or month: a damaged list must keep no daemon from starting."""
    try:
        return is_folder(folder) and end_hour(folder) > 0
    except ValueError:
        return False
