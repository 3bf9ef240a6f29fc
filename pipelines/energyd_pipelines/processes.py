"""Which of several training processes is this (torchrun), and what do they do together?

Rank 0 alone marks stages, writes files and makes artifacts; the stages name the GPUs of all ranks of the
machine, so that their energy is all of it. The others' client is switched off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import Counts

PATIENCE = timedelta(hours=12)
"""Others wait so long while rank 0 asks the teacher."""


@dataclass(frozen=True)
class Processes:
    """This process's place among `world` ones."""

    rank: int
    world: int
    device: torch.device
    devices: list[int] | None  # GPUs of all ranks here, for stages; []: none; None: the client's guess

    @property
    def first(self) -> bool:
        """Is this the one that marks and writes?"""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            torch.distributed.barrier()

    def sum(self, counts: Counts) -> Counts:
        """Of all processes."""
        if self.world == 1:
            return counts
        three = torch.tensor([counts.positions, counts.nonpad, counts.label], device=self.device)
        torch.distributed.all_reduce(three)
        return Counts(*three.tolist())

    def same_path(self, path: Path) -> Path:
        """The first one's path: each would name its folder by its own clock."""
        if self.world == 1:
            return path
        told = [str(path)]
        torch.distributed.broadcast_object_list(told, 0)
        return Path(told[0])

    def agree(self, answer: bool) -> bool:
        """The first one's answer."""
        if self.world == 1:
            return answer
        one = torch.tensor(int(answer), device=self.device)
        torch.distributed.broadcast(one, 0)
        return bool(one.item())

    def together(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over all processes."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def begin(device: str, threads: int) -> Processes:
    """Find out, and join the others. Raises DistillError for a device that is not there."""
    torch.set_num_threads(threads)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise DistillError(f"device={device}: PyTorch finds no CUDA device here", cure="device=cpu", code=2)
    try:
        wanted = torch.device(kind)
    except RuntimeError as error:
        raise DistillError(f"device is {device!r:.40}", cure="auto, cpu, cuda or cuda:1", code=2) from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise DistillError(f"device={device}: PyTorch finds {n} here", cure=f"cuda:0 to cuda:{n - 1}", code=2)
    if world == 1:
        return Processes(0, 1, wanted, [] if kind == "cpu" else None)
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    cuda = kind.startswith("cuda")
    place = torch.device("cuda", local) if cuda else torch.device(kind)
    if cuda:
        torch.cuda.set_device(place)
    if rank != 0:
        os.environ["ENERGYD_DISABLE"] = "1"
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    return Processes(rank, world, place, list(range(here)) if cuda else [])


def end(processes: Processes) -> None:
    """Leave the others."""
    if processes.world > 1:
        torch.distributed.destroy_process_group()


def without_wrapper(model: Any) -> Any:
    """The model inside of `together`."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
