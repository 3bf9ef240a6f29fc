"""What do `make bench-coverage`'s figures say: how often does the stated doubt hold the truth?

    python tests/bench/coverage.py [LOADS [SEED]]

Closed-form loads through the closed-form sensors of tests/daemon/closed_form.py; four windows a load. The
figures do not depend on the machine.
"""

from __future__ import annotations

import sys

import numpy as np

from daemon.closed_form import random_load
from daemon.coverage import INFOS, LENGTH_NS, SOURCES, Coverage, energies, measure, random_windows


def ring_near_its_period(seed: int) -> float:
    """Share of windows within u_random where a load repeats at the ring's own pace."""
    rng = np.random.default_rng(seed)
    near = Coverage()
    for _ in range(60):
        load = random_load(rng, LENGTH_NS, near_s=0.02 * rng.uniform(0.99, 1.01))
        windows = random_windows(rng)
        for row, (a, b) in zip(energies(rng, INFOS["ring"], load, windows), windows, strict=True):
            near.add(load.kind, row, float(load.energy_j(b) - load.energy_j(a)))
    return near.share


def main() -> None:
    loads, seed = (int(word) for word in (sys.argv[1:] + ["1000", "7"][len(sys.argv) - 1 :])[:2])
    print(
        "| source | windows | truth within u_random | lower bound, 95 %, by load | median u / p95 error |"
        " p95 error |"
    )
    print("|---|---|---|---|---|---|")
    measured = {}
    for name in SOURCES:
        found = measured[name] = measure(name, loads, seed)
        p95 = np.percentile(np.abs(found.error_j), 95)
        print(
            f"| {name} | {len(found.u_j)} | {100 * found.share:.1f} % | {100 * found.lower_bound:.1f} %"
            f" | {found.width:.2f} | {p95:.1f} J |"
        )
    print("\nBy kind of load: truth within u_random, median u / p95 error.\n")
    near = ring_near_its_period(seed)
    kinds = sorted(set(measured["ring"].kinds))
    print("| source |", " | ".join(kinds), "|")
    print("|---" * (len(kinds) + 1) + "|")
    for name, found in measured.items():
        cells = [f"{100 * held:.1f} %, {width:.1f}" for held, width in found.by_kind().values()]
        print(f"| {name} |", " | ".join(cells), "|")
    print(f"\nRing, square waves within 1 % of its own 20 ms: {100 * near:.0f} % within u_random.")


if __name__ == "__main__":
    main()
