"""How is one piece of the true-shape study run beside a daemon, and what is kept of it?

`OUT/PART-TIME.tar.gz` holds the daemon's store, the windows' lines, the machine and the log: one file a
piece, whole, since machines that are lent take few files back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench.accuracy import paths
from bench.accuracy.options import machine
from bench.accuracy.store import Daemon

SETTLE_S: Final = 3.0
"""The last samples must follow the last stage."""


def run(words: list[str], out: Path, seen: list[Path], cache: Path) -> int:
    """Measure one piece; the exit code of the runner. Whatever happens to it, its store is packed."""
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="h1s"))
    windows = scratch / "windows"
    windows.mkdir()
    for i, archive in enumerate(sorted(a for folder in [out, *seen] for a in folder.glob("*.tar.gz"))):
        with tarfile.open(archive) as tar:
            found = tar.extractfile("windows.jsonl")
            assert found is not None
            (windows / f"windows-before-{i}.jsonl").write_bytes(found.read())
    paths.export()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT / "pipelines"), os.environ["PYTHONPATH"]])
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    said = {"began": began, "words": words, **machine()}
    log = scratch / "energyd.log"
    daemon = Daemon(scratch, log)
    try:
        daemon.wait()
        command = [sys.executable, "-m", "energyd_pipelines.h100", *words, f"out={windows}", f"cache={cache}"]
        done = subprocess.run(command, check=False)
        said["exit"] = done.returncode
        time.sleep(SETTLE_S)
    finally:
        daemon.stop()
        part = next((w.partition("=")[2] for w in words if w.startswith("part=")), "students")
        (scratch / "machine.json").write_text(json.dumps(said, indent=1, default=str))
        (windows / "windows.jsonl").touch()
        with tarfile.open(out / f"{part}-{began}.tar.gz", "w:gz") as tar:
            tar.add(daemon.store, "store", filter=_no_sockets)
            for file in (windows / "windows.jsonl", scratch / "machine.json", log):
                tar.add(file, file.name)
        shutil.rmtree(scratch, ignore_errors=True)
    return int(said["exit"])


def _no_sockets(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return entry if entry.isfile() or entry.isdir() else None


def unpack(folder: Path, into: Path) -> list[tuple[Path, list[dict[str, Any]], dict[str, Any]]]:
    """(store, lines of windows, machine) of every piece in a folder, oldest first."""
    found = []
    for archive in folder.glob("*.tar.gz"):
        place = into / archive.name.removesuffix(".tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        lines = [json.loads(line) for line in (place / "windows.jsonl").read_text().splitlines()]
        found.append((place / "store", lines, json.loads((place / "machine.json").read_text())))
    return sorted(found, key=lambda piece: str(piece[2]["began"]))
