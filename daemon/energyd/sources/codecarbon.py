"""What does CodeCarbon estimate for the CPU, where RAPL cannot be read?

The estimate is made in a child process (`codecarbon_child`) and read from its pipe without waiting.
`open` only starts it: the device is announced by a `Changed` some 3 s later, with samples that reach back
to the child's start. A child that dies is a Break and is started again, with back-off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from energyd.sources import Break, Changed, DeviceInfo, DomainInfo, Event, PowerSamples
from energyd_client.clock import now_ns

UUID: Final = "codecarbon:cpu"
_PERIOD_NS: Final = 1_000_000_000
_MAX_STEP_NS: Final = 5 * _PERIOD_NS
_BACK_OFF_MAX_NS: Final = 60 * _PERIOD_NS
_GRACE_S: Final = 1.0


class CodeCarbonSource:
    """CPU power estimated from load and TDP. `why`: in words, why RAPL is not used."""

    name = "codecarbon"

    def __init__(self, why: str):
        self.interval_s = 0.5  # half the child's period: a line is at most that old
        self._why = why
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._device: DeviceInfo | None = None
        self._domain = DomainInfo(domain="cpu", state="estimated", source=self.name, reason="not started yet")
        self._last: tuple[int, int] | None = None  # (t_ns, mW) of the last sample
        self._deaths = 0
        self._restart_ns: int | None = None  # None: no restart is due

    def open(self) -> None:
        """Start the child. Does not wait for it."""
        self._domain = DomainInfo(
            domain="cpu", state="estimated", source=self.name, reason=f"{self._why}; CodeCarbon is starting"
        )
        self._last = None
        self._start()

    def devices(self) -> Sequence[DeviceInfo]:
        """The CPU, once CodeCarbon has said what it is."""
        return [self._device] if self._device else []

    def domains(self) -> Sequence[DomainInfo]:
        """The domains `cpu` and `dram`."""
        absent = f"{self._why}; CodeCarbon would guess memory by its slots, which energyd does not count"
        return [self._domain, DomainInfo(domain="dram", state="absent", reason=absent)]

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
        self._restart_ns = None

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
        if self._domain.state == "unreadable":
            return []  # it said why, and a restart would hear the same
        self._restart_ns = now + min(_PERIOD_NS << min(self._deaths, 6), _BACK_OFF_MAX_NS)
        self._deaths += 1
        return [Break(UUID, now, f"lost: CodeCarbon's process ended with code {code}")]

    # ---- its words -----------------------------------------------------------------------------

    def _take(self, message: dict[str, Any], now: int) -> list[Event]:
        if "error" in message:
            reason = f"{self._why}; CodeCarbon cannot be used: {message['error']}"
            self._domain = DomainInfo(domain="cpu", state="unreadable", reason=reason)
            self._device = None
            return [Changed(now)]
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
        tdp = f"TDP of {message['tdp_w']:g} W"
        if any("default power" in note or "don't know" in note for note in message["notes"]):
            tdp += " (a guess: CodeCarbon does not know this processor)"
        known = (self._device, self._domain)
        self._device = DeviceInfo(
            uuid=UUID,
            domain="cpu",
            name=message["model"],
            source=self.name,
            origin="estimated",
            period_ns=_PERIOD_NS,
            max_step_ns=_MAX_STEP_NS,
            driver=f"codecarbon {message['version']}, load, {tdp}",
        )
        self._domain = DomainInfo(
            domain="cpu",
            state="estimated",
            source=self.name,
            reason=f"{self._why}; CodeCarbon estimates from the load and a {tdp}",
        )
        return [Changed(now)] if known != (self._device, self._domain) else []
