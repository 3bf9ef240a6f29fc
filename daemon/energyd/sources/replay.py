"""How does a recorded trace look to the daemon, as if its GPU were here?

At speed 1 it plays in real time and for ever, for live markers; the seam is a Break. At any other speed
trace time runs that many times as fast: stamps are the opening plus trace time, so that joules keep their
meaning, the trace's own markers are given, and after one round the source is exhausted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from energyd.sources import (
    Break,
    CounterRead,
    DeviceInfo,
    DomainInfo,
    Event,
    Exhausted,
    PowerSamples,
    SensorInfo,
    SourceError,
    TraceMarker,
)
from energyd.sources.trace import Trace, load
from energyd_client.clock import now_ns

_COUNTER_STEP_NS: Final = 100_000_000  # of the recorded H100's
_FAST_INTERVAL_S: Final = 0.1  # at speed 100 a round of a minute takes six reads


class ReplaySource:
    """The trace in `folder`. `speed`: trace seconds per second."""

    name = "replay"

    def __init__(self, folder: Path, speed: float = 1.0, interval_s: float = 0.5):
        if not speed > 0:
            raise SourceError(
                f"--speed {speed:g}: must be above 0.\nTry --speed 1 (real time) or --speed 10."
            )
        self.interval_s = interval_s if speed == 1 else min(interval_s, _FAST_INTERVAL_S)
        self._folder = folder
        self._speed = speed
        self._trace: Trace | None = None
        self._open_ns = 0
        self._base_ns = 0  # CLOCK_BOOTTIME of trace time 0 in this round
        self._sample = self._read = self._mark = 0  # how many of each this round has given
        self._done = False

    def open(self) -> None:
        """Read the folder; trace time 0 is now. Raises SourceError if there is no trace in it."""
        self._trace = load(self._folder)
        self._open_ns = self._base_ns = now_ns()
        self._sample = self._read = self._mark = 0
        self._done = False

    @property
    def uuid(self) -> str:
        """The device's name in stores: the folder's."""
        return f"replay:{self._folder.resolve().name}"

    def devices(self) -> Sequence[DeviceInfo]:
        """The recorded GPU."""
        if self._trace is None:
            return []
        return [
            DeviceInfo(
                uuid=self.uuid,
                domain="gpu",
                name=f"replay of {self._trace.name}/{self._trace.file}",
                source=self.name,
                origin="replayed",
                period_ns=self._trace.period_ns,
                max_step_ns=self._trace.max_step_ns,
                index=0,
                accuracy=0.05,  # it was a GPU's sensor once, see energyd.sources.gpu_probe
                sensors=self._sensors(),
            )
        ]

    def _sensors(self) -> tuple[SensorInfo, ...]:
        """What the power was recorded with: its doubt is that sensor's."""
        assert self._trace is not None
        power = SensorInfo(sensor=self._trace.sensor, state="answers", period_ns=self._trace.update_ns)
        if not len(self._trace.counter_t_ns):
            return (power,)
        # Beside polled power its steps were kept as they came; beside a ring it was read at any time.
        step_ns = _COUNTER_STEP_NS if self._trace.sensor == "ring" else self._trace.period_ns
        return power, SensorInfo(sensor="counter", state="answers", period_ns=step_ns)

    def domains(self) -> Sequence[DomainInfo]:
        """gpu is replayed; a trace holds nothing else."""
        absent = "a replayed trace holds no curve for it"
        return [
            DomainInfo(domain="gpu", state="replayed", source=self.name),
            DomainInfo(domain="cpu", state="absent", reason=absent),
            DomainInfo(domain="dram", state="absent", reason=absent),
        ]

    def read(self) -> Iterable[Event]:
        """What trace time has passed."""
        if self._trace is None or self._done:
            return []
        elapsed_ns = int((now_ns() - self._open_ns) * self._speed)
        events = self._until(self._trace, self._open_ns + elapsed_ns)
        if self._sample < len(self._trace.t_ns):
            return events
        if self._speed == 1:
            return events + self._again(self._trace)
        self._done = True
        left = self._marks(self._trace, None)
        return [*events, *left, Exhausted(self._base_ns + int(self._trace.t_ns[-1]))]

    def close(self) -> None:
        """Forget the trace."""
        self._trace = None

    def _until(self, trace: Trace, now: int) -> list[Event]:
        """Samples, counter reads and markers of this round up to `now`, in this order."""
        events: list[Event] = []
        upto = now - self._base_ns
        end = int(np.searchsorted(trace.t_ns, upto, "right"))
        if end > self._sample:
            part = slice(self._sample, end)
            events.append(PowerSamples(self.uuid, trace.t_ns[part] + self._base_ns, trace.power_mw[part]))
            self._sample = end
        end = int(np.searchsorted(trace.counter_t_ns, upto, "right"))
        for i in range(self._read, end):
            t_ns = self._base_ns + int(trace.counter_t_ns[i])
            events.append(CounterRead(self.uuid, t_ns, int(trace.counter_mj[i])))
        self._read = max(self._read, end)
        if self._speed != 1:
            events += self._marks(trace, upto)
        return events

    def _marks(self, trace: Trace, upto_ns: int | None) -> list[Event]:
        """The trace's own stage edges not yet given, up to trace time `upto_ns` (None: all)."""
        events: list[Event] = []
        while self._mark < len(trace.marks) and (upto_ns is None or trace.marks[self._mark].t_ns <= upto_ns):
            mark = trace.marks[self._mark]
            t_ns = self._base_ns + mark.t_ns
            events.append(TraceMarker(t_ns, mark.kind, trace.name, mark.stage, dict(mark.counts)))
            self._mark += 1
        return events

    def _again(self, trace: Trace) -> list[Event]:
        """The seam: the next round begins one period after the last sample, with the counter set back."""
        last_ns = int(trace.t_ns[-1])
        seam_ns = self._base_ns + last_ns
        self._base_ns = seam_ns + trace.period_ns - int(trace.t_ns[0])
        self._sample = self._read = 0
        return [Break(self.uuid, seam_ns, "loop", counter_reset=True)]
