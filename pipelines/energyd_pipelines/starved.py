"""For which share of a stage did its device idle, as the power curve itself tells?

A stage is STARVED when for more than a quarter of its time the power lay within a quarter of the way from the
idle floor to what the device takes when busy (the 95th percentile of the stage): something else than the
device sets the pace, a loader most often. The store's SQL has the same definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyd_client.endpoints import default_endpoint, is_disabled
from energyd_client.errors import EnergydError
from energyd_client.protocol import AskStatus

MARGIN: Final = 0.25
"""Of the way from the floor to the 95th percentile: at or below counts as near the floor."""

STARVED_ABOVE: Final = 0.25
"""Share of a stage's time near the floor above which it is called starved."""


@dataclass(frozen=True, kw_only=True)
class Starved:
    """One device in one stage. Watts; shares from 0 to 1; None where not known, and `reason` says why."""

    share: float | None
    floor_w: float | None = None
    busy_w: float | None = None  # 95th percentile over time
    covered: float = 0.0  # share of the stage that the curve covers: an older part may lie in the store only
    domain: str | None = None
    reason: str | None = None

    @property
    def starved(self) -> bool | None:
        """Whether it waited for more than STARVED_ABOVE of the time; None if not known."""
        return None if self.share is None else self.share > STARVED_ABOVE


def share(power_w: ArrayLike, dt_s: ArrayLike, floor_w: float, stage_s: float | None = None) -> Starved:
    """`power_w` (n,) and the time (n,) that each value stands for; `stage_s`: how long the stage took."""
    power, dt = np.asarray(power_w, np.float64), np.asarray(dt_s, np.float64)
    known = dt > 0
    power, dt = power[known], dt[known]
    if not len(power):
        return Starved(share=None, floor_w=floor_w, reason="no sample of the stage is in the daemon's memory")
    whole_s = float(dt.sum())
    busy_w = _quantile(power, dt, 0.95)
    near = power <= floor_w + MARGIN * (busy_w - floor_w)
    covered = 1.0 if not stage_s else min(1.0, whole_s / stage_s)
    return Starved(share=float(dt[near].sum()) / whole_s, floor_w=floor_w, busy_w=busy_w, covered=covered)


def of_stage(
    stage_id: str, floor: str | float | Mapping[int, float], timeout_s: float = 10.0
) -> dict[int, Starved]:
    """Each device of an ended stage, asked of the daemon; {} without a daemon, or one that does not know it.

    `floor`: the run's idle stage (its id), or watts, for all devices or by the device's number.
    """
    if is_disabled():
        return {}
    from energyd_client.request import ask, stage_result  # imports zmq

    try:
        ask(default_endpoint(), AskStatus(0), timeout_s)  # else each question would wait for nobody
        answer = stage_result(stage_id, timeout_s, power=True)
        status = ask(default_endpoint(), AskStatus(0), timeout_s)  # after it: then all devices are named
    except EnergydError:
        return {}
    if answer is None or answer["t1_ns"] is None:
        return {}
    domains = {d["device"]: str(d["domain"]) for d in status["devices"]}
    floors = _idle_w(stage_result(floor, timeout_s, power=False)) if isinstance(floor, str) else floor
    stage_s = (answer["t1_ns"] - answer["t0_ns"]) / 1e9
    found = {}
    for device, curve in answer["power"].items():
        floor_w = floors.get(device) if isinstance(floors, Mapping) else floors
        if floor_w is None:
            told = Starved(share=None, reason="its idle power is not known: no idle stage has a figure")
        else:
            power_w = np.asarray(curve["power_mw"], np.float64) / 1e3
            told = share(power_w, np.asarray(curve["dt_ns"], np.float64) / 1e9, floor_w, stage_s)
        found[device] = replace(told, domain=domains.get(device))
    return found


def together(found: Iterable[Starved]) -> Starved:
    """The GPUs of a stage as one, each counts alike; without a GPU nobody can tell."""
    known = list(found)
    devices = [d for d in known if d.domain == "gpu"]
    if known and not devices:
        return Starved(share=None, reason="no GPU: a CPU's power is the whole machine's, not one training's")
    shares = [d.share for d in devices if d.share is not None]
    covered = min((d.covered for d in devices), default=0.0)
    if not devices or len(shares) < len(devices):
        reason = next((d.reason for d in devices if d.reason), "no daemon knows the stage's power")
        return Starved(share=None, covered=covered, reason=reason)
    return Starved(share=sum(shares) / len(shares), covered=covered, domain=devices[0].domain)


def _idle_w(answer: dict[str, Any] | None) -> dict[int, float]:
    """Mean power of each device in the idle stage."""
    rows = [] if answer is None else answer["energies"]
    return {
        e["device"]: e["energy_uj"] * 1e3 / (e["t1_ns"] - e["t0_ns"])
        for e in rows
        if e["energy_uj"] is not None and e["t1_ns"] > e["t0_ns"]
    }


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    """The value that a share q of the weight lies at or below."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, q - 1e-9)), len(values) - 1)])
