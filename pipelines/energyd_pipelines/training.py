"""What is one step of learning? The same for all pipelines; what differs is the loss, a plug-in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import NO_LABEL, Batch, Counts

Loss = Callable[[Tensor, Tensor, Any], Tensor]
"""(logits_NV, labels_N, targets or None) to the SUM over the N label positions, nats."""


@dataclass(frozen=True)
class StepResult:
    """What one update did."""

    loss_mean: float  # nats a label token, over all devices
    counts: Counts  # of this process


def must_be_finite(nats: float, when: str, where: str) -> None:
    """Raises DistillError: a student whose weights are no numbers any more has no quality to be compared."""
    if not math.isfinite(nats):
        raise DistillError(
            f"the student diverged: its loss is {nats} {when}", where=where,
            cure="a smaller train.lr, a longer train.warmup or train.clip=1",
        )  # fmt: skip


def targets_in_batch(batch: Batch) -> Any:
    """The teacher's targets that were read with the batch."""
    return batch.targets


def label_logits(model: nn.Module, tokens_BT: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(logits_NV, labels_N) of the label positions, row by row; padding needs no mask, being at the right."""
    logits_BTV: Tensor = model(input_ids=tokens_BT).logits
    wanted = labels_BT[:, 1:] != NO_LABEL
    return logits_BTV[:, :-1][wanted], labels_BT[:, 1:][wanted]


def train_step(
    model: nn.Module,
    micro_batches: Iterable[Batch],
    loss: Loss,
    targets_of: Callable[[Batch], Any] | None,
    optimiser: Any,
    *,
    device: torch.device,
    clip: float,
) -> StepResult:
    """One update from all `micro_batches`: the mean over their label tokens, however they are cut.

    Where several processes train together (DistributedDataParallel), it is the mean over all of theirs.
    """
    listed = list(micro_batches)
    counts = sum((b.counts for b in listed), Counts())
    n_labels, share = _over_processes(counts.label, device)
    optimiser.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for i, batch in enumerate(listed):
        tokens_BT = batch.tokens_BT.to(device, non_blocking=True)
        labels_BT = batch.labels_BT.to(device, non_blocking=True)
        targets = targets_of(batch) if targets_of is not None else None
        with _gradients_stay_here(model, i < len(listed) - 1):
            logits_NV, labels_N = label_logits(model, tokens_BT, labels_BT)
            loss_sum = loss(logits_NV, labels_N, targets)
            torch.autograd.backward(loss_sum * (share / max(n_labels, 1)))
        total += loss_sum.detach().float()
    if clip > 0:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    if share > 1:
        torch.distributed.all_reduce(total)
    return StepResult(total.item() / max(n_labels, 1), counts)


def _over_processes(n_labels: int, device: torch.device) -> tuple[int, int]:
    """(label tokens of all processes, how many processes): DDP averages gradients, the loss is a sum."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return n_labels, 1
    both = torch.tensor(n_labels, device=device)
    torch.distributed.all_reduce(both)
    return int(both.item()), torch.distributed.get_world_size()


def _gradients_stay_here(model: nn.Module, more_to_come: bool) -> Any:
    """Under DDP, gradients travel once a step, with the last micro-batch."""
    if more_to_come and isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return torch.enable_grad()
