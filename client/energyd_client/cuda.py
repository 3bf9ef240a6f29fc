"""What does this process's torch know of its GPUs, if it has loaded torch at all?

Never imports torch and never wakes CUDA up: a context on a device that the program does not use would
cost memory and power. Everything here is None or False where torch cannot say.
"""

from __future__ import annotations

import os
import sys
from itertools import takewhile
from typing import Any


def is_up() -> bool:
    """Whether torch is loaded and has initialised CUDA. Costs under 1 µs."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        return cuda is not None and bool(cuda.is_initialized())
    except Exception:  # a torch half imported, or replaced by a test
        return False


def uuids() -> list[str] | None:
    """UUIDs ("GPU-…") of the GPUs that this process sees, in its own CUDA order; None if CUDA is not up."""
    if not is_up():
        return None
    cuda: Any = sys.modules["torch"].cuda
    try:
        instances = [entry for entry in _visible() or () if entry.startswith("MIG-")]
        if instances:  # torch gives an instance's UUID without a word of what it is
            return instances[: cuda.device_count()]
        return [_uuid(cuda.get_device_properties(i).uuid) for i in range(cuda.device_count())]
    except Exception:  # torch before 2.3 gives no uuid
        return None


def synchronize() -> bool:
    """Wait until the GPUs that this process uses are idle. True if the edge is exact thereby.

    That holds too while CUDA is not up: then nothing is running. False without torch, and when the
    wait fails (the program will meet the same CUDA error at its next call).
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    if not is_up():
        return True
    try:
        in_use = getattr(torch._C, "_cuda_hasPrimaryContext", None)
        for i in range(torch.cuda.device_count()):
            if in_use(i) if in_use else i == torch.cuda.current_device():
                torch.cuda.synchronize(i)
    except Exception:
        return False
    return True


def token(number: int, known: list[str] | None) -> str | None:
    """The GPU that the process calls `cuda:number`, as the daemon can find it: UUID, else NVML index.

    `known` is `uuids()`. Without it CUDA_VISIBLE_DEVICES is followed, as CUDA itself does: up to its first
    entry that is empty or negative. None: this process sees none; the machine's of that number is another.
    """
    if known is None:
        known = _visible()
    if known is None:
        return str(number) if number >= 0 else None
    return known[number] if 0 <= number < len(known) else None


def _visible() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES lets this process see; None: it is not set."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return None
    entries = (entry.strip() for entry in said.split(","))
    return list(takewhile(lambda entry: entry and not entry.startswith("-"), entries))


def _uuid(value: object) -> str:
    text = str(value)
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"
