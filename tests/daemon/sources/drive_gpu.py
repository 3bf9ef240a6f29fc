"""What does GpuSource report while the fake driver is scripted? Run as a process of its own.

The NVML library stays loaded and its function pointers cached for a process's life, so each scenario
gets a fresh one. Reads a JSON request on stdin, writes the pickled outcome to stdout.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path

from energyd.sources import Event, PowerSamples, SourceError
from energyd.sources.gpu import GpuSource
from energyd_client.clock import now_ns


def script(text: str) -> None:
    control = Path(os.environ["FAKE_NVML_CONTROL"])
    new = control.with_suffix(".step")
    new.write_text(text)
    new.replace(control)


def drive(request: dict) -> dict:
    source = GpuSource(request["interval_s"])
    begin_ns = now_ns()
    try:
        source.open()
    except SourceError as error:
        return {"error": str(error)}
    opened_ns = now_ns()
    first = {"devices": list(source.devices()), "domains": list(source.domains())}
    interval_s = source.interval_s
    events: list[Event] = []
    steps = [(opened_ns + int(at_s * 1e9), text) for at_s, text in request["steps"]]
    step_ns = []
    newest: dict[str, int] = {}
    deadline_ns = opened_ns + int(request["deadline_s"] * 1e9)
    next_ns = opened_ns
    while True:
        now = now_ns()
        if steps and now >= steps[0][0]:
            script(steps.pop(0)[1])
            step_ns.append(now_ns())
        if now >= next_ns:
            next_ns += int(source.interval_s * 1e9)
            for event in source.read():
                events.append(event)
                if isinstance(event, PowerSamples):
                    newest[event.uuid] = int(event.t_ns[-1])
        last_step_ns = step_ns[-1] if step_ns else opened_ns
        lasted = not steps and now - last_step_ns > request["seconds"] * 1e9
        fresh = all(newest.get(info.uuid, 0) > last_step_ns for info in source.devices())
        if (lasted and fresh) or now > deadline_ns:
            break
        time.sleep(0.005)
    outcome = {
        "first": first,
        "devices": list(source.devices()),
        "domains": list(source.domains()),
        "events": events,
        "steps_ns": step_ns,
        "opened_ns": opened_ns,
        "open_s": (opened_ns - begin_ns) / 1e9,
        "interval_s": interval_s,
        "error": None,
    }
    source.close()
    return outcome


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(drive(json.load(sys.stdin))))
