"""What would a GPU's sensors show of a load whose every joule is known?

A load is straight lines between knots; `Load.energy_j` is its exact integral. The sensors do what an H100's
were measured to do (docs/measurement.md), with every phase and jitter drawn at random. Nothing here knows how
the daemon integrates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MS, S = 1_000_000, 1_000_000_000
SENSOR_NS = 100 * MS  # update period of instant, average and counter


@dataclass
class Load:
    """Power over time."""

    kind: str
    t_ns: NDArray[np.int64]
    w: NDArray[np.float64]

    def __post_init__(self) -> None:
        areas = np.diff(self.t_ns) / 1e9 * (self.w[1:] + self.w[:-1]) / 2
        self._cum = np.concatenate(([0.0], np.cumsum(areas)))

    def energy_j(self, t_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """J from the first knot to each instant."""
        t = np.asarray(t_ns, float)
        i = np.clip(np.searchsorted(self.t_ns, t, side="right") - 1, 0, len(self.t_ns) - 2)
        x, d = (t - self.t_ns[i]) / 1e9, (self.t_ns[i + 1] - self.t_ns[i]) / 1e9
        return self._cum[i] + x * (self.w[i] + (self.w[i + 1] - self.w[i]) * x / (2 * d))

    def mean_w(self, a_ns: NDArray[np.int64], b_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean power of each span."""
        return (self.energy_j(b_ns) - self.energy_j(a_ns)) / ((b_ns - a_ns) / 1e9)


def _steps(
    kind: str, length_ns: int, span_s: Callable[[int], float], level_w: Callable[[int], float], rise_ns: int
) -> Load:
    """Levels held for spans, with straight flanks between."""
    t, w, at = [0], [level_w(0)], 0
    for k in range(1, 1_000_000):
        at += max(int(span_s(k) * S), 2 * rise_ns)
        t += [at, at + rise_ns]
        w += [w[-1], level_w(k)]
        if at > length_ns:
            break
    return Load(kind, np.array([*t, t[-1] + S]), np.array([*w, w[-1]], float))


def random_load(rng: np.random.Generator, length_ns: int, *, near_s: float | None = None) -> Load:
    """One of the kinds of load that training and inference make; or a square wave of the period `near_s`."""
    low, high = rng.uniform(70, 200), rng.uniform(250, 700)

    def square(period_s: float) -> Load:
        duty = rng.uniform(0.3, 0.7)
        parts = (period_s * duty, period_s * (1 - duty))
        return _steps("square", length_ns, lambda k: parts[k % 2], lambda k: (low, high)[k % 2], 3 * MS)

    if near_s is not None:
        return square(near_s)
    kind = rng.choice(["flat", "square", "bursts", "training", "decode", "sine", "ladder"])
    if kind == "flat":
        return _steps(
            kind, length_ns, lambda _: rng.exponential(0.3), lambda _: high * rng.normal(1, 0.01), 3 * MS
        )
    if kind == "square":
        return square(2 * np.exp(rng.uniform(np.log(0.01), np.log(2.0))))
    if kind == "bursts":
        mean_s = np.exp(rng.uniform(np.log(0.05), np.log(1.0)))
        levels = lambda k: rng.uniform(250, 700) if k % 2 else low  # noqa: E731
        return _steps(kind, length_ns, lambda _: rng.exponential(mean_s), levels, 3 * MS)
    if kind == "training":  # forward, backward, optimizer, waiting for data
        step_s, dip = rng.uniform(0.12, 1.2), rng.uniform(0.3, 0.9)
        shares, levels_w = (0.3, 0.5, 0.12, 0.08), (0.85 * high, high, 0.7 * high, dip * high)
        return _steps(
            kind, length_ns, lambda k: step_s * shares[k % 4] * rng.normal(1, 0.02),
            lambda k: levels_w[k % 4], 3 * MS,
        )  # fmt: skip
    if kind == "decode":
        half_s = rng.uniform(0.006, 0.02)
        return _steps(
            kind, length_ns, lambda _: half_s * rng.normal(1, 0.05),
            lambda k: (0.7 if k % 2 else 0.45) * high, 2 * MS,
        )  # fmt: skip
    if kind == "sine":
        t = np.arange(0, length_ns + 2 * S, 5 * MS)
        period_s, phase = rng.uniform(2, 20), rng.uniform(0, 6.28)
        swing = np.sin(2 * np.pi * t / 1e9 / period_s + phase)
        return Load(kind, t, (low + high) / 2 + (high - low) / 2 * swing)
    return _steps(kind, length_ns, lambda _: rng.uniform(1, 5), lambda _: rng.uniform(70, 700), 3 * MS)


def is_near_a_period(load: Load, sensor_ns: int = SENSOR_NS) -> bool:
    """Whether the load repeats so that a sensor meets only one, two or three phases of it, ever again."""
    if load.kind not in ("square", "training"):
        return False
    rounds = 2 * (2 if load.kind == "square" else 4)  # two knots a flank
    period_ns = float(np.mean(load.t_ns[1 + rounds :: rounds][:8] - load.t_ns[1:-rounds:rounds][:8]))
    ratios = [q * sensor_ns / period_ns for q in (1, 2, 3)]
    return any(abs(r - max(1, round(r))) < 0.1 for r in ratios)


Samples = tuple[NDArray[np.int64], NDArray[np.int32]]
PERIOD_NS = 20 * MS


def ring(rng: np.random.Generator, load: Load, until_ns: int) -> Samples:
    """Means of 20 ms, up to 3 ms late, stamps wandering as an H100's and moved back by half a period."""
    k = np.arange(1, until_ns // PERIOD_NS)
    wander = rng.choice([0, 6 * MS]) * rng.normal(0, 1, len(k))
    t = k * PERIOD_NS + np.clip(wander, -0.45 * PERIOD_NS, 0.45 * PERIOD_NS).astype(np.int64)
    late_ns = int(rng.integers(0, 3 * MS))
    t = t[t > PERIOD_NS + late_ns]
    power = load.mean_w(t - late_ns - PERIOD_NS, t - late_ns)
    return t - PERIOD_NS // 2, np.rint(power * 1000).astype(np.int32)


def polled(rng: np.random.Generator, load: Load, until_ns: int, window_ns: int, lag_ns: int) -> Samples:
    """The mean of a window, renewed every 100 ms at any phase, read every 100 ms or a little later."""
    t = np.arange(window_ns + 3 * SENSOR_NS, until_ns, SENSOR_NS) + rng.integers(0, SENSOR_NS)
    t = t + np.abs(rng.normal(0, MS, len(t))).astype(np.int64)
    phase = rng.integers(0, SENSOR_NS)
    renewed = (t - phase) // SENSOR_NS * SENSOR_NS + phase
    return t - lag_ns, np.rint(load.mean_w(renewed - window_ns, renewed) * 1000).astype(np.int32)


def counter(rng: np.random.Generator, load: Load) -> Callable[[int], int]:
    """mJ as read at an instant: what it was at the last step of 100 ms."""
    phase = int(rng.integers(0, SENSOR_NS))
    return lambda t_ns: int(load.energy_j((t_ns - phase) // SENSOR_NS * SENSOR_NS + phase) * 1000)
