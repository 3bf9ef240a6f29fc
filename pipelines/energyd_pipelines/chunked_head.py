"""How is a loss taken over a hundred thousand tokens without holding all logits at once?

fp32 logits of 100,352 tokens take 0.4 GB a thousand positions, and a loss makes several such arrays. Here the
model stops at its last hidden states, of the label positions only, and the loss walks through the head chunk
by chunk. Each chunk's gradient is taken at once, in the forward pass: its logits are made once and never
again, unlike under checkpointing.

    train_step(Headless(model), batches, through(loss, model), …)      # which knows nothing of it
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from energyd_pipelines.logit_cache import SparseTargets
from energyd_pipelines.losses import Loss


class Headless(nn.Module):
    """A causal LM of transformers whose `logits` are its last hidden states (B, T, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        """Hidden states under the name that a training step looks for."""
        decoder = self.model.get_decoder()
        return SimpleNamespace(logits=decoder(input_ids=input_ids, use_cache=False).last_hidden_state)


def through(loss: Loss, model: Any, *, chunk: int = 1024) -> Loss:
    """`loss` for hidden states (N, D) in place of logits (N, V). For heads that are one matrix, no more."""
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise TypeError("the head must be one matrix without bias")

    def of_hidden(hidden_ND: Tensor, labels_N: Tensor, targets: SparseTargets | None) -> Tensor:
        return through_head(loss, hidden_ND, head.weight, labels_N, targets, chunk=chunk)

    return of_hidden


class _ThroughHead(torch.autograd.Function):
    """loss(hidden @ head.T) with one chunk of logits alive at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor,
        targets: SparseTargets | None, loss: Loss, chunk: int,
    ) -> Tensor:  # fmt: skip
        total = _zero(hidden_ND)
        hidden_grad = torch.empty_like(hidden_ND)
        head_grad = torch.zeros_like(head_VD) if ctx.needs_input_grad[1] else None  # frozen under LoRA
        for part in _parts(len(labels_N), chunk):
            with torch.enable_grad():
                logits = (hidden_ND[part] @ head_VD.T).detach().requires_grad_()
                value = loss(logits, labels_N[part], None if targets is None else targets[part])
                (slope,) = torch.autograd.grad(value, logits)
            total += value.detach()
            hidden_grad[part] = slope @ head_VD
            if head_grad is not None:
                head_grad.addmm_(slope.T, hidden_ND[part])
        ctx.save_for_backward(hidden_grad, head_grad)
        return _told(total, hidden_ND)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden_grad, head_grad = ctx.saved_tensors
        scale = grads[0]
        head_grad = None if head_grad is None else head_grad.mul_(scale)
        return (hidden_grad * scale).to(hidden_grad.dtype), head_grad, None, None, None, None


def through_head(
    loss: Loss, hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor,
    targets: SparseTargets | None, *, chunk: int = 1024,
) -> Tensor:  # fmt: skip
    """What `loss` gives for logits hidden_ND @ head_VD.T, never more than `chunk` rows of them alive.

    Backward may be called once. Without gradients (evaluation), nothing but the loss is computed.
    """
    if torch.is_grad_enabled():
        given = (hidden_ND, head_VD, labels_N, targets, loss, chunk)
        result: Tensor = _ThroughHead.apply(*given)  # type: ignore[no-untyped-call]
        return result
    total = _zero(hidden_ND)
    for part in _parts(len(labels_N), chunk):
        total += loss(hidden_ND[part] @ head_VD.T, labels_N[part], None if targets is None else targets[part])
    return _told(total, hidden_ND)


def _parts(n: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, n, chunk)]


def _zero(like: Tensor) -> Tensor:
    """A sum over many chunks."""
    return torch.zeros((), dtype=torch.float64, device=like.device)


def _told(total: Tensor, like: Tensor) -> Tensor:
    return total.to(torch.promote_types(like.dtype, torch.float32))
