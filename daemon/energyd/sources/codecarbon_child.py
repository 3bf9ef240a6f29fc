"""What would CodeCarbon say that this CPU takes? A process of its own, for CodeCarbon pulls in pandas.

Run as `python -m energyd.sources.codecarbon_child` by `codecarbon.CodeCarbonSource`. Writes JSON lines:
first {"model", "tdp_w", "version", "notes"}, or {"error"} if CodeCarbon cannot be used; then once a second
{"t0_ns", "t_ns", "power_mw"}: mean power between two CLOCK_BOOTTIME instants, the first ones from before
CodeCarbon had looked up the processor. Ends when its stdin does, that is with its parent.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, TextIO

from energyd_client.clock import now_ns

_PERIOD_S: Final = 1.0


class _Notes(logging.Handler):
    """Keeps CodeCarbon's warnings, which tell whether it knew the processor, and shows them to nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main(out: TextIO) -> None:
    """Say what the estimate is made of, then estimate until stdin ends."""
    try:
        hardware: Any = import_module("codecarbon.external.hardware")
        processors: Any = import_module("codecarbon.core.cpu")
        notes = _Notes()
        logging.getLogger("codecarbon").handlers = [notes]

        def estimator(model: str, tdp_w: float) -> Any:
            # The load model, whatever else the machine has: RAPL is read by energyd itself. The class is
            # used alone; the tracker around it would take locks and signal handlers.
            cpu = hardware.CPU.from_utils(
                output_dir=os.devnull, mode=hardware.MODE_CPU_LOAD, model=model, tdp=tdp_w
            )
            cpu.start()
            return cpu

        # Looking up the processor takes pandas and 2 s, more on a cold disk. Meanwhile an estimator of
        # 1 W takes the load, since the load model is proportional to the TDP.
        t_ns = now_ns()
        unit = estimator("any", 1.0)
        steps: list[tuple[int, int, float]] = []
        with ThreadPoolExecutor(1) as pool:
            lookup = pool.submit(processors.TDP)
            while not wait([lookup], timeout=_PERIOD_S).done:
                steps.append(_mean(unit, t_ns))
                t_ns = steps[-1][1]
        steps.append(_mean(unit, t_ns))
        model, tdp_w = str(lookup.result().model), float(lookup.result().tdp)
        cpu = estimator(model, tdp_w)
    except Exception as error:  # any release may fail in its own way; the parent shows it
        _say(out, error=f"{type(error).__name__}: {error}")
        return
    _say(out, model=model, tdp_w=tdp_w, version=version("codecarbon"), notes=notes.texts)
    for t0_ns, t_ns, watts in steps:
        _say(out, t0_ns=t0_ns, t_ns=t_ns, power_mw=round(watts * tdp_w * 1000))
    while not select.select([sys.stdin], [], [], _PERIOD_S)[0]:
        t0_ns, t_ns, watts = _mean(cpu, t_ns)
        _say(out, t0_ns=t0_ns, t_ns=t_ns, power_mw=round(watts * 1000))


def _mean(cpu: Any, t0_ns: int) -> tuple[int, int, float]:
    """(begin, end, W) of the time since the estimator's last reading."""
    watts = float(cpu.total_power().W)
    return t0_ns, now_ns(), watts


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
