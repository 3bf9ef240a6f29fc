"""How do ranks on several nodes become one run? The first begins it and the others learn its id.

    with shared_run("kd-7b", pipeline="kd") as run:      # in every rank, after torch.distributed's init
        with run.stage("train"): …

By torch.distributed where that is initialised (torchrun on any number of nodes); by ENERGYD_RUN_ID where the
launcher has set it (`deploy/slurm/job.sh`, Ray's runtime_env); else it is a run like any other.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import energyd_client as energy
from energyd_client.endpoints import ENV_RUN_ID
from energyd_client.runs import Run


@contextlib.contextmanager
def shared_run(name: str, **labels: Any) -> Iterator[Run]:
    """The run of all ranks: the first begins it, the others join it. Each rank must enter it.

    Stages belong to the daemon of each rank's own node, whose energy a lake adds up.
    """
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if os.environ.get(ENV_RUN_ID) or distributed is None or not _is_many(distributed):
        with energy.run(name, **labels) as run:
            yield run
        return
    said: list[str | None] = [None]
    if distributed.get_rank() == 0:
        with energy.run(name, **labels) as run:
            said = [run.run_id]
            distributed.broadcast_object_list(said, src=0)
            yield run
        return
    distributed.broadcast_object_list(said, src=0)
    if said[0]:
        os.environ[ENV_RUN_ID] = said[0]
    with energy.run(name) as run:
        yield run


def _is_many(distributed: Any) -> bool:
    return bool(
        distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    )
