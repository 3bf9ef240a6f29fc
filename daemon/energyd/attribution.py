"""Which devices is a stage charged for?

Named by the caller; else what its process may use (CUDA_VISIBLE_DEVICES, torch's UUIDs once CUDA is up);
else every GPU, said so in a flag. Where nobody chose, those are left on which NVML listed the process or one
that it started, if any. CPU and DRAM are whole-machine and always charged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from energyd_client.protocol import ProcessInfo


@dataclass(frozen=True)
class Known:
    """A device as the recorder knows it."""

    device: int
    uuid: str
    domain: str
    name: str
    index: int | None = None
    mig: bool = False


def charge(
    named: list[str] | None, process: ProcessInfo | None, known: Collection[Known]
) -> tuple[list[int], set[str]]:
    """Device numbers of a stage and the flags that say how sure that is.

    Flags: `devices_default` (all GPUs, nothing was said), `device_guess` (indices whose order is not
    certain), `devices_unknown` (a named device is not there), `mig` (an instance of the GPU).
    """
    gpus = [k for k in known if k.domain == "gpu"]
    rest = [k.device for k in known if k.domain != "gpu"]
    if named is not None:
        chosen, flags = _by_tokens(named, gpus)
    elif process is not None and process.gpu_uuids is not None:
        # With MIG torch gives the UUID of an instance, which is none of the GPUs'.
        instances = any(g.mig for g in gpus)
        known_uuids = {g.uuid for g in gpus}
        tokens = [
            f"MIG-{uuid.removeprefix('GPU-')}"
            if instances and uuid not in known_uuids and not uuid.startswith("MIG-")
            else uuid
            for uuid in process.gpu_uuids
        ]
        chosen, flags = _by_tokens(tokens, gpus)
    elif process is not None and process.visible_devices is not None:
        tokens = [t.strip() for t in process.visible_devices.split(",")]
        chosen, flags = _by_tokens(_until_invalid(tokens), gpus)
        mixed = len({g.name for g in gpus}) > 1
        if mixed and process.device_order != "PCI_BUS_ID" and any(t.isdigit() for t in tokens):
            flags.add("device_guess")
    else:
        chosen, flags = gpus, {"devices_default"} if len(gpus) > 1 else set()
    if any(g.mig for g in chosen):
        flags.add("mig")
    return sorted({g.device for g in chosen}) + sorted(rest), flags


def is_unsaid(named: list[str] | None, process: ProcessInfo | None) -> bool:
    """Whether nobody chose among the machine's GPUs: NVML's lists of processes may then tell.

    A program that torch shows every GPU of the machine has chosen none, and of those that a launcher gives to
    all its ranks (LOCAL_RANK) one rank uses its own.
    """
    if named is not None:
        return False
    return process is None or process.visible_devices is None or process.local_rank is not None


def narrow(charged: list[int], pids_seen: Mapping[int, bool], known: Collection[Known]) -> list[int]:
    """The devices left when NVML listed the process on some of the GPUs; all if it listed none."""
    gpus = {k.device for k in known if k.domain == "gpu"}
    used = [d for d in charged if d in gpus and pids_seen.get(d)]
    return [d for d in charged if d not in gpus or d in used] if used else charged


def _until_invalid(tokens: list[str]) -> list[str]:
    """CUDA's own rule: devices after the first invalid entry (empty, -1) do not exist."""
    valid: list[str] = []
    for token in tokens:
        if not token or token.startswith("-"):
            break
        valid.append(token)
    return valid


def _by_tokens(tokens: list[str], gpus: list[Known]) -> tuple[list[Known], set[str]]:
    """GPUs by UUID (or a prefix of one, as CUDA allows), MIG id or index."""
    chosen: list[Known] = []
    flags: set[str] = set()
    for token in tokens:
        if token.isdigit():
            found = [g for g in gpus if g.index == int(token)]
        elif token.startswith("MIG-"):
            flags.add("mig")
            # MIG-GPU-<uuid>/gi/ci names its parent; a bare MIG-<uuid> is one of the MIG-enabled GPUs.
            parent = token[4:].split("/")[0]
            found = [g for g in gpus if g.uuid == parent] or [g for g in gpus if g.mig]
            if len(found) > 1:
                flags.add("device_guess")
        else:
            found = [g for g in gpus if g.uuid == token] or [g for g in gpus if g.uuid.startswith(token)]
            if len(found) > 1:
                flags.add("device_guess")
        if not found:
            flags.add("devices_unknown")
        chosen += [g for g in found if g not in chosen]
    return chosen, flags
