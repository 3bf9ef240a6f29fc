"""What does the CPU take? CodeCarbon's load model: its share of busy time, of the TDP."""

from __future__ import annotations

from typing import Any, NamedTuple

import psutil

MODE_CPU_LOAD = "cpu_load"


class Power(NamedTuple):
    W: float


class CPU:
    def __init__(self, tdp: float) -> None:
        self._tdp = tdp

    @classmethod
    def from_utils(cls, *, tdp: float, **_: Any) -> CPU:
        return cls(tdp)

    def start(self) -> None:
        psutil.cpu_percent()

    def total_power(self) -> Power:
        """From a tenth of the TDP: what takes nothing is no estimate."""
        return Power(self._tdp * max(0.1, psutil.cpu_percent() / 100))
