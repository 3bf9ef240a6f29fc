"""Which way of turning the ring's samples into a window's energy comes closest to the counter?

    python3 tests/bench/accuracy/variants.py DIR

Works on raw data alone (tick windows of all loads). The samples' stamps as the driver gave them are s; a
variant says when a sample's power was, and what holds between samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.accuracy.plan import COUNTS, TICK
from bench.accuracy.raw import Load, read_all
from bench.accuracy.stats import MAX_DOUBT_NS, p95

Floats = NDArray[np.float64]
Cumulative = Callable[[Load, Floats], Floats]
"""Energy from a fixed instant to each of these (ns from the load's first sample), J."""

_MS: Final = 1e6
_BOX_NS: Final = 20 * _MS
LAGS_MS: Final = tuple(range(-10, 41))
ANCHORS_S: Final = (1.0, 5.0)


def driver_samples(load: Load) -> tuple[Floats, Floats]:
    """(driver's stamps, ns from the first; W): what was taken off on the way to the store is put back."""
    t = load["ring_t_ns"] + int(load.meta.get("lag_ns", 0))
    return (t - origin_ns(load)).astype(float), load["ring_mw"] / 1000.0


def origin_ns(load: Load) -> int:
    """The instant that this file counts from."""
    return int(load["ring_t_ns"][0])


def trapezoid(load: Load, at: Floats, lag_ns: float) -> Floats:
    """Power is a straight line between samples, each `lag_ns` before its stamp."""
    t, w = driver_samples(load)
    t = t - lag_ns
    cumulative = np.concatenate(([0.0], np.cumsum(np.diff(t) * (w[1:] + w[:-1]) / 2)))
    i = np.clip(np.searchsorted(t, at, side="right") - 1, 0, len(t) - 2)
    u = at - t[i]
    slope = (w[i + 1] - w[i]) / (t[i + 1] - t[i])
    return (cumulative[i] + u * (w[i] + slope * u / 2)) / 1e9


def rectangle(load: Load, at: Floats, lag_ns: float) -> Floats:
    """A sample is the mean power since the sample before it."""
    t, w = driver_samples(load)
    cumulative = np.concatenate(([0.0], np.cumsum(np.diff(t) * w[1:])))
    return np.interp(at, t - lag_ns, cumulative) / 1e9


def boxcar(load: Load, at: Floats, lag_ns: float) -> Floats:
    """A sample is the mean of the 20 ms before it; what lies before that is the mean of its neighbours."""
    t, w = driver_samples(load)
    step = np.diff(t)
    inside = np.minimum(step, _BOX_NS)
    energy = inside * w[1:]
    hole = (step - inside) * (w[1:] + w[:-1]) / 2
    knots = np.empty(2 * len(t) - 1)
    knots[0::2] = t
    knots[1::2] = t[1:] - inside
    parts = np.empty(2 * len(step))
    parts[0::2], parts[1::2] = hole, energy
    return np.interp(at, knots - lag_ns, np.concatenate(([0.0], np.cumsum(parts)))) / 1e9


def anchored(load: Load, at: Floats, lag_ns: float, every_s: float) -> Floats:
    """The ring's shape, scaled to the counter between steps of the counter `every_s` or more apart.

    The anchors are steps that do not depend on the windows; outside of them the ring stands alone.
    """
    steps = (load.tick_ns() - origin_ns(load)).astype(float)
    every = max(1, round(every_s * 1e9 / float(np.median(np.diff(steps)))))
    steps, mj = steps[3::every], load["tick_mj"][3::every] / 1000.0
    ring_at_steps, ring = trapezoid(load, steps, lag_ns), trapezoid(load, at, lag_ns)
    # What is missing between two anchors is spread in proportion to the ring's own energy there.
    return ring + np.interp(ring, ring_at_steps, mj - mj[0] - (ring_at_steps - ring_at_steps[0]))


def errors(
    load: Load, cumulative: Cumulative, length_s: float | None = None, part: int | None = None
) -> Floats:
    """Relative errors over the tick windows; `part` 0 or 1: every other one."""
    mask = (load["win_kind"] == TICK) & load.has_ticks(load["win_k0"], load["win_k1"])
    mask &= load.doubt_ns(np.arange(len(mask))) <= MAX_DOUBT_NS
    if length_s is not None:
        mask &= load["win_length_s"] == length_s
    if part is not None:
        mask &= np.arange(len(mask)) % 2 == part
    k = load["tick_k"]
    at0, at1 = (np.searchsorted(k, load[name][mask]) for name in ("win_k0", "win_k1"))
    reference = (load["tick_mj"][at1] - load["tick_mj"][at0]) / 1000.0
    t = (load.tick_ns() - origin_ns(load)).astype(float)
    return (cumulative(load, t[at1]) - cumulative(load, t[at0])) / reference - 1


def best_lag_ms(loads: list[Load], rule: Callable[[Load, Floats, float], Floats]) -> float:
    """The lag with the least median error over every other window of 0.2 and 1 s, whole milliseconds."""

    def cost(lag_ms: float) -> float:
        found = [
            errors(load, lambda one, at: rule(one, at, lag_ms * _MS), length_s, part=0)
            for load in loads
            for length_s in (0.2, 1.0)
        ]
        return float(np.median(np.abs(np.concatenate(found))))

    return float(min(LAGS_MS, key=cost))


def variants(loads: list[Load]) -> dict[str, Cumulative]:
    """Everything that is tried, by what the report calls it."""
    half = float(np.median(np.concatenate([np.diff(load["ring_t_ns"]) for load in loads]))) / 2 / _MS
    best = {rule: best_lag_ms(loads, rule) for rule in (trapezoid, rectangle, boxcar)}
    stored = float(loads[0].meta.get("lag_ns", 0)) / _MS

    def use(rule: Callable[..., Floats], lag_ms: float, *more: float) -> Cumulative:
        return lambda load, at: rule(load, at, lag_ms * _MS, *more)

    table = {
        f"trapezoid, as energyd stores it (lag {stored:g} ms)": (
            lambda load, at: trapezoid(load, at, float(load.meta.get("lag_ns", 0)))
        ),
        "trapezoid, lag 0": use(trapezoid, 0),
        f"trapezoid, lag of half a period ({half:.1f} ms)": use(trapezoid, half),
        "trapezoid, lag 13 ms": use(trapezoid, 13),
        f"trapezoid, best lag ({best[trapezoid]:g} ms)": use(trapezoid, best[trapezoid]),
        "rectangle (mean since the sample before), lag 0": use(rectangle, 0),
        f"rectangle, best lag ({best[rectangle]:g} ms)": use(rectangle, best[rectangle]),
        f"boxcar of 20 ms, best lag ({best[boxcar]:g} ms)": use(boxcar, best[boxcar]),
    }
    for every_s in ANCHORS_S:
        name = f"counter-anchored every {every_s:g} s, best lag ({best[trapezoid]:g} ms)"
        table[name] = use(anchored, best[trapezoid], every_s)
    return table


def usable(loads: list[Load]) -> list[Load]:
    """Loads with samples all through."""
    return [load for load in loads if "ring_t_ns" in load.arrays and len(load["ring_t_ns"]) > 100]


def table(loads: list[Load]) -> list[str]:
    """Markdown: p95 of the absolute error by window length, a row for each variant."""
    loads = usable(loads)
    lengths = [s for s in sorted(COUNTS) if any((load["win_length_s"] == s).any() for load in loads)]
    if not loads:
        return ["No ring samples were kept."]
    lines = ["| energy of a window from ring samples | " + " | ".join(f"{s:g} s" for s in lengths) + " |"]
    lines.append("|---|" + "---|" * len(lengths))
    for name, rule in variants(loads).items():
        cells: list[Any] = []
        for length_s in lengths:
            # The fit saw the even windows of the short lengths: only the odd ones judge there.
            part = 1 if length_s <= 1.0 else None
            found = np.concatenate([errors(load, rule, length_s, part) for load in loads])
            cells.append(f"{100 * p95(found):.2f} %" if len(found) else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table(read_all(Path(sys.argv[1])))))
