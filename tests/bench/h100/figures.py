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
from collections.abc import Mapping, Sequence
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

BOARD: Final = "SELECT DISTINCT uuid FROM devices WHERE domain = 'gpu'"
"""A piece is measured on one."""


@dataclass(frozen=True)
class Value:
    """A figure and its doubt, halves of 95 % intervals; None where it is not known.

    `own` is independent of all others. `shared`: by board, what its sensor may have wrong in all windows of
    it, signed, so that it cancels in a quotient of figures of one board, and does not where they are of two.
    """

    mean: float | None
    own: float | None = None
    shared: Mapping[str, float] = field(default_factory=dict)

    @property
    def half(self) -> float | None:
        """Half of the 95 % interval; None where nothing tells."""
        return None if self.own is None else math.hypot(self.own, *self.shared.values())

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        return f"{self.mean:.4g}" if self.half is None else f"{self.mean:.4g} ± {float(f'{self.half:.2g}'):g}"

    def times(self, factor: float) -> Value:
        """Scaled, its doubt too."""
        if self.mean is None:
            return self
        shared = {board: s * factor for board, s in self.shared.items()}
        return Value(self.mean * factor, None if self.own is None else self.own * abs(factor), shared)

    def over(self, other: Value) -> Value:
        """The quotient."""
        if not self.mean or not other.mean:
            return Value(None)
        # As shares of themselves, a quotient is a difference.
        share = self.times(1 / self.mean).less(other.times(1 / other.mean))
        return Value(self.mean / other.mean, *_scaled(share, self.mean / other.mean))

    def less(self, other: Value) -> Value:
        """The difference; of one whose doubt is not known, its doubt is not either."""
        if self.mean is None or other.mean is None:
            return Value(None)
        own = None if self.own is None or other.own is None else math.hypot(self.own, other.own)
        shared = {
            board: self.shared.get(board, 0.0) - other.shared.get(board, 0.0)
            for board in {**self.shared, **other.shared}
        }
        return Value(self.mean - other.mean, own, shared)

    def plus(self, other: Value) -> Value:
        """The sum."""
        return self.less(other.times(-1))

    def beside(self, other: Value) -> Value:
        """The same figure with that doubt alone which a comparison with `other` leaves to it."""
        if not other.mean:
            return self
        return self.over(Value(other.mean, 0.0, other.shared)).times(other.mean)


def _scaled(value: Value, factor: float) -> tuple[float | None, Mapping[str, float]]:
    scaled = value.times(factor)
    return scaled.own, scaled.shared


@dataclass
class Kind:
    """All windows of one variant."""

    name: str
    facts: dict[str, Any]
    windows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def j_per(self, unit: str) -> Value:
        """Joules (GPU and CPU) a token. Its doubt: the spread of windows, and the sensor's, by board.

        How a lone window would differ from its repeat is assumed (USUAL).
        """
        rows = [w for w in self.windows if w.get(unit) and w["energy"]["total_j"] is not None]
        found = mean_of([w["energy"]["total_j"] / w[unit] for w in rows])
        if found.mean is None:
            return found
        known = [w for w in rows if w["energy"]["u_total_j"] is not None]
        parts = [2 * USUAL * found.mean if len(rows) == 1 else found.own or 0.0]
        if known:
            shares = [w["energy"]["u_random_j"] / w["energy"]["total_j"] for w in known]
            parts.append(found.mean * fmean(shares))
        shared: dict[str, float] = {}
        for w in known:
            energy = w["energy"]
            common = math.sqrt(max(energy["u_total_j"] ** 2 - energy["u_random_j"] ** 2, 0.0))
            shared[w["board"]] = shared.get(w["board"], 0.0) + common / w[unit] / len(known)
        return Value(found.mean, math.hypot(*parts), shared)

    def over(self, other: Kind, unit: str) -> Value:
        """Joules a token as a multiple of another's.

        From pairs of one model load, where there are two and more: those have board and sensor in common.
        """
        rates = [
            {(w["store"], w["repeat"]): w["energy"]["total_j"] / w[unit] for w in kind.windows
             if w.get(unit) and w["energy"]["total_j"] is not None}
            for kind in (self, other)
        ]  # fmt: skip
        pairs = [rates[0][at] / rates[1][at] for at in rates[0] if at in rates[1]]
        return mean_of(pairs) if len(pairs) > 1 else self.j_per(unit).over(other.j_per(unit))

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
        board = ask(store, BOARD)[0]["uuid"]
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
                kind.windows.append(
                    {**line, "energy": energy, "starved": share, "store": store, "board": board}
                )
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
