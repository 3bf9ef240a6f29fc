"""What do `make bench-coverage`'s figures say: how often does the stated doubt hold the truth?

    python tests/bench/coverage.py [LOADS [SEED]]

Closed-form loads through the closed-form sensors of tests/daemon/closed_form.py; four windows a load. The
figures do not depend on the machine.
"""

from __future__ import annotations

import sys

import numpy as np

from daemon.coverage import SOURCES, measure


def main() -> None:
    loads, seed = (int(word) for word in (sys.argv[1:] + ["1000", "7"][len(sys.argv) - 1 :])[:2])
    print(
        "| source | windows | truth within u_random | 95 % lower bound | median u / p95 error | p95 error |"
    )
    print("|---|---|---|---|---|---|")
    for name in SOURCES:
        found = measure(name, loads, seed)
        p95 = np.percentile(np.abs(found.error_j), 95)
        print(
            f"| {name} | {len(found.u_j)} | {100 * found.share:.1f} % | {100 * found.lower_bound:.1f} %"
            f" | {found.width:.2f} | {p95:.1f} J |"
        )


if __name__ == "__main__":
    main()
