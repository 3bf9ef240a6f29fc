"""What does a Ray job cost, on however many nodes its tasks run? Each marks against the daemon of its node.

    python examples/ray_tasks.py
    energyq --lake /mnt/lake hosts ray-demo     # once the hour is shipped: what each node took

The driver begins the run; tasks join it by ENERGYD_RUN_ID, which Ray hands to every worker. A worker on
another node speaks to that node's daemon, and the lake adds up what the daemons measured (docs/fleet.md).
Needs `pip install ray`, and energyd_client in the workers' environment.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray

import energyd_client as energy

PASSED_ON = ("ENERGYD_RUN_ID", "ENERGYD_ENDPOINT", "ENERGYD_SPOOL")
"""The last two only where the daemons do not listen where clients look by themselves."""


@ray.remote
def task(number: int) -> int:
    """One task's share of the work; a worker process does one after another."""
    with energy.stage(f"task {number}") as stage:
        until = time.monotonic() + 0.5
        n = 0
        while time.monotonic() < until:
            n += sum(range(1_000)) and 1
        stage.count(samples=n)
    return n


def main(tasks: int = 4) -> int:
    """Start the tasks inside of a run and wait for them."""
    with energy.run("ray-demo", pipeline="ray"):
        env: dict[str, Any] = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # A stage of the driver is no parent of tasks on other nodes: they hang on the run itself.
        ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": env})
        done = ray.get([task.remote(n) for n in range(tasks)])
        ray.shutdown()
    return sum(done)


if __name__ == "__main__":
    main()
