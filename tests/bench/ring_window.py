"""Of what time is a value of an H100's ring the mean? A fit of the recorded square waves.

    python tests/bench/ring_window.py

For each pattern of tests/traces/h100_square_waves: power is taken as base + swing x (share of a window of
length W, ending `late` before the value's stamp, in which the matmul ran), and W and `late` are chosen so
that the ring's values come out best. W 0 stands for an instant value.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

TRACE = Path(__file__).parent.parent / "traces" / "h100_square_waves"
MS = 1_000_000
WINDOWS_MS = (1, 5, 10, 15, 20, 25, 30, 40)
LATE_MS = range(-5, 26)


def fit(pattern: dict[str, Any], t_ns: np.ndarray, power_w: np.ndarray) -> list[tuple[float, int, int]]:
    """(root mean square of what is left in W, window in ms, late in ms), best first."""
    inside = (t_ns > pattern["begin_ns"]) & (t_ns < pattern["end_ns"])
    t, p = t_ns[inside], power_w[inside]
    bursts = np.array(pattern["bursts_ns"], float)

    def busy_ns(until: np.ndarray) -> np.ndarray:
        return sum(np.clip(until - a, 0, b - a) for a, b in bursts)

    found = []
    for window in WINDOWS_MS:
        for late in LATE_MS:
            end = t - late * MS
            share = (busy_ns(end) - busy_ns(end - window * MS)) / (window * MS)
            columns = np.stack([np.ones_like(share), share], axis=1)
            base_and_swing = np.linalg.lstsq(columns, p, rcond=None)[0]
            left = float(np.sqrt(np.mean((columns @ base_and_swing - p) ** 2)))
            found.append((left, window, late))
    return sorted(found)


def main() -> None:
    with gzip.open(TRACE / "ring.csv.gz") as file:
        t_ns, power_mw = np.loadtxt(file, delimiter=",", skiprows=1).T
    steps = np.percentile(np.diff(t_ns) / MS, [5, 50, 95, 100])
    print("ring step, ms: p5 {:.1f}, p50 {:.1f}, p95 {:.1f}, max {:.1f}\n".format(*steps))
    print("| half period | best window | late by | left | of a 1 ms window |")
    print("|---|---|---|---|---|")
    for pattern in json.loads((TRACE / "windows.json").read_text()):
        if pattern["half_period_s"] < 0.05:  # two windows a swing: the fit's late is then any half period
            continue
        tried = fit(pattern, t_ns, power_mw / 1000)
        left, window, late = tried[0]
        sharp = min(of for of, w, _ in tried if w == 1)
        half_ms = 1000 * pattern["half_period_s"]
        print(f"| {half_ms:.0f} ms | {window} ms | {late} ms | {left:.0f} W | {sharp:.0f} W |")


if __name__ == "__main__":
    main()
