"""How does a test put a machine to sleep, or set its wall clock, for the processes of one test only?

`build` compiles fake_clock.c (its head says what it shifts); `FakeClock` is one test's use of it.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path


def build(folder: Path) -> Path | None:
    """Compile the library into `folder`; its path, or None without gcc."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "fake_clock.so"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = Path(__file__).with_name("fake_clock.c")
    subprocess.run([compiler, *flags, "-o", library, source, "-ldl"], check=True)
    return library


class FakeClock:
    """The clocks of the processes started with `env`."""

    def __init__(self, library: Path, scratch: Path) -> None:
        self._file = scratch / "clock.shift"
        self._file.write_bytes(struct.pack("qq", 0, 0))
        self.env = {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(self._file)}

    def sleep(self, seconds: float) -> None:
        """The machine was suspended for so long."""
        self._add(0, seconds)

    def set(self, seconds: float) -> None:
        """The wall clock is set forward, or back, by so much."""
        self._add(1, seconds)

    def _add(self, place: int, seconds: float) -> None:
        with self._file.open("r+b") as file:
            file.seek(8 * place)
            (now,) = struct.unpack("q", file.read(8))
            file.seek(8 * place)
            file.write(struct.pack("q", now + round(seconds * 1e9)))
