"""How do tests get a GPU that is not there, and what did it really take?

`build` compiles fake_nvml.c (its head lists what it plays and how it is scripted); `FakeNvml` is one
test's use of it: the environment for a process that shall see it, its control file, and the curve's own
integral, computed here on its own from the same knots.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SONAME = "libnvidia-ml.so.1"
BUILTIN_MS_W = (
    (0, 120), (1000, 120), (1050, 600), (2500, 640), (2550, 200),
    (3200, 200), (3300, 500), (4400, 520), (4500, 120), (5000, 120),
)  # fmt: skip
DEVICE_AHEAD_NS = 700_000_000
"""Without an order `ahead_ms`."""


def build(folder: Path) -> Path | None:
    """Compile the library into `folder`, which is then fit for LD_LIBRARY_PATH. None without gcc."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("fake_nvml.c")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}"]
    subprocess.run([compiler, *flags, "-o", folder / SONAME, source, "-lpthread"], check=True)
    return folder


class FakeNvml:
    """The fake library as one test uses it. Start processes with `env`; script it with `control`.

    `ahead_ns`: by how much each device plays the curve ahead of the one before it; `control` keeps it to the
    script's order `ahead_ms`.
    """

    def __init__(self, library: Path, scratch: Path):
        self._control = scratch / "nvml.control"
        self._trace = scratch / "nvml.trace"
        self._knots = [(ms * 1_000_000, w * 1000.0) for ms, w in BUILTIN_MS_W]
        self.ahead_ns = DEVICE_AHEAD_NS
        before = os.environ.get("LD_LIBRARY_PATH")
        self.library = library / SONAME
        self.env = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{library}:{before}" if before else str(library),
            "FAKE_NVML_CONTROL": str(self._control),
        }
        self.control("")

    def control(self, text: str) -> None:
        """Replace the script, at once for every process that uses it."""
        new = self._control.with_suffix(".new")
        new.write_text(text)
        new.replace(self._control)
        ahead_ms = [float(line.split()[1]) for line in text.splitlines() if line.startswith("ahead_ms ")]
        self.ahead_ns = round(ahead_ms[-1] * 1e6) if ahead_ms else DEVICE_AHEAD_NS

    def play(self, knots: Sequence[tuple[int, float]]) -> None:
        """Play (t_ns, power_mw) knots in processes that start from now on, repeated at the last knot."""
        self._trace.write_text("".join(f"{t_ns},{power_mw}\n" for t_ns, power_mw in knots))
        self._knots = list(knots)
        self.env["FAKE_NVML_TRACE"] = str(self._trace)

    @staticmethod
    def uuid(device: int) -> str:
        """UUID of the GPU with that index."""
        return f"GPU-fa4e0000-0000-4000-8000-{device:012x}"

    def energy_j(self, device: int, t0_ns: int, t1_ns: int) -> float:
        """The curve's integral between two CLOCK_BOOTTIME instants, J."""
        return self._energy_j(device, t1_ns) - self._energy_j(device, t0_ns)

    def power_w(self, device: int, t_ns: int) -> float:
        """The curve at a CLOCK_BOOTTIME instant, W."""
        t, mw = zip(*self._knots, strict=True)
        return float(np.interp((t_ns + device * self.ahead_ns) % t[-1], t, mw)) / 1000

    def _energy_j(self, device: int, t_ns: int) -> float:
        rounds, rest = divmod(t_ns + device * self.ahead_ns, self._knots[-1][0])
        t, mw = (np.array(column, dtype=float) for column in zip(*self._knots, strict=True))
        whole = _area(t, mw)
        inside = t < rest
        t_part = np.append(t[inside], rest)
        mw_part = np.append(mw[inside], np.interp(rest, t, mw))
        return (rounds * whole + _area(t_part, mw_part)) / 1e12


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
