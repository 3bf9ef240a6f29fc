"""In which form does a benchmark tell its figures, on which machine, and is a target met?

A benchmark makes rows and hands them to `tell`: a table on the screen and, with --out, one JSON file:

    {"name", "question", "began", "seconds", "machine": {…}, "quick": bool, "raw": {…},
     "failed": what ended it, or null,
     "rows": [{"what", "figure", "unit", "target", "at_least", "peer", "peer_figure", "note"}]}

`figure` None means that it could not be measured, and `note` says why. Nothing here says `met` but `met()`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = [str(ROOT / room) for room in ("tests", "client", "daemon", "analysis", "pipelines")]
sys.path[:0] = HERE  # what is measured is this tree, whatever tree is installed
PACKAGES = ("energyd", "duckdb", "numpy", "pyzmq", "msgpack", "msgspec", "codecarbon", "zeus", "nvitop")


@dataclass
class Row:
    """One figure. `at_least`: the target is a floor, not a ceiling. `peer_figure` is in the same unit."""

    what: str
    figure: float | None
    unit: str
    target: float | None = None
    at_least: bool = False
    peer: str | None = None
    peer_figure: float | None = None
    note: str = ""


def met(row: Row) -> bool | None:
    """Whether a figure reaches its target; None where it has no target. Not measured is not met."""
    if row.target is None:
        return None
    if row.figure is None:
        return False
    return row.figure >= row.target if row.at_least else row.figure <= row.target


def number(value: float | None) -> str:
    """Three digits that count, no exponent."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def cells(row: Row) -> list[str]:
    """What, figure, target, met, ratio to the peer, note."""
    sign = "≥" if row.at_least else "≤"
    target = "" if row.target is None else f"{sign} {number(row.target)} {row.unit}"
    verdict = {True: "yes", False: "**no**", None: ""}[met(row)]
    ratio = ""
    if row.peer and row.figure and row.peer_figure is not None:
        ratio = f"{number(row.peer_figure)} {row.unit} ({number(row.peer_figure / row.figure)} ×), {row.peer}"
    elif row.peer:
        ratio = f"{row.peer}: not run"
    return [row.what, f"{number(row.figure)} {row.unit}", target, verdict, ratio, row.note]


@dataclass
class Bench:
    """One benchmark's call."""

    name: str
    question: str
    options: argparse.Namespace
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    began: float = field(default_factory=time.time)

    def add(self, what: str, figure: float | None, unit: str, **more: Any) -> None:
        """One more row."""
        self.rows.append(Row(what, figure, unit, **more))

    def tell(self) -> None:
        """Print all rows; write the JSON if asked to."""
        widths = [max((len(cells(r)[i]) for r in self.rows), default=0) for i in range(4)]
        print(f"{self.name}: {self.question}")
        for row in self.rows:
            text = cells(row)
            print(
                "  " + "  ".join([c.ljust(w) for c, w in zip(text, widths, strict=False)] + text[4:]).rstrip()
            )
        if self.failed:
            print(f"  FAILED: {self.failed}")
        if self.options.out is not None:
            found = {
                "name": self.name,
                "question": self.question,
                "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
                "seconds": round(time.time() - self.began, 1),
                "quick": self.options.quick,
                "failed": self.failed,
                "machine": machine(),
                "rows": [asdict(row) for row in self.rows],
                "raw": self.raw,
            }
            self.options.out.mkdir(parents=True, exist_ok=True)
            (self.options.out / f"{self.name}.json").write_text(json.dumps(found, indent=1) + "\n")


def options(question: str | None, more: Sequence[tuple[str, dict[str, Any]]] = ()) -> argparse.Namespace:
    """The flags that every benchmark has, and its own."""
    parser = argparse.ArgumentParser(description=(question or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the JSON")
    parser.add_argument(
        "--quick", action="store_true", help="a second each: shows that it runs, not how fast"
    )
    for name, how in more:
        parser.add_argument(name, **how)
    return parser.parse_args()


def run(
    name: str,
    question: str,
    doc: str | None,
    measure: Callable[[Bench, Path], None],
    *,
    more: Sequence[tuple[str, dict[str, Any]]] = (),
    parts: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """A benchmark's main: all of it in a fresh folder, or (`--part NAME …`) a part in its own process."""
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps((parts or {})[sys.argv[2]](*sys.argv[3:])))
        return
    bench = Bench(name, question, options(doc, more))
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(bench, Path(folder))
        except (Exception, SystemExit) as error:  # the page says what failed, beside what was measured
            bench.failed = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            traceback.print_exc()
    bench.tell()
    if bench.failed:
        raise SystemExit(1)


def percentile(values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of the sorted ones."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process's threads so far, to the nanosecond (/proc/PID/stat has 10 ms)."""
    return time.clock_gettime((~pid << 3) | 2)  # the kernel's clock id of another process's CPU time


def memory_mib(pid: int | str, which: str) -> float:
    """VmRSS (now) or VmHWM (highest ever) of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {which} of process {pid}")


def machine() -> dict[str, Any]:
    """Where this ran, and of which commit."""
    model = next(
        (
            s.partition(":")[2].strip()
            for s in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in s
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "client", "daemon", "analysis", "tests/bench")
        return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")
    except OSError:
        return "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def child_env(**more: str) -> dict[str, str]:
    """The environment of a child process that imports this tree."""
    paths = [*HERE, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **more}


def peers() -> list[str]:
    """Folders with tools to compare with, for the end of sys.path: what they bring along shadows nothing."""
    return [p for p in os.environ.get("BENCH_PEERS", "").split(os.pathsep) if p]


def run_child(script: str, *arguments: str, env: dict[str, str], timeout_s: float = 300) -> Any:
    """What a part of a benchmark in its own process found: the JSON in its last line. Raises RuntimeError."""
    command = [sys.executable, script, *arguments]
    began = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[
            -1
        ]
        raise RuntimeError(last)
    print(f"{Path(script).stem} {' '.join(arguments)}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])
