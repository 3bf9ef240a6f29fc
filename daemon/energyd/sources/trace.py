"""What does a folder with a recorded trace hold? Files in, arrays and markers out.

`ring.csv.gz` (t_ns, power_mw) or `polled.csv.gz` (t_ns, instant_mw or else average_mw[, energy_mj]), besides
`counter.csv.gz` (t_ns, energy_mj), `windows.json` (name, begin_ns, end_ns) and `markers.json` (marker
`name:begin` or `name:end`, t_ns[, tokens]), each if there is one. t_ns count from the recording's start.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from energyd.sources import SourceError

COUNTER_EVERY_NS: Final = 1_000_000_000
_CURE: Final = "A trace is a folder with ring.csv.gz or polled.csv.gz (columns: tests/traces/README.md)."


@dataclass(frozen=True)
class Mark:
    """A stage edge in trace time."""

    t_ns: int
    kind: Literal["begin", "end"]
    stage: str
    counts: dict[str, int]


@dataclass(frozen=True)
class Trace:
    """One recorded power curve in trace time, and what was recorded beside it."""

    name: str
    file: str  # where the power comes from
    sensor: Literal["ring", "instant", "average"]
    update_ns: int  # between two new values of the sensor; a file may hold the same one several times
    t_ns: NDArray[np.int64]
    power_mw: NDArray[np.int32]
    counter_t_ns: NDArray[np.int64]
    counter_mj: NDArray[np.int64]
    marks: list[Mark]
    period_ns: int
    max_step_ns: int


def load(folder: Path) -> Trace:
    """Read the folder. Raises SourceError if it holds no usable power curve or a broken file."""
    if not folder.is_dir():
        raise SourceError(f"--source replay:{folder}: no such folder.\n{_CURE}")
    ring, polled, counter = (folder / f"{name}.csv.gz" for name in ("ring", "polled", "counter"))
    sensor: Literal["ring", "instant", "average"] = "ring"
    if ring.exists():
        file, power, floor_ns = ring, _columns(ring, "t_ns", "power_mw"), 100_000_000
    elif polled.exists():
        only_average = not _has_column(polled, "instant_mw") and _has_column(polled, "average_mw")
        sensor = "average" if only_average else "instant"
        file, power, floor_ns = polled, _columns(polled, "t_ns", f"{sensor}_mw"), 500_000_000
    else:
        raise SourceError(
            f"--source replay:{folder}: it holds neither ring.csv.gz nor polled.csv.gz.\n{_CURE}"
        )
    t_ns, power_mw = power
    if len(t_ns) < 2 or t_ns[0] < 0 or (np.diff(t_ns) <= 0).any():
        raise SourceError(f"{file}: t_ns must rise from 0 over at least two rows.\n{_CURE}")
    if power_mw.min() < 0 or power_mw.max() >= 2**31:
        raise SourceError(f"{file}: a power is outside 0 to 2**31 mW.\n{_CURE}")
    period_ns = int(np.median(np.diff(t_ns)))
    new_ns = t_ns[1:][np.diff(power_mw) != 0]
    return Trace(
        name=folder.resolve().name,
        file=file.name,
        sensor=sensor,
        update_ns=max(period_ns, int(np.median(np.diff(new_ns)))) if len(new_ns) > 1 else period_ns,
        t_ns=t_ns,
        power_mw=power_mw.astype(np.int32),
        **_counter(counter, polled),
        marks=sorted(_windows(folder) + _markers(folder), key=lambda mark: mark.t_ns),
        period_ns=period_ns,
        # The rule of live sources, with the step that this file has.
        max_step_ns=max(5 * period_ns, floor_ns),
    )


def _columns(path: Path, *names: str) -> list[NDArray[np.int64]]:
    try:
        with gzip.open(path, "rt", newline="") as lines:
            rows = csv.reader(lines)
            header = next(rows, [])
            places = [header.index(name) for name in names]
            table = [[int(row[place]) for place in places] for row in rows if row]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise SourceError(
            f"{path}: not a table with the columns {', '.join(names)}: {error}.\n{_CURE}"
        ) from None
    data = np.array(table, dtype=np.int64).reshape(-1, len(names))
    return [data[:, i] for i in range(len(names))]


def _counter(counter: Path, polled: Path) -> dict[str, NDArray[np.int64]]:
    """About one read a second, each taken where the value had just been renewed."""
    t_ns = energy_mj = np.array([], dtype=np.int64)
    if counter.exists():
        t_ns, energy_mj = _columns(counter, "t_ns", "energy_mj")
    elif polled.exists() and _has_column(polled, "energy_mj"):
        t_ns, energy_mj = _columns(polled, "t_ns", "energy_mj")
        new = np.flatnonzero(np.diff(energy_mj, prepend=-1))
        t_ns, energy_mj = t_ns[new], energy_mj[new]
    chosen: list[int] = []
    for i, t in enumerate(t_ns.tolist()):
        if not chosen or t - int(t_ns[chosen[-1]]) >= 0.95 * COUNTER_EVERY_NS:
            chosen.append(i)
    return {"counter_t_ns": t_ns[chosen], "counter_mj": energy_mj[chosen]}


def _has_column(path: Path, name: str) -> bool:
    try:
        with gzip.open(path, "rt") as lines:
            return name in lines.readline().strip().split(",")
    except (OSError, EOFError, ValueError):
        return False  # whoever reads the table says why


def _json(path: Path) -> Sequence[Any]:
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise SourceError(f"{path}: not JSON: {error}.\n{_CURE}") from None
    return content if isinstance(content, list) else []


def _windows(folder: Path) -> list[Mark]:
    path = folder / "windows.json"
    marks = []
    try:
        for window in _json(path):
            marks.append(Mark(int(window["begin_ns"]), "begin", str(window["name"]), {}))
            marks.append(Mark(int(window["end_ns"]), "end", str(window["name"]), {}))
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: a window lacks name, begin_ns or end_ns: {error!r}.\n{_CURE}") from None
    return marks


def _markers(folder: Path) -> list[Mark]:
    path = folder / "markers.json"
    marks: list[Mark] = []
    try:
        for marker in _json(path):
            stage, _, kind = str(marker["marker"]).rpartition(":")
            counts = {"positions": int(marker["tokens"])} if "tokens" in marker else {}
            if kind == "begin":
                marks.append(Mark(int(marker["t_ns"]), "begin", stage, counts))
            elif kind == "end":
                marks.append(Mark(int(marker["t_ns"]), "end", stage, counts))
            else:
                raise ValueError(f"{marker['marker']} ends neither in :begin nor in :end")
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: not a list of markers with t_ns: {error!r}.\n{_CURE}") from None
    return marks
