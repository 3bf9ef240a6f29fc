"""Who moves the weights, and how far at each step? One choice for all sizes and pipelines of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from energyd_pipelines.config import TrainConfig


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: each matrix moves by about `lr` in root mean square, whatever its shape.

    The method of Jordan et al. (2024) with the scale of Liu et al. (2025, arXiv 2502.16982). torch.optim.Muon
    is the same in bf16, one matrix after the other, which on a CPU takes longer than forward and backward
    together for matrices this small; matrices of one shape go through in one batch here, in float32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the weights."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, parameters in alike.items():
                same: list[Tensor] = list(parameters)
                for p in same:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                velocities = [self.state[p]["momentum"] for p in same]
                gradients = [p.grad for p in same if p.grad is not None]
                torch._foreach_lerp_(velocities, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, velocities, group["momentum"])  # Nesterov's
                moves = orthogonal(torch.stack(list(ahead)).float())
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                if group["weight_decay"]:
                    torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    same, [m.to(p.dtype) for m, p in zip(moves, same, strict=True)], alpha=-size
                )


def orthogonal(m_BRC: Tensor, steps: int = 5) -> Tensor:
    """(B, R, C): each matrix, its singular values brought near 1 by Newton and Schulz's iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m_BRC.shape[1] > m_BRC.shape[2]
    x = m_BRC.mT if tall else m_BRC
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
        parts.append(Muon(hidden, lr=train.lr, weight_decay=train.weight_decay))
    return Together([*parts, torch.optim.AdamW(rest, lr=train.lr, weight_decay=train.weight_decay)])


def rate(step: int, train: TrainConfig) -> float:
    """Share of the peak learning rate at `step` (from 0): up a line, then down a cosine to a tenth."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    done = (step - train.warmup) / max(1, train.steps - train.warmup)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, done))) / 2
