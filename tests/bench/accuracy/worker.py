"""How is one tool run in a process of its own, beside all others?

    python -m bench.accuracy.worker TOOL ENDPOINT_OF_TICKS

One JSON object a line. In: {"plan": [windows]} for a tool that is called at edges, {"answer": [[n, t0, t1]]}
for one that records, {"samples": [t0, t1]}; the end of stdin ends it. Out: {"ready": …} or {"failed": …}
first, then one answer for each order. Whatever the tool prints goes to stderr, which is its log.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import traceback
from collections import defaultdict
from typing import Any

import zmq

from bench.accuracy.plan import TICK, Window, one_at_a_time
from bench.accuracy.recorders import RECORDERS, Poll
from bench.accuracy.tools import LIVE, Live
from energyd_client.clock import now_ns

_TICK = struct.Struct("<qqqq")
_PAUSE_NS = (
    120_000_000  # between two windows of a tool that knows one at a time; steps come not quite as planned
)
_NEAR_NS = 3_000_000  # an edge this close is slept to, not polled for: poll counts whole milliseconds
_LATE_NS = 3_000_000_000  # after the last planned edge


class Orders:
    """Lines of stdin and steps of the counter, in one poll."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._ticks = self._context.socket(zmq.SUB)
        self._ticks.setsockopt(zmq.RCVHWM, 0)
        self._ticks.setsockopt(zmq.SUBSCRIBE, b"")
        self._ticks.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._ticks, zmq.POLLIN)
        self._poller.register(0, zmq.POLLIN)
        self._text = b""
        self.over = False

    def wait(self, seconds: float) -> tuple[int | None, list[dict[str, Any]]]:
        """The newest step's number, if there is one, and the orders that came within `seconds`."""
        ready = dict(self._poller.poll(max(0, int(seconds * 1000))))
        newest = None
        while self._ticks in ready:
            try:
                newest = _TICK.unpack(self._ticks.recv(zmq.NOBLOCK))[0]
            except zmq.Again:
                break
        orders: list[dict[str, Any]] = []
        if 0 in ready:
            more = os.read(0, 1 << 20)
            self.over = not more
            *lines, self._text = (self._text + more).split(b"\n")
            orders = [json.loads(line) for line in lines if line.strip()]
        if self.over:
            self._poller.unregister(0)
        return newest, orders

    def close(self) -> None:
        self._ticks.close(linger=0)
        self._context.term()


def measure(tool: Live, windows: list[Window], orders: Orders) -> dict[str, Any]:
    """Call the tool at all edges. Rows: [number, begin, begun, end, ended (ns), J or None]."""
    if not tool.nested:
        windows = one_at_a_time(windows, _PAUSE_NS)
    at_tick: dict[int, list[tuple[Window, bool]]] = defaultdict(list)
    at_time: list[tuple[int, Window, bool]] = []
    for w in windows:
        if w.kind == TICK:
            at_tick[w.k0].append((w, True))
            at_tick[w.k1].append((w, False))
        else:
            at_time += [(w.t0_ns, w, True), (w.t1_ns, w, False)]
    at_time.sort(key=lambda edge: edge[0], reverse=True)
    give_up_ns = max(w.t1_ns for w in windows) + _LATE_NS if windows else 0
    begun: dict[int, tuple[int, int]] = {}
    rows: list[list[Any]] = []
    errors: dict[str, int] = defaultdict(int)

    def edge(window: Window, begins: bool) -> None:
        name = f"w{window.number}-{window.t0_ns}"
        try:
            before = now_ns()
            if begins and begun and not tool.nested:
                return  # a step came so early that the window before is open still: the plan's fault
            if begins:
                tool.begin(name)
                begun[window.number] = (before, now_ns())
            elif window.number in begun:
                energy_j = tool.end(name)
                rows.append([window.number, *begun.pop(window.number), before, now_ns(), energy_j])
        except Exception as error:  # a tool's failure is a missing result, not the end of the benchmark
            errors[f"{type(error).__name__}: {error}"] += 1
            traceback.print_exc()
            if not begins and window.number in begun:
                rows.append([window.number, *begun.pop(window.number), before, now_ns(), None])

    while (at_tick or at_time) and now_ns() < give_up_ns and not orders.over:
        ahead_ns = at_time[-1][0] - now_ns() if at_time else 200_000_000
        if ahead_ns <= _NEAR_NS:
            time.sleep(max(0, ahead_ns) / 1e9)
            _, window, begins = at_time.pop()
            edge(window, begins)
            ahead_ns = 0
        newest, _ = orders.wait(max(0, min(ahead_ns - _NEAR_NS, 200_000_000)) / 1e9)
        for k in sorted(k for k in at_tick if newest is not None and k <= newest):
            for window, begins in at_tick.pop(k):
                edge(window, begins)
    unfinished = sum(len(edges) for edges in at_tick.values()) + len(at_time)
    return {"rows": rows, "errors": dict(errors), "planned": len(windows), "unfinished_edges": unfinished}


def main() -> None:
    """Serve one tool until stdin ends."""
    name, endpoint = sys.argv[1].partition("@")[0], sys.argv[2]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")

    tool: Any = None
    try:
        tool = (LIVE.get(name) or RECORDERS[name])()
        if name in LIVE:  # the first window of some tools takes seconds; it is nobody's measurement
            tool.begin("warm-up")
            time.sleep(0.3)
            tool.end("warm-up")
    except ImportError as error:
        traceback.print_exc()
        say(failed=f"not installed: {error}")
        return
    except BaseException as error:  # whatever a tool does, its row must say so
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {error}")
        return
    say(ready=True, version=tool.version)
    orders = Orders(endpoint)
    while not orders.over:
        for order in orders.wait(1.0)[1]:
            try:
                if "plan" in order:
                    say(**measure(tool, [Window(**w) for w in order["plan"]], orders))
                elif "answer" in order:
                    say(rows=[[n, t0, t0, t1, t1, tool.energy_j(t0, t1)] for n, t0, t1 in order["answer"]])
                elif "samples" in order and isinstance(tool, Poll):
                    say(samples=tool.samples(*order["samples"]).tolist())
            except Exception as error:
                traceback.print_exc()
                say(failed=f"{type(error).__name__}: {error}")
    orders.close()
    try:
        tool.close()
    except Exception:
        traceback.print_exc()
    out.flush()
    os._exit(0)  # no tool's thread or exit handler may hold the benchmark up


if __name__ == "__main__":
    main()
