"""What time is it, on the one clock that a stage's edges and the power samples share?

CLOCK_BOOTTIME counts suspend and is never stepped. Two processes read the same value only inside one
boot and one time namespace, so both names travel with every connection.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

BOOTTIME = time.CLOCK_BOOTTIME
read_ns = time.clock_gettime_ns  # of BOOTTIME: what `now_ns` does, for who counts calls


def now_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds."""
    return read_ns(BOOTTIME)


@cache
def boot_id() -> str:
    """The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def timens_inode() -> int:
    """Inode of this process's time namespace; 0 where the kernel has none."""
    try:
        return Path("/proc/self/ns/time").stat().st_ino
    except OSError:
        return 0


def start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 if there is no such process.

    Field 22 of `/proc/PID/stat`. The command name may hold spaces and brackets: count after the last.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
