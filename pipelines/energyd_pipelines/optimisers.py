"""Who moves the weights, and how far at each step? One choice for all sizes and pipelines of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from energyd_pipelines.config import TrainConfig


class Together:
    """Several optimisers that look like one: each has parameters of its own."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Move the weights."""
        for part in self.parts:
            part.step()

    def scale(self, factor: float) -> None:
        """Set every learning rate to `factor` of its peak."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each part."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from there."""
        for part, one in zip(self.parts, state, strict=True):
            part.load_state_dict(one)


def optimiser_of(model: nn.Module, train: TrainConfig) -> Together:
    """The optimiser of `train.optimizer`.

    Adafactor keeps about 4 bytes a bf16 parameter in all, so 13B fits on 80 GB; `foreach` would need more.
    Muon takes the hidden matrices of small models, AdamW their embeddings, head and norms.
    """
    weights = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in weights]
    if train.optimizer == "adafactor":
        return Together(
            [torch.optim.Adafactor(parameters, lr=train.lr, weight_decay=train.weight_decay, foreach=False)]
        )
    if train.optimizer == "adamw":
        return Together([torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay)])
    hidden = [p for n, p in weights if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in weights if p.ndim != 2 or "embed" in n or "lm_head" in n]
    parts: list[torch.optim.Optimizer] = []
    if hidden:
        parts.append(
            torch.optim.Muon(
                hidden, lr=train.lr, weight_decay=train.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return Together([*parts, torch.optim.AdamW(rest, lr=train.lr, weight_decay=train.weight_decay)])


def rate(step: int, train: TrainConfig) -> float:
    """Share of the peak learning rate at `step` (from 0): up a line, then down a cosine to a tenth."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    done = (step - train.warmup) / max(1, train.steps - train.warmup)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, done))) / 2
