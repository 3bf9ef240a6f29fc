"""Which process of a node speaks for it, and for which GPUs, when a launcher started one per GPU?

The daemon measures the machine once, whoever marks. So one process a node opens the stages of a trainer that
all ranks are in; opened in every rank, each of them would be charged the whole CPU again.
"""

from __future__ import annotations

import os


def is_speaker() -> bool:
    """Whether this process is the first of its node (LOCAL_RANK as torchrun, srun and accelerate set it)."""
    return _number("LOCAL_RANK", "SLURM_LOCALID") in (None, 0)


def gpus() -> list[int] | None:
    """The node's GPUs that its ranks use, as this process counts them; None: only those of this process."""
    ranks = _number("LOCAL_WORLD_SIZE") or 1
    return list(range(ranks)) if ranks > 1 else None


def _number(*names: str) -> int | None:
    for name in names:
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return None
