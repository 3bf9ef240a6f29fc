"""Which process of a node speaks for it, and for which GPUs, when a launcher started one per GPU?

The daemon measures the machine once, whoever marks. So one process a node opens the stages of a trainer that
all ranks are in; opened in every rank, each of them would be charged the whole CPU again.
"""

from __future__ import annotations

import os


def is_speaker() -> bool:
    """Whether this process is the first of its node (LOCAL_RANK as torchrun sets it, else srun's number)."""
    return (_number("LOCAL_RANK", "SLURM_LOCALID") or 0) == 0


def gpus(ranks: int | None = None) -> list[int] | list[str] | None:
    """The GPUs of all ranks of the node; None where there is but this process, whose own the daemon knows.

    `ranks`: how many there are, one a GPU; None: as torchrun says, else the GPUs that Slurm gave.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "any").strip() in ("", "-1"):
        return None  # ranks on the CPU, which see no GPU
    ranks = ranks or _number("LOCAL_WORLD_SIZE")
    if ranks is not None:
        return list(range(ranks)) if ranks > 1 else None  # numbered as this process sees them
    given = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS") or ""
    if "SLURM_LOCALID" in os.environ and given:
        return given.split(",")  # as NVML numbers them: a task may see its own alone
    return None


def _number(*names: str) -> int | None:
    for name in names:
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return None
