"""What becomes of a store as it grows old? Made few files, thinned, dropped; all while it is read.

The recorder asks once a minute. What costs time runs in a child process (`upkeep_files`) that only makes new
files; here lists are switched and, after the grace that open readers have, old files unlinked. Which files
count follows from their names alone (`store.folders_counting`, `counting`), so a kill anywhere loses and
doubles nothing.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from energyd.config import Keep
from energyd.store import (
    DATED,
    DAY_FILE,
    DROPPED,
    HOUR_NS,
    TABLES,
    Layout,
    counting,
    end_hour,
    folders_counting,
    is_folder,
    is_hour_file,
    makes_a_month,
    month_of,
    names_in,
)
from energyd.store.base import sealed_files
from energyd.store.live import GRACE_S
from energyd.store.outbox import Outbox
from energyd.store.sums import forget

log = logging.getLogger("energyd")

STEP_S: Final = 60.0
"""How often it is looked whether there is something to do."""
SCAN_S: Final = 3_600.0
"""How often at least the folders are read; else after a seal and after a child."""
SLACK_HOURS: Final = 1
"""A day or month is made one file once the first hour after it is sealed, too."""
RETRY_S: Final = 3_600.0
"""A day whose child failed (a full disk) is tried again after so long."""


class Upkeep:
    """Compaction, thinning and retention of one store. Used by the recorder's thread only."""

    def __init__(
        self,
        layout: Layout,
        keep: Keep,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self.keep = keep
        self._grace_s = grace_s
        self._clock = clock
        self._child: subprocess.Popen[str] | None = None
        self._job = ("", "")
        self._not_before: dict[tuple[str, str], float] = {}  # a job that failed
        self._doomed: dict[Path, float] = {}  # when it may go
        self._sizes: dict[str, int] = {}
        self._seen_hour = -1
        self._next_step = 0.0
        self._next_scan = 0.0

    def step(self, now_ns: int, hour: int) -> dict[str, list[str]] | None:
        """Do what is due; the sealed files by table if the list has changed, to be named from now on.

        `hour`: the first that is not sealed. Never raises: what fails is logged and tried again.
        """
        now = self._clock()
        if now < self._next_step and self._child is None:  # the end of a child is seen at once
            return None
        self._next_step = now + STEP_S
        try:
            if self._running():
                return None
            self._unlink_doomed(now)
            if hour == self._seen_hour and now < self._next_scan:
                return None
            self._seen_hour, self._next_scan = hour, now + SCAN_S
            files = sealed_files(self._layout.root, hour)
            if self._drop(files, now_ns, hour):
                files = sealed_files(self._layout.root, hour)
            self._doom(now)
            self._begin(self._next_job(files, now_ns, hour, now))
            return {table: paths for table, paths in files.items() if paths}
        except OSError as error:
            log.error("store: upkeep: %s", error)
            return None

    def close(self) -> None:
        """End the child, which harms nothing."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    # ---- one child at a time ---------------------------------------------------------------------------

    def _running(self) -> bool:
        """Whether the child still works; its end is taken note of."""
        if self._child is None:
            return False
        if self._child.poll() is None:
            return True
        _, said = self._child.communicate()
        if self._child.returncode:
            reason = said.strip().splitlines()[-1:] or [f"exit {self._child.returncode}"]
            log.error("store: upkeep of %s: %s", self._job[1], reason[0])
            self._not_before[self._job] = self._clock() + RETRY_S
        self._child = None
        self._next_scan = 0.0
        return False

    def _begin(self, job: tuple[str, str] | None) -> None:
        if job is None:
            return
        kind, day = job
        command = [sys.executable, "-m", "energyd.store.upkeep_files", str(self._layout.root), day]
        self._job = job
        self._child = subprocess.Popen(
            command + (["--thin"] if kind == "thin" else []),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _next_job(
        self, files: dict[str, list[str]], now_ns: int, hour: int, now: float
    ) -> tuple[str, str] | None:
        """The oldest with something to do, days first: ("compact", "thin" or "fold", its folder's name)."""
        jobs = set()
        for table, paths in files.items():
            jobs |= {("fold", month) for month in _whole_months(table, paths, hour) - self._owed_months()}
            for path in paths:
                day, name = path.split("/")[2:]
                ends = end_hour(day)
                raw_s = self.keep.raw_s
                if table == "samples" and name == DAY_FILE and raw_s is not None:
                    if ends * HOUR_NS < now_ns - raw_s * 1e9:
                        jobs.add(("thin", day))
                elif is_hour_file(name) and ends + SLACK_HOURS <= hour:
                    jobs.add(("compact", day))
        ready = [job for job in jobs if self._not_before.get(job, now) <= now]
        return min(ready, key=lambda job: (job[1], job[0]), default=None)

    def _owed_months(self) -> set[str]:
        """Those with a day that a lake has still to get from here: it takes days, not months."""
        owed = Outbox(self._layout.root).state.owed
        return {month_of(day.partition("/")[2]) for day in owed}

    # ---- what goes -------------------------------------------------------------------------------------

    def _drop(self, files: dict[str, list[str]], now_ns: int, hour: int) -> bool:
        """Mark the days and months too old, or too many, so that nobody counts them; whether there were."""
        dated: dict[str, list[str]] = {}  # folder's name: what of it may go
        for table in DATED:
            for path in files[table]:
                day = path.split("/")[2]
                if end_hour(day) + SLACK_HOURS <= hour:
                    dated.setdefault(day, []).append(path)
        goes = set()
        if self.keep.all_s is not None:
            limit = now_ns - self.keep.all_s * 1e9
            goes = {day for day in dated if end_hour(day) * HOUR_NS < limit}
        if self.keep.max_bytes is not None:
            size = sum(self._size(path) for paths in files.values() for path in paths)
            for day in sorted(dated, key=end_hour):
                mine = sum(self._size(path) for path in dated[day])
                if day in goes or size > self.keep.max_bytes:
                    goes.add(day)
                    size -= mine
            if size > self.keep.max_bytes:
                log.warning(
                    "store: %d MB without any day that may go; --max-size is too small", size // 10**6
                )
        for day in sorted(goes):
            log.info("store: %s of samples is dropped: too old, or beyond --max-size", day)
            for path in dated[day]:
                (self._layout.root / path).with_name(DROPPED).touch(mode=0o640)
        return bool(goes)

    def _size(self, path: str) -> int:
        """Bytes of a sealed file, which never change."""
        if path not in self._sizes:
            self._sizes[path] = (self._layout.root / path).stat().st_size
        return self._sizes[path]

    def _doom(self, now: float) -> None:
        """Note what does not count any more; an open reader may hold its name until the grace is over."""
        for table in TABLES:
            root = f"{self._layout.root}/sealed/{table}"
            folders = {name for name in names_in(root) if is_folder(name)}
            counted = set(folders_counting(self._layout.root, table))
            months = {month_of(name) for name in folders - counted}  # their days are still there
            for folder in folders:
                names = names_in(f"{root}/{folder}")
                is_over = folder not in counted or DROPPED in names
                keep = set() if is_over else set(counting(names))
                if not is_over and (len(names) < 2 or not keep):
                    continue
                for name in names - keep:
                    if name.endswith(".parquet"):
                        self._doomed.setdefault(Path(root, folder, name), now + self._grace_s)
                if is_over and names <= {DROPPED} and folder not in months:
                    forget(self._layout.root, table, folder)  # before nothing says why they are gone
                    Path(root, folder, DROPPED).unlink(missing_ok=True)
                    Path(root, folder).rmdir()

    def _unlink_doomed(self, now: float) -> None:
        due = [path for path, when in self._doomed.items() if when <= now]
        for path in due:
            path.unlink(missing_ok=True)
            del self._doomed[path]
        if due:
            self._next_scan = 0.0  # empty folders go


def _whole_months(table: str, paths: list[str], hour: int) -> set[str]:
    """The months, over, whose files of a table are to become one."""
    months: dict[str, list[str]] = {}
    for path in paths:
        folder, name = path.split("/")[2:]
        if end_hour(month_of(folder)) + SLACK_HOURS <= hour:
            months.setdefault(month_of(folder), []).append(name)
    return {month for month, names in months.items() if makes_a_month(table, names)}
