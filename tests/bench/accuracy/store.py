"""How is a real daemon run beside the tools, and what does its store say of the windows?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from energyd.store.read import Reader, open_reader

NS = 1_000_000_000
_STAGE = (
    "energy_j",
    "integral_j",
    "u_integral_j",
    "counter_j",
    "u_counter_j",
    "u_random_j",
    "u_total_j",
    "coverage",
)


class Daemon:
    """`energyd start` over a fresh store; its environment is set for this process and its children."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.store = folder / "store"
        self._short = Path(tempfile.mkdtemp(prefix="e"))  # a Unix socket's path may have 107 characters
        os.environ["ENERGYD_ENDPOINT"] = f"ipc://{self._short / 'e.sock'}"
        os.environ["ENERGYD_SPOOL"] = str(folder / "spool")
        command = [sys.executable, "-m", "energyd", "start", "--foreground", "--store", str(self.store)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def wait(self, timeout_s: float = 30.0) -> None:
        """Until it holds its store. Raises RuntimeError if it does not come up."""
        deadline = time.monotonic() + timeout_s
        lock = self.store / "lock"
        while time.monotonic() < deadline and self._process.poll() is None:
            if lock.exists() and (text := lock.read_text()) and json.loads(text)["pid"] == self._process.pid:
                return
            time.sleep(0.05)
        raise RuntimeError(f"energyd did not come up (exit {self._process.poll()}); see log/energyd.log")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, by force if it must be."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._short, ignore_errors=True)


def gather(store: Path, windows: list[tuple[int, int, int]], t0_ns: int, t1_ns: int) -> dict[str, Any]:
    """All that the store knows about [t0, t1] (CLOCK_BOOTTIME ns) and these (number, t0, t1) windows.

    `window_j` is integrate(): raw samples only, the hardware counter is not in it unless a gap was bridged
    (`gaps` says). Stages of the client are found by their names, w<number>-<t0>.
    """
    with open_reader(store) as reader:
        offset = int(reader.sql("SELECT max(offset_ns) FROM boots").fetchall()[0][0])
        device = _one(reader, "SELECT * FROM devices WHERE domain = 'gpu' ORDER BY device LIMIT 1")
        low, high = t0_ns + offset - 3 * NS, t1_ns + offset + 3 * NS
        found: dict[str, Any] = {"device": device, "offset_ns": offset, "lag_ns": int(device["lag_ns"] or 0)}
        number = int(device["device"])
        inside = f"device = {number} AND t_ns BETWEEN {low} AND {high} ORDER BY t_ns"
        found["ring"] = _columns(reader, f"SELECT t_ns - {offset}, power_mw FROM samples WHERE {inside}")
        found["counters"] = _columns(
            reader, f"SELECT t_ns - {offset}, energy_mj FROM counters WHERE {inside}"
        )
        gaps = f"SELECT t0_ns, t1_ns, reason, bridged_uj FROM gaps WHERE device = {number}"
        found["gaps"] = reader.sql(f"{gaps} AND t1_ns > {low} AND t0_ns < {high}").dicts()
        found["sensors"] = _sensors(reader, number)
        rows = ", ".join(f"({number}::UTINYINT, {n}, {a + offset}, {b + offset})" for n, a, b in windows)
        reader.sql(
            f"CREATE OR REPLACE TEMP TABLE asked AS FROM (VALUES {rows}) v(device, number, t0_ns, t1_ns)"
        )
        joules = reader.sql("SELECT number, energy_j FROM integrate('asked')").fetchall()
        found["window_j"] = {int(n): j for n, j in joules}
        found["stages"] = _stages(reader, number, low, high)
    return found


def _stages(reader: Reader, device: int, low: int, high: int) -> dict[str, dict[str, Any]]:
    query = (
        f"SELECT * FROM stage_energy WHERE device = {device} AND t0_ns BETWEEN {low} AND {high}"
        " AND stage SIMILAR TO 'w[0-9]+-[0-9]+'"
    )
    return {row["stage"]: row for row in reader.sql(query).dicts()}


def stage_columns(stages: list[dict[str, Any] | None]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Columns of the numbers that the store states of stages, NaN for NULL; and their words."""
    columns = {
        name: np.array([np.nan if s is None or s.get(name) is None else float(s[name]) for s in stages])
        for name in _STAGE
    }
    words = [
        {} if s is None else {k: s[k] for k in ("flags", "method", "reason", "source") if s.get(k)}
        for s in stages
    ]
    return columns, words


def _one(reader: Reader, query: str) -> dict[str, Any]:
    rows = reader.sql(query).dicts()
    if not rows:
        raise RuntimeError("the store knows no GPU; see log/energyd.log")
    return rows[0]


def _columns(reader: Reader, query: str) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(reader.sql(query).fetchall(), dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _sensors(reader: Reader, device: int) -> list[dict[str, Any]]:
    return reader.sql(f"SELECT * FROM sensors WHERE device = {device}").dicts()
