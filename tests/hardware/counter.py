"""When does a GPU's energy counter move, and what does it say then?"""

from __future__ import annotations

import sys

import pynvml

from energyd_client import clock


def counter_at_step(handle: object) -> tuple[int, float]:
    """(BOOTTIME ns, J) at the moment when the counter moves: it steps every 100 ms and is stale between."""
    first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    while True:
        before = clock.now_ns()
        now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        if now != first:
            return (before + clock.now_ns()) // 2, now / 1000


if __name__ == "__main__":  # for who must not hold the driver himself: time, joules, driver, name of GPU 0
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    told = (*counter_at_step(gpu), pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlDeviceGetName(gpu))
    sys.stdout.write(" ".join(map(str, told)))
