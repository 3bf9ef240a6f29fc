"""What does CodeCarbon estimate for the CPU, where RAPL cannot be read?

The estimate is made in a child process (`codecarbon_child`) and read from its pipe without waiting.
`open` only starts it: the device is announced by a `Changed` some 3 s later, with samples that reach back
to the child's start. Until then the domain is unreadable, so that no total leaves the CPU out unseen.
A child that dies is a Break and is started again, with back-off.

The estimate goes by the load and a TDP, so it may be off by ±40 % (`accuracy`): the largest error that a
comparison with external meters found over some hundred runs (Fischer 2025, arXiv 2509.22092). In a virtual
machine the TDP is of a processor of which the machine has an unknown share, and no figure bounds it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from energyd.sources import Break, Changed, DeviceInfo, DomainInfo, Event, PowerSamples
from energyd_client.clock import now_ns

UUID: Final = "codecarbon:cpu"
ACCURACY: Final = 0.40
_PERIOD_NS: Final = 1_000_000_000
_MAX_STEP_NS: Final = 5 * _PERIOD_NS
_BACK_OFF_MAX_NS: Final = 60 * _PERIOD_NS
_GRACE_S: Final = 1.0


class CodeCarbonSource:
    """CPU power estimated from load and TDP.

    `why`: in words, why RAPL is not used; `dram_unreadable`: why its memory counters cannot be, if there
    are some.
    """

    name = "codecarbon"

    def __init__(self, why: str, dram_unreadable: str | None = None):
        self.interval_s = 0.5  # half the child's period: a line is at most that old
        self._why = why
        self._dram = _dram(why, dram_unreadable)
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._device: DeviceInfo | None = None
        self._domain = self._unreadable("not started yet")
        self._refused = False  # CodeCarbon cannot be used, and a restart would hear the same
        self._lost: str | None = None  # why the child has ended, in its own words
        self._last: tuple[int, int] | None = None  # (t_ns, mW) of the last sample
        self._deaths = 0
        self._restart_ns: int | None = None  # None: no restart is due

    def open(self) -> None:
        """Start the child. Does not wait for it."""
        self._domain = replace(self._unreadable("CodeCarbon is starting"), is_starting=True)
        self._last, self._refused = None, False
        self._start()

    def devices(self) -> Sequence[DeviceInfo]:
        """The CPU, once CodeCarbon has said what it is."""
        return [self._device] if self._device else []

    def domains(self) -> Sequence[DomainInfo]:
        """The domains `cpu` and `dram`."""
        return [self._domain, self._dram]

    def read(self) -> Iterable[Event]:
        """The lines that the child has written since."""
        now = now_ns()
        if self._child is None:
            if self._restart_ns is not None and now >= self._restart_ns:
                self._start()
            return []
        assert self._child.stdout is not None
        events: list[Event] = []
        try:
            while chunk := os.read(self._child.stdout.fileno(), 65_536):
                self._rest += chunk
        except BlockingIOError:
            ended = False
        else:
            ended = True
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            events += self._take(json.loads(line), now)
        if ended:
            events += self._ended(now)
        return events

    def close(self) -> None:
        """End the child and wait for it."""
        if self._child is not None:
            self._stop(self._child)
        self._child, self._restart_ns, self._device = None, None, None
        self._deaths = 0

    # ---- the child -----------------------------------------------------------------------------

    def _start(self) -> None:
        # From / and with our own path spelled out: `-m` puts the working directory first, where some
        # program's own `codecarbon.py` may lie.
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "energyd.sources.codecarbon_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._rest = b""
        self._restart_ns = self._lost = None

    @staticmethod
    def _stop(child: subprocess.Popen[bytes]) -> int:
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        try:
            return child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _ended(self, now: int) -> list[Event]:
        assert self._child is not None
        code = self._stop(self._child)
        self._child = None
        if self._refused:
            return []
        self._restart_ns = now + min(_PERIOD_NS << min(self._deaths, 6), _BACK_OFF_MAX_NS)
        self._deaths += 1
        why = self._lost or f"CodeCarbon's process ended with code {code}"
        if self._device is None:
            self._domain = self._unreadable(f"{why}; it is tried again")
            return [Changed(now)]
        return [Break(UUID, now, f"lost: {why}")]

    # ---- its words -----------------------------------------------------------------------------

    def _take(self, message: dict[str, Any], now: int) -> list[Event]:
        if "error" in message:
            self._domain = self._unreadable(f"CodeCarbon cannot be used: {message['error']}")
            self._device, self._refused = None, True
            return [Changed(now)]
        if "lost" in message:
            self._lost = f"CodeCarbon: {message['lost']}"
            return []
        if "model" in message:
            return self._hello(message, now)
        t0_ns, t_ns, power_mw = message["t0_ns"], message["t_ns"], message["power_mw"]
        if t_ns <= t0_ns:
            return []
        self._deaths = 0
        last, self._last = self._last, (t_ns, power_mw)
        times, energies = [t_ns], [power_mw * (t_ns - t0_ns) // 1_000_000]
        if last is None or t0_ns > last[0]:
            # A mean over the step behind: the first of a child needs a sample at its begin, too. What
            # lies between two children is a straight line, if it is short enough to be no gap at all.
            hole_uj = (last[1] + power_mw) * (t0_ns - last[0]) // 2_000_000 if last else 0
            times, energies = [t0_ns, t_ns], [hole_uj, *energies]
        power = np.full(len(times), power_mw, dtype=np.int32)
        return [PowerSamples(UUID, np.array(times), power, np.array(energies))]

    def _hello(self, message: dict[str, Any], now: int) -> list[Event]:
        known = (self._device, self._domain)
        mode, tdp = f"{message['mode']} mode", _tdp(message)
        self._device = DeviceInfo(
            uuid=UUID,
            domain="cpu",
            name=message["model"],
            source=self.name,
            origin="estimated",
            period_ns=_PERIOD_NS,
            max_step_ns=_MAX_STEP_NS,
            driver=f"codecarbon {message['version']}, {mode}, {tdp}",
            accuracy=ACCURACY,
        )
        self._domain = DomainInfo(
            domain="cpu",
            state="estimated",
            source=self.name,
            reason=f"{self._why}; CodeCarbon {message['version']} estimates {message['model']} to ±40 % "
            f"({mode}) from a {tdp}",
        )
        return [Changed(now)] if known != (self._device, self._domain) else []

    def _unreadable(self, why: str) -> DomainInfo:
        return DomainInfo(domain="cpu", state="unreadable", reason=f"{self._why}; {why}")


def _tdp(message: dict[str, Any]) -> str:
    """The TDP in words, with how it was come by and what to know of it."""
    count, threads = message["processors"], message["threads"]
    of = f"{count} x {message['tdp_w']:g} W" if count > 1 else f"{message['tdp_w']:g} W"
    if message["match"] is None:
        text = f"TDP of {of} (a guess of 4 W a thread: CodeCarbon does not know this processor)"
    else:
        text = f"TDP of {of} (CodeCarbon's table: {message['match']})"
    if not message["virtual"]:
        return text
    if message["match"] is None:
        return f"{text} in a virtual machine of {threads} CPUs"
    return f"{text}, of a whole processor; this virtual machine has {threads} CPUs of it, so this is too much"


def _dram(why: str, unreadable: str | None) -> DomainInfo:
    guess = "CodeCarbon would guess memory by its slots, which energyd does not count"
    if unreadable:
        return DomainInfo(domain="dram", state="unreadable", reason=f"{unreadable}; {guess}")
    return DomainInfo(domain="dram", state="absent", reason=f"{why}; {guess}")
