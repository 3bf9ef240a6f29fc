"""What did each kind of window cost, by the stores alone: joules a token, watts, starved share, MFU?

Energies, powers and the power curve come from energyq over each piece's store; the runner's lines bring what
no store knows: how fast, how full, which shape. Energy is that of GPU and CPU, as everywhere in energyd; W is
the GPU's.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from energyd_pipelines import starved
from energyq.student import t_quantile

UNITS: Final = ("positions", "label", "generated")
USUAL: Final = 0.005
"""Share (k = 1) by which a window's energy is taken to differ from its repeat's where there is none: what
`energyq compare` assumes too. Without it a difference of two lone windows looks as sure as their sensor."""

QUESTION: Final = """
    SELECT t.stage_id, t.seconds, t.gpu_j, t.cpu_j, t.total_j, t.u_total_j, t.u_random_j, t.reason,
        list(s.t_ns ORDER BY s.t_ns) AS t_ns, list(s.power_mw ORDER BY s.t_ns) AS power_mw
    FROM stage_totals t LEFT JOIN (
        SELECT samples.* FROM samples JOIN devices USING (device) WHERE domain = 'gpu') s
        ON s.t_ns BETWEEN t.t0_ns AND t.t1_ns
    WHERE t.depth = 0 AND t.stage != 'warm-up' GROUP BY ALL"""
"""Each window's energy, and the power curve of the GPU in it."""


@dataclass(frozen=True)
class Value:
    """A figure and half of its 95 % interval; None where it is not known."""

    mean: float | None
    half: float | None = None

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        return f"{self.mean:.4g}" if self.half is None else f"{self.mean:.4g} ± {self.half:.2g}"

    def times(self, factor: float) -> Value:
        """Scaled, its doubt too."""
        if self.mean is None:
            return self
        return Value(self.mean * factor, None if self.half is None else self.half * abs(factor))

    def over(self, other: Value) -> Value:
        """The quotient of two independent figures."""
        if self.mean is None or not other.mean:
            return Value(None)
        shares = [h / m for h, m in ((self.half, self.mean), (other.half, other.mean)) if h is not None and m]
        quotient = self.mean / other.mean
        return Value(quotient, quotient * math.hypot(*shares) if shares else None)

    def less(self, other: Value) -> Value:
        """The difference of two independent figures."""
        if self.mean is None or other.mean is None:
            return Value(None)
        halves = [h for h in (self.half, other.half) if h is not None]
        return Value(self.mean - other.mean, math.hypot(*halves) if halves else None)

    def plus(self, other: Value) -> Value:
        """The sum of two independent figures."""
        return self.less(other.times(-1))


@dataclass
class Kind:
    """All windows of one variant."""

    name: str
    facts: dict[str, Any]
    windows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def j_per(self, unit: str, *, common: bool = True) -> Value:
        """Joules (GPU and CPU) a token. Its interval: the spread of windows, and the sensor's own doubt.

        `common` False is for ratios: what all windows of a board have in common, which cancels, is left out;
        how a lone window would differ from its repeat, which does not cancel, is assumed (USUAL).
        """
        doubt = "u_total_j" if common else "u_random_j"
        rows = [w for w in self.windows if w.get(unit) and w["energy"]["total_j"] is not None]
        found = mean_of([w["energy"]["total_j"] / w[unit] for w in rows])
        shares = [e[doubt] / e["total_j"] for e in (w["energy"] for w in rows) if e[doubt] is not None]
        if not common and len(rows) == 1:
            shares = [math.hypot(*shares, 2 * USUAL)]
        if found.mean is None or not shares:
            return found
        return Value(found.mean, math.hypot(found.half or 0.0, fmean(shares) * found.mean))

    def watts(self) -> Value:
        """Mean power of the GPU."""
        rows = [w["energy"] for w in self.windows if w["energy"]["gpu_j"] is not None]
        return mean_of([e["gpu_j"] / e["seconds"] for e in rows])

    def rate(self, unit: str) -> Value:
        """Tokens a second."""
        return mean_of([w[unit] / w["seconds"] for w in self.windows if w.get(unit)])

    def mfu(self) -> Value:
        """Share of the peak that the model's own arithmetic takes."""
        return mean_of([w["mfu"] for w in self.windows if w.get("mfu")])

    def starved_share(self) -> Value:
        """Share of time near the idle floor."""
        return mean_of([w["starved"].share for w in self.windows if w["starved"].share is not None])

    @property
    def starved(self) -> bool | None:
        """Whether the flag is up in most windows; None where no curve tells."""
        known = [w["starved"].starved for w in self.windows if w["starved"].starved is not None]
        return sum(known) > len(known) / 2 if known else None


_quantile: Final = cache(t_quantile)


def mean_of(values: Sequence[float]) -> Value:
    """Mean and 95 % interval over repeats; no interval for one."""
    if not values:
        return Value(None)
    if len(values) == 1:
        return Value(values[0])
    return Value(fmean(values), _quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def read(pieces: list[tuple[Path, list[dict[str, Any]], dict[str, Any]]]) -> dict[str, Kind]:
    """Kinds of windows by name, in the order they were first measured."""
    kinds: dict[str, Kind] = {}
    floors: dict[str, float] = {}
    for store, lines, said in pieces:
        energies = {row["stage_id"]: row for row in ask(store, QUESTION)}
        # A piece that measured no idling has the floor of the one before on such a GPU.
        floor = _floor(lines, energies) or floors.get(said["gpu"])
        if floor is not None:
            floors[said["gpu"]] = floor
        for line in lines:
            kind = kinds.setdefault(line["variant"], Kind(line["variant"], line))
            if line.get("error"):
                kind.errors.append(line["error"])
            elif (energy := energies.get(line["stage_id"])) is not None:
                share = _share(energy, floor, line["seconds"])
                kind.windows.append({**line, "energy": energy, "starved": share, "store": store})
            else:
                kind.errors.append(f"window {line['repeat']}: its stage is not in the store")
    return kinds


def ask(store: Path, question: str) -> list[dict[str, Any]]:
    """Rows of a question, by energyq. Raises RuntimeError with what it said."""
    command = [sys.executable, "-m", "energyq", "--store", str(store), "--format", "json", question]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):  # 4: some figure is not known, which its row says
        raise RuntimeError(f"{store}: {done.stderr.strip()}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _floor(lines: list[dict[str, Any]], energies: dict[str, Any]) -> float | None:
    """Watts of the GPU that does nothing: with a context if that was measured, for so work finds it."""
    for name in ("prerun.context", "prerun.idle"):
        for line in lines:
            energy = energies.get(line.get("stage_id"))
            if line["stage"] == name and energy and energy["gpu_j"] is not None:
                return float(energy["gpu_j"] / energy["seconds"])
    return None


def _share(energy: dict[str, Any], floor: float | None, seconds: float) -> starved.Starved:
    """Of one GPU's curve; each sample stands for the time since the one before."""
    if len(energy["t_ns"]) < 3:
        return starved.Starved(share=None, reason="too few samples")
    if floor is None:
        return starved.Starved(share=None, reason="no idle stage on such a GPU")
    power_w = np.array(energy["power_mw"], np.float64)[1:] / 1e3
    return starved.share(power_w, np.diff(np.array(energy["t_ns"], np.int64)) / 1e9, floor, seconds)
