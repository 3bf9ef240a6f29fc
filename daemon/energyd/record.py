"""How does a machine's power become a trace that `--source replay:DIR` plays?

What the GPUs' source says is written as it comes, in the format of `sources/trace.py`: one folder a GPU. It
needs no daemon and disturbs none. `recording.json` beside it says of what and when, and which silences the
source itself told of.
"""

from __future__ import annotations

import csv
import gzip
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, TextIO

from energyd.sources import Break, CounterRead, DeviceInfo, PowerSamples, Source
from energyd.sources.discover import discover
from energyd_client import clock
from energyd_client.version import __version__

TRACE_FILES: Final = ("ring.csv.gz", "polled.csv.gz", "counter.csv.gz", "recording.json")
COLUMNS: Final = {"ring": "power_mw", "instant": "instant_mw", "average": "average_mw"}


class RecordError(Exception):
    """Nothing can be recorded: what, where, cure in the text."""


class Recording:
    """The trace of one GPU on its way into its folder. Times count from `base_ns`, CLOCK_BOOTTIME."""

    def __init__(self, folder: Path, device: DeviceInfo, base_ns: int) -> None:
        self.folder, self.device = folder, device
        self.n, self.last_ns = 0, 0
        self._base_ns = base_ns
        self._breaks: list[dict[str, Any]] = []
        self._sensor = sensor_of(device)
        folder.mkdir(parents=True, exist_ok=True)
        file = "ring.csv.gz" if self._sensor == "ring" else "polled.csv.gz"
        self._files: list[TextIO] = []
        self._power = self._open(file, "t_ns", COLUMNS[self._sensor])
        self._counter = self._open("counter.csv.gz", "t_ns", "energy_mj")

    def take(self, event: object) -> None:
        """Write what one event of this device says; what was before the start is left out."""
        if isinstance(event, PowerSamples):
            rows = zip((event.t_ns - self._base_ns).tolist(), event.power_mw.tolist(), strict=True)
            new = [row for row in rows if row[0] >= 0]
            self._power.writerows(new)
            self.n += len(new)
            self.last_ns = new[-1][0] if new else self.last_ns
        elif isinstance(event, CounterRead) and event.t_ns >= self._base_ns:
            self._counter.writerow((event.t_ns - self._base_ns, event.energy_mj))
        elif isinstance(event, Break):
            said = {"t_ns": event.t_ns - self._base_ns, "reason": event.reason}
            self._breaks.append(said | {"counter_reset": event.counter_reset})

    def close(self) -> None:
        """Finish the files, and say what they are."""
        for file in self._files:
            file.close()
        about = {
            "recorded": datetime.now(timezone.utc).isoformat(timespec="seconds"), "energyd": __version__,
            "boottime_ns": self._base_ns, "sensor": self._sensor,
            "device": asdict(self.device), "breaks": self._breaks,
        }  # fmt: skip
        (self.folder / "recording.json").write_text(json.dumps(about, indent=2) + "\n")

    def _open(self, name: str, *header: str) -> Any:
        file = gzip.open(self.folder / name, "wt", newline="", compresslevel=6)  # noqa: SIM115 - `close` does
        self._files.append(file)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        return writer


def sensor_of(device: DeviceInfo) -> str:
    """Which sensor's power a device's source gives: ring, instant or average."""
    if device.source in COLUMNS:
        return device.source
    return next((s.sensor for s in device.sensors if s.sensor in COLUMNS), "ring")


def record(
    folder: Path, *, source: str, seconds: float | None, wanted: str | None, say: Callable[[str], None]
) -> list[Recording]:
    """Record the GPUs (or the one `wanted`, an index or UUID) until SIGINT, SIGTERM or `seconds` are over.

    One GPU's trace lies in `folder` itself, those of several in `gpu0`, `gpu1` … in it. Raises RecordError,
    SourceError, OSError.
    """
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    recordings: list[Recording] = []
    reader = None
    try:
        reader, devices = _gpus(discover(source))
        recordings = _begin(folder, _chosen(devices, wanted))
        say(f"recording {', '.join(r.device.name for r in recordings)}; Ctrl-C ends it")
        by_uuid = {r.device.uuid: r for r in recordings}
        end_s = None if seconds is None else time.monotonic() + seconds
        next_s = time.monotonic()
        while not stop.is_set() and (end_s is None or time.monotonic() < end_s):
            next_s = max(next_s + reader.interval_s, time.monotonic())
            wake_s = next_s if end_s is None else min(next_s, end_s)
            stop.wait(max(0.0, wake_s - time.monotonic()))
            for event in reader.read():
                uuid = getattr(event, "uuid", None)
                for one in recordings if uuid == "" else filter(None, [by_uuid.get(uuid or "")]):
                    one.take(event)
    finally:
        for one in recordings:
            one.close()
        if reader is not None:
            reader.close()
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return recordings


def _gpus(sources: Iterable[Source]) -> tuple[Source, list[DeviceInfo]]:
    """The source that has GPUs, opened; a trace is a GPU's. Raises RecordError where none has."""
    source = next(iter(sources))  # it stands first; the CPU's would take seconds to open
    source.open()
    devices = [d for d in source.devices() if d.domain == "gpu"]
    if not devices:
        why = next((d.reason for d in source.domains() if d.domain == "gpu" and d.reason), "none is there")
        source.close()
        raise RecordError(f"no GPU to record: {why}\n  cure: `energyd doctor` looks closer")
    return source, devices


def _chosen(devices: list[DeviceInfo], wanted: str | None) -> list[DeviceInfo]:
    if wanted is None:
        return devices
    chosen = [d for d in devices if wanted in (str(d.index), d.uuid)]
    if not chosen:
        known = ", ".join(f"{d.index} ({d.uuid})" for d in devices)
        raise RecordError(f"no GPU {wanted}\n  there are: {known}")
    return chosen


def _begin(folder: Path, devices: list[DeviceInfo]) -> list[Recording]:
    """Open a folder a device; a trace that is there already is never written over."""
    base_ns = clock.now_ns()
    folders = [folder] if len(devices) == 1 else [folder / f"gpu{d.index}" for d in devices]
    for one in folders:
        there = [name for name in TRACE_FILES if (one / name).exists()]
        if there:
            raise RecordError(f"{one / there[0]} is there already\n  cure: another DIR, or move it away")
    return [Recording(one, device, base_ns) for one, device in zip(folders, devices, strict=True)]
