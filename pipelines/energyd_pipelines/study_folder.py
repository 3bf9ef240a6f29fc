"""Where does an execution of a study lie, which one is to be gone on with, and who works in it?"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from energyd_pipelines.config import USAGE, Config
from energyd_pipelines.errors import AGAIN, DistillError

RESULT: Final = {"pipeline": str, "student": str, "exact_match": float, "run_ids": list, "saved": list}
"""What is read of a cell's `result.json`, and of which type it must be."""


def new_folder(config: Config) -> Path:
    """A folder for this execution alone, made now. Raises DistillError if there can be none."""
    base = found = Path(config.out) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{config.hash[:4]}"
    if os.environ.get("RANK", "0") != "0":
        return base  # the first process makes it, and tells where
    _make(base.parent)
    n = 1
    while True:
        try:
            found.mkdir()
        except FileExistsError:  # another execution began in this second
            n += 1
            found = base.with_name(f"{base.name}-{n}")
        else:
            return found


def _make(folder: Path) -> None:
    """A folder that may be there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        said = "it is a file" if folder.is_file() else error.strerror
        raise DistillError(
            f"results cannot be put there: {said}", where=str(folder), cure="out=FOLDER", code=USAGE
        ) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder: two processes in it would train every student twice, each over the other's files.

    What nothing was begun in is removed again, so that `--resume` never takes it for the last execution.
    """
    _make(folder)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise DistillError(
            "this study is running already", where=str(folder),
            cure="wait for it, or end it",
            code=AGAIN,
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # it holds something
            folder.rmdir()
        os.close(held)


def newest_folder(config: Config) -> Path:
    """The newest execution of this very configuration. Raises DistillError if there is none."""
    begun = Path(config.out).glob(f"{glob.escape(config.name)}-*-{config.hash[:4]}*/*/state.json")
    found = sorted({path.parents[1] for path in begun}, key=lambda p: p.stat().st_mtime)
    if not found:
        raise DistillError(
            f"nothing to resume: no execution of {config.name} with these settings", where=config.out,
            cure="the same words as then, or without --resume",
        )  # fmt: skip
    return found[-1]


def read_result(path: Path) -> dict[str, Any] | None:
    """What a finished cell came to; None: it is not finished. Raises DistillError for a damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(k), kind) for k, kind in RESULT.items()):
        raise DistillError(
            "what this cell came to cannot be read", where=str(path),
            cure="delete this file, then --resume: the student is evaluated again",
        )  # fmt: skip
    return found
