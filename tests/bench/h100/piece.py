"""How is one piece of the study run beside a daemon, and what is kept of it?

`OUT/NAME-TIME.tar.gz` holds the daemon's store, what the piece wrote, the machine and the log: one file a
piece, whole, since machines that are lent take few files back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.accuracy import paths
from bench.accuracy.options import machine
from bench.accuracy.store import Daemon

SETTLE_S: Final = 3.0
"""The last samples must follow the last stage."""
FRONTIER: Final = "frontier"
_OF_WINDOWS: Final = re.compile(r"(students|logits|generate|eager|teacher)-\d{8}T\d{6}Z\.tar\.gz")


def run(words: list[str], out: Path, seen: list[Path], cache: Path) -> int:
    """Measure windows of true shapes; the exit code of the runner. `seen`: folders of earlier archives."""
    part = next((w.partition("=")[2] for w in words if w.startswith("part=")), "students")

    def work(folder: Path) -> int:
        for i, archive in enumerate(sorted(a for place in [out, *seen] for a in archives(place))):
            with tarfile.open(archive) as tar:
                found = tar.extractfile("windows.jsonl")
                assert found is not None
                (folder / f"windows-before-{i}.jsonl").write_bytes(found.read())
        (folder / "windows.jsonl").touch()
        return python("energyd_pipelines.h100", *words, f"out={folder}", f"cache={cache}")

    return beside_daemon(part, words, out, work, keep=["windows.jsonl"])


def beside_daemon(
    name: str, words: list[str], out: Path, work: Callable[[Path], int], *, keep: list[str],
    place: Path | None = None, also: list[tuple[Path, str]] | None = None,
) -> int:  # fmt: skip
    """Do the work in a scratch folder while a daemon measures; its store is packed whatever happens.

    `place`: a folder that stays, in which a later call goes on, in the same store. `also`: more for the
    archive, with its name there.
    """
    out.mkdir(parents=True, exist_ok=True)
    scratch = place or Path(tempfile.mkdtemp(prefix="h1s"))
    folder = scratch / "work"
    folder.mkdir(parents=True, exist_ok=True)
    paths.export()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT / "pipelines"), os.environ["PYTHONPATH"]])
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    said: dict[str, Any] = {"began": began, "words": words, **machine()}
    log = scratch / "energyd.log"
    daemon = Daemon(scratch, log)
    try:
        daemon.wait()
        said["exit"] = work(folder)
        time.sleep(SETTLE_S)
    finally:
        daemon.stop()
        (scratch / "machine.json").write_text(json.dumps(said, indent=1, default=str))
        with tarfile.open(out / f"{name}-{began}.tar.gz", "w:gz") as tar:
            if daemon.store.exists():  # else the daemon never started, and what it said is to be heard
                tar.add(daemon.store, "store", filter=_no_sockets)
            for file, as_name in also or ():
                tar.add(file, as_name, filter=_no_sockets)
            for file in (*(folder / each for each in keep), scratch / "machine.json", log):
                if file.exists():
                    tar.add(file, file.name)
        if place is None:
            shutil.rmtree(scratch, ignore_errors=True)
    return int(said["exit"])


def archives(folder: Path) -> list[Path]:
    """Archives of windows in a folder, whatever else lies there."""
    return [path for path in folder.glob("*.tar.gz") if _OF_WINDOWS.fullmatch(path.name)]


def unpack(folder: Path, into: Path) -> list[tuple[Path, list[dict[str, Any]], dict[str, Any]]]:
    """(store, lines of windows, machine) of every piece in a folder, oldest first."""
    found = []
    for archive in archives(folder):
        place = into / archive.name.removesuffix(".tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        lines = [json.loads(line) for line in (place / "windows.jsonl").read_text().splitlines()]
        found.append((place / "store", lines, json.loads((place / "machine.json").read_text())))
    return sorted(found, key=lambda piece: str(piece[2]["began"]))


def python(module: str, *words: str, at: Path | None = None) -> int:
    """Run a module of ours; its exit code."""
    return subprocess.run([sys.executable, "-m", module, *words], cwd=at, check=False).returncode


def _no_sockets(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return entry if entry.isfile() or entry.isdir() else None
