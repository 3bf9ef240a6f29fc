"""Who used this artifact, and which attempts were made at it? Lines of JSON that only grow.

Each line is one write to a file opened for appending, and on the disk before the call returns: several
processes may append at once, and what was torn by a power cut is passed over.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from energyd_pipelines.errors import DistillError

USES: Final = "uses.jsonl"


def now() -> str:
    """This moment, UTC, as ISO 8601 has it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line, durably. Raises DistillError."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # what was torn stays a line of its own
            if os.write(fd, line) != len(line):
                raise OSError("the disk took only a part of it")
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(path.parent)
    except OSError as error:
        raise DistillError(
            f"cannot note what was done: {error.strerror or error}",
            where=str(path),
            cure="make room on the disk",
        ) from error


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; [] if there is no such file. Raises DistillError."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DistillError(
            f"cannot read what was noted: {error.strerror}", where=str(path), cure="look at this path"
        ) from error
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def sync_folder(folder: Path) -> None:
    """Make names in a folder as durable as the files that they name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
