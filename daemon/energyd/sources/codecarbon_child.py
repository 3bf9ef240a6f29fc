"""What would CodeCarbon say that this CPU takes? A process of its own, for CodeCarbon pulls in pandas.

Run as `python -m energyd.sources.codecarbon_child` by `codecarbon.CodeCarbonSource`. Writes JSON lines:
first {"model", "match", "tdp_w", "processors", "threads", "virtual", "mode", "version"}, or {"error"} if
CodeCarbon cannot be used; then once a second {"t0_ns", "t_ns", "power_mw"}: mean power between two
CLOCK_BOOTTIME instants, the first ones from before CodeCarbon had looked up the processor. {"lost"} says
why it ends early; else it ends when its stdin does, that is with its parent.

Only CodeCarbon's load model is used. Its RAPL mode reads as 0 W where it may not read the counters, and its
constant mode is half the TDP whatever the machine does: both would look like a measurement.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TextIO

from energyd_client.clock import now_ns

_PERIOD_S: Final = 1.0
_STILL_NS: Final = 500_000_000  # a kernel's CPU times move every 10 ms


class _Blind(Exception):
    """The estimate would not follow the load."""


class _Estimator:
    """CodeCarbon's load model for a TDP, and a check of what it goes by."""

    def __init__(self, hardware: Any, model: str, tdp_w: float) -> None:
        # The class is used alone; the tracker around it would take locks and signal handlers.
        self._cpu = hardware.CPU.from_utils(
            output_dir=os.devnull, mode=hardware.MODE_CPU_LOAD, model=model, tdp=tdp_w
        )
        self._psutil: Any = import_module("psutil")
        self._cpu.start()
        self._spent_s, self._moved_ns = self._cpu_time_s(), now_ns()

    def mean(self, t0_ns: int) -> tuple[int, int, float]:
        """(begin, end, W) of the time since the last call. Raises _Blind where it does not know the load."""
        watts = float(self._cpu.total_power().W)
        t_ns = now_ns()
        if not (math.isfinite(watts) and watts > 0):
            raise _Blind(f"it gives {watts:g} W, which no processor takes")
        spent_s = self._cpu_time_s()
        if spent_s > self._spent_s:
            self._spent_s, self._moved_ns = spent_s, t_ns
        elif t_ns - self._moved_ns > _STILL_NS:
            raise _Blind("the kernel's CPU times stand still, as in some sandboxes: no load can be told")
        return t0_ns, t_ns, watts

    def _cpu_time_s(self) -> float:
        return float(sum(self._psutil.cpu_times()))


def main(out: TextIO) -> None:
    """Say what the estimate is made of, then estimate until stdin ends."""
    # CodeCarbon opens NVML when it is imported and keeps it: no `energyd release` could free the driver then.
    sys.modules["pynvml"] = None  # type: ignore[assignment]
    try:
        hardware: Any = import_module("codecarbon.external.hardware")
        processors: Any = import_module("codecarbon.core.cpu")
        logging.getLogger("codecarbon").handlers = [logging.NullHandler()]
        # Looking up the processor takes pandas and 2 s, more on a cold disk. Meanwhile an estimator of
        # 1 W takes the load, since the load model is proportional to the TDP.
        t_ns = now_ns()
        unit = _Estimator(hardware, "any", 1.0)
        steps: list[tuple[int, int, float]] = []
        with ThreadPoolExecutor(1) as pool:
            lookup = pool.submit(_processor, processors)
            while not wait([lookup], timeout=_PERIOD_S).done:
                steps.append(unit.mean(t_ns))
                t_ns = steps[-1][1]
        facts = lookup.result()
        tdp_w = facts["tdp_w"] * facts["processors"]
        cpu = _Estimator(hardware, facts["model"], tdp_w)
        steps.append(unit.mean(t_ns))
        t_ns = steps[-1][1]
    except Exception as error:  # any release may fail in its own way; the parent shows it
        _say(out, error=str(error) if isinstance(error, _Blind) else f"{type(error).__name__}: {error}")
        return
    _say(out, **facts, mode="load", version=version("codecarbon"))
    for t0_ns, t_ns, watts in steps:
        _say(out, t0_ns=t0_ns, t_ns=t_ns, power_mw=round(watts * tdp_w * 1000))
    while not select.select([sys.stdin], [], [], _PERIOD_S)[0]:
        try:
            t0_ns, t_ns, watts = cpu.mean(t_ns)
        except Exception as error:
            _say(out, lost=str(error) if isinstance(error, _Blind) else f"{type(error).__name__}: {error}")
            return
        _say(out, t0_ns=t0_ns, t_ns=t_ns, power_mw=round(watts * 1000))


def _processor(processors: Any) -> dict[str, Any]:
    """Model, TDP of one processor and how it was come by. Raises _Blind where CodeCarbon has no TDP."""

    class Lookup(processors.TDP):  # type: ignore[misc]
        match: str | None = None

        def _get_matching_cpu(self, *args: Any, **kwargs: Any) -> Any:
            self.match = super()._get_matching_cpu(*args, **kwargs)
            return self.match

    found = Lookup()
    if not found.tdp:
        raise _Blind(f"it has no TDP for the processor {str(found.model)!r}")
    virtual, sockets = _machine()
    return {
        "model": str(found.model),
        "match": found.match,  # None: 4 W for each thread, as CodeCarbon does for what it does not know
        "tdp_w": float(found.tdp),
        # The table's TDP is that of one processor, the guess is for the machine. What a virtual machine
        # calls sockets says nothing of how much of the host's processor it has.
        "processors": sockets if found.match and not virtual else 1,
        "threads": os.cpu_count() or 1,
        "virtual": virtual,
    }


def _machine() -> tuple[bool, int]:
    """(whether a hypervisor is beneath, number of sockets), as far as the kernel says."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    lines = [line.partition(":") for line in text.splitlines()]
    flags = next((value for key, _, value in lines if key.strip() == "flags"), "")
    sockets = {value.strip() for key, _, value in lines if key.strip() == "physical id"}
    return "hypervisor" in flags.split() or Path("/sys/hypervisor/type").exists(), max(len(sockets), 1)


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    # The parent reads the real stdout; whatever libraries print goes nowhere.
    own = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    # Ctrl-C and a service's stop reach the whole group: the parent still wants the last seconds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        main(own)
    except BrokenPipeError:
        pass  # the parent is gone
