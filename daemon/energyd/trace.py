"""Whose are the stage edges that a recorded trace carries? A run per trace, as if a program had sent them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from energyd.sources import TraceMarker
from energyd.stages import Incoming
from energyd.timeline import Timeline
from energyd_client import protocol as p


class TraceRuns:
    """Turns a trace's markers into ordinary ones, of a client that is the daemon itself."""

    def __init__(self) -> None:
        self._seq = count(1)
        self._client = ""
        self._run: str | None = None
        self._open: dict[str, str] = {}  # stage name: id
        self.playing = False

    def markers(self, event: TraceMarker, timeline: Timeline) -> Iterator[Incoming]:
        """The markers that one edge of the trace stands for."""
        t_ns = timeline.to_store(event.t_ns)
        if self._run is None:
            self.playing = True
            self._client = f"trace-{t_ns}"
            self._run = f"{event.run}-{t_ns // 1_000_000_000}"
            labels: dict[str, p.Scalar] = {"trace": event.run}
            yield self._in(t_ns, p.RunBegin(next(self._seq), t_ns, self._run, event.run, labels))
        if event.kind == "begin":
            seq = next(self._seq)
            stage_id = self._open[event.stage] = f"{self._run}.{seq}"
            yield self._in(t_ns, p.StageBegin(seq, t_ns, self._run, stage_id, event.stage))
            return
        stage_id = self._open.pop(event.stage, "")
        if event.counts:
            yield self._in(t_ns, p.Count(next(self._seq), t_ns, self._run, stage_id, event.counts))
        yield self._in(t_ns, p.StageEnd(next(self._seq), t_ns, self._run, stage_id, "ok"))

    def end(self, t_ns: int) -> Iterator[Incoming]:
        """The trace is over: its run ends."""
        if self._run is not None:
            yield self._in(t_ns, p.RunEnd(next(self._seq), t_ns, self._run, "ok"))
            self._run = None

    def _in(self, t_ns: int, message: p.Marker) -> Incoming:
        return Incoming(self._client, message, t_ns, t_ns)
