"""How is each tool asked that samples all the time and answers for any window afterwards?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from energyd_client.clock import now_ns

POWER_AVERAGE, POWER_INSTANT = 185, 186


class Recorder(Protocol):
    """A tool that samples by itself."""

    version: str

    def energy_j(self, t0_ns: int, t1_ns: int) -> float | None:
        """Energy between two CLOCK_BOOTTIME instants, J; None where the tool gives none."""

    def close(self) -> None:
        """Stop all threads and processes."""


class Poll:
    """A script that polls a power reading and takes the trapezoid of what falls into the window.

    That is how most published figures are made: samples inside, no thought for the edges. `edges`: the best
    that can be made of it, power at both edges interpolated between the samples around them.
    """

    def __init__(
        self, read: Callable[[], int], every_s: float, *, edges: bool = False, changes_only: bool = False
    ) -> None:
        self.version = "-"
        self._read, self._every_s = read, every_s
        self._edges, self._changes_only = edges, changes_only
        self._samples: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        last = None
        while not self._over.is_set():
            t_ns = now_ns()
            try:
                mw = self._read()
            except Exception as error:  # one refused reading is a hole in a script's list, no more
                print(f"refused: {error}", flush=True)
                mw = None
            if mw is not None and not (self._changes_only and mw == last):
                self._samples.append((t_ns, mw))
                last = mw
            due += self._every_s
            self._over.wait(max(0.0, due - time.monotonic()))

    def samples(self, t0_ns: int, t1_ns: int) -> np.ndarray:
        """(t_ns, mW) rows between two instants."""
        rows = [s for s in self._samples[:] if t0_ns <= s[0] <= t1_ns]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def energy_j(self, t0_ns: int, t1_ns: int) -> float | None:
        rows = self.samples(t0_ns, t1_ns)
        if self._edges:
            every = np.array(self._samples[:], dtype=np.int64).reshape(-1, 2)
            if not len(every) or every[0, 0] > t0_ns or every[-1, 0] < t1_ns:
                return None
            at = np.array([t0_ns, t1_ns])
            first, last = np.column_stack((at, np.interp(at, every[:, 0], every[:, 1])))
            rows = np.vstack((first, rows, last))
        if len(rows) < 2:
            return None
        return float(np.trapezoid(rows[:, 1] / 1000.0, (rows[:, 0] - t0_ns) / 1e9))

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=2)


class ZeusPower:
    """Zeus PowerMonitor, asked in wall-clock seconds. 0.16.0 would spin without an explicit period."""

    def __init__(self, domain: str) -> None:
        from zeus.monitor import PowerMonitor

        self.version = version("zeus")
        self._monitor: Any = PowerMonitor(gpu_indices=[0], update_period=0.1, power_domains=[domain])

    def energy_j(self, t0_ns: int, t1_ns: int) -> float | None:
        ahead_ns = time.time_ns() - now_ns()
        found = self._monitor.get_energy((t0_ns + ahead_ns) / 1e9, (t1_ns + ahead_ns) / 1e9)
        return None if found is None else found[0]

    def close(self) -> None:
        self._monitor.stop()


def power_usage() -> Callable[[], int]:
    """Reads nvmlDeviceGetPowerUsage (on Ampere and later a 1 s average), mW."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle))


def power_field(field: int) -> Callable[[], int]:
    """Reads a power field, mW."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> int:
        (found,) = pynvml.nvmlDeviceGetFieldValues(handle, [field])
        if found.nvmlReturn != 0:
            raise pynvml.NVMLError(found.nvmlReturn)
        # A driver may answer in a wider type; the wrong member would be rubbish.
        return int(
            found.value.ullVal
            if found.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            else found.value.uiVal
        )

    return read


RECORDERS = {
    "poster-average": lambda: Poll(power_usage(), 0.5),
    "poster-instant": lambda: Poll(power_field(POWER_INSTANT), 0.5),
    "poster-average-edges": lambda: Poll(power_usage(), 0.5, edges=True),
    "poster-instant-edges": lambda: Poll(power_field(POWER_INSTANT), 0.5, edges=True),
    "zeus-power-instant": lambda: ZeusPower("device_instant"),
    "zeus-power-average": lambda: ZeusPower("device_average"),
    "polled-instant": lambda: Poll(power_field(POWER_INSTANT), 0.01, changes_only=True),
    "polled-average": lambda: Poll(power_field(POWER_AVERAGE), 0.01, changes_only=True),
}
"""The last two are no tools: they record what the fields showed and when."""
