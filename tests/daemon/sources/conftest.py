"""How do the tests of sources get at events that a process of its own saw?"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energyd.sources import Break, DeviceInfo, DomainInfo, Event, PowerSamples
from fake_nvml.build import FakeNvml


@dataclass
class Outcome:
    """What GpuSource did in `drive_gpu.py`."""

    error: str | None = None
    first: dict[str, Any] = field(default_factory=dict)
    devices: list[DeviceInfo] = field(default_factory=list)
    domains: list[DomainInfo] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    steps_ns: list[int] = field(default_factory=list)
    opened_ns: int = 0
    open_s: float = 0.0
    interval_s: float = 0.0

    def samples(self, uuid: str) -> tuple[np.ndarray, np.ndarray]:
        """(t_ns, power_mw) of one device, all batches joined; fails unless the stamps rise."""
        mine = [e for e in self.events if isinstance(e, PowerSamples) and e.uuid == uuid]
        t_ns = np.concatenate([e.t_ns for e in mine]) if mine else np.array([], dtype=np.int64)
        power = np.concatenate([e.power_mw for e in mine]) if mine else np.array([], dtype=np.int32)
        assert (np.diff(t_ns) > 0).all()
        return t_ns, power.astype(float)

    def breaks(self, uuid: str) -> list[Break]:
        return [e for e in self.events if isinstance(e, Break) and e.uuid == uuid]


Drive = Callable[..., Outcome]


@pytest.fixture
def drive(fake_nvml: FakeNvml) -> Drive:
    """drive(seconds=…, steps=[(at_s, control text)], interval_s=…) → Outcome."""

    def run(
        *,
        seconds: float = 0.0,
        steps: list[tuple[float, str]] | None = None,
        interval_s: float = 0.5,
        deadline_s: float = 30.0,
        env: dict[str, str] | None = None,
    ) -> Outcome:
        request = {
            "seconds": seconds,
            "steps": steps or [],
            "interval_s": interval_s,
            "deadline_s": deadline_s,
        }
        environment = {**(env or fake_nvml.env), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("drive_gpu.py")],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            env=environment,
            check=True,
            timeout=90,
        )
        return Outcome(**pickle.loads(done.stdout))

    return run
