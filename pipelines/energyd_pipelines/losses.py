"""What is a student taught at one label position: the label, the teacher's distribution, or both?

Every loss takes (logits_NV, labels_N, targets) and returns the SUM over the N label positions, in nats; the
loop divides by the label tokens of the whole optimiser step, so that each token weighs the same however the
step was cut into micro-batches.

A cached teacher is known at its top k tokens only. What becomes of the rest is `tail`:

  bucket  the rest is one further outcome, for teacher and student alike (the default): a lower bound of the
          full divergence, equal to it when k = V, and never below 0
  renorm  the teacher's k probabilities are scaled to sum to 1: a divergence too, from a sharper teacher
  none    neither: the sum over the k tokens alone, which can be negative and rewards mass elsewhere

Plain top-k (`none`) is biased (Anshumann et al., arXiv 2503.16870); the bucket costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # PyTorch's own habit

from energyd_pipelines.errors import DistillError
from energyd_pipelines.logit_cache import SparseTargets

Loss = Callable[[Tensor, Tensor, SparseTargets | None], Tensor]
Tail = Literal["bucket", "renorm", "none"]
TAILS: Final = ("bucket", "renorm", "none")


def ce(logits_NV: Tensor, labels_N: Tensor, targets: SparseTargets | None) -> Tensor:
    """Cross-entropy with the labels, summed; nats. `targets` is not looked at."""
    return F.cross_entropy(_wide(logits_NV), labels_N, reduction="sum")


def kd(alpha: float, tau: float = 1.0, tail: Tail = "bucket") -> Loss:
    """alpha · CE + (1 − alpha) · tau² · KL(teacher ‖ student), both at temperature tau; summed.

    Raises DistillError for an alpha outside [0, 1], a tau that is not positive or an unknown tail.
    """
    if not 0 <= alpha <= 1 or not tau > 0 or tail not in TAILS:
        raise DistillError(
            f"kd: alpha={alpha}, tau={tau}, tail={tail!r}",
            cure=f"alpha from 0 to 1, tau above 0, tail one of {', '.join(TAILS)}",
        )

    def loss(logits_NV: Tensor, labels_N: Tensor, targets: SparseTargets | None) -> Tensor:
        if targets is None:
            raise DistillError("kd: no teacher logits for this batch", cure="give targets_of the cache")
        if targets.tau != tau:
            raise DistillError(
                f"kd: the loss is at tau={tau}, the teacher's log-sum-exp at tau={targets.tau}",
                cure="ask the cache for rows at the loss's tau",
            )
        logits = _wide(logits_NV)
        hard = F.cross_entropy(logits, labels_N, reduction="sum") if alpha > 0 else 0.0
        soft = forward_kl(logits, targets, tail) if alpha < 1 else 0.0
        return alpha * hard + (1 - alpha) * tau**2 * soft

    return loss


def forward_kl(logits_NV: Tensor, targets: SparseTargets, tail: Tail) -> Tensor:
    """KL(teacher ‖ student) at the targets' tau over what `tail` says, summed over positions; nats.

    The student's rest is a log-sum-exp over its other V − k logits, not 1 minus the top: that difference
    loses all digits where a student has learnt to be sure.
    """
    z_NV = logits_NV / targets.tau if targets.tau != 1 else logits_NV
    z_NK = z_NV.gather(1, targets.ids_NK)
    whole = targets.ids_NK.shape[1] == z_NV.shape[1]
    lse_top_N = z_NK.logsumexp(1)
    if whole:
        lse_N, lse_rest_N = lse_top_N, None
    else:
        lse_rest_N = z_NV.scatter(1, targets.ids_NK, -torch.inf).logsumexp(1)
        lse_N = torch.logaddexp(lse_top_N, lse_rest_N)
    log_q_NK = z_NK - lse_N[:, None]
    log_p_NK = targets.rel_NK / targets.tau - targets.lse_N[:, None]
    if tail == "renorm":
        log_p_NK = log_p_NK.log_softmax(1)
    kl = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum()
    if tail == "bucket" and lse_rest_N is not None:
        # fp16 rounding may lift the k probabilities a little above 1 together; less than nothing is nothing.
        rest_N = (1 - log_p_NK.exp().sum(1)).clamp(min=0)
        kl = kl + (torch.xlogy(rest_N, rest_N) - rest_N * (lse_rest_N - lse_N)).sum()
    return kl


class _ThroughHead(torch.autograd.Function):
    """loss(hidden @ head.T) with one chunk of logits alive at a time.

    Each chunk's gradient is taken at once, in the forward pass, so that its logits (0.4 GB a thousand
    positions of 100,352 tokens in fp32) are made once and never again, unlike under checkpointing.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor,
        targets: SparseTargets | None, loss: Loss, chunk: int,
    ) -> Tensor:  # fmt: skip
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        hidden_grad = torch.empty_like(hidden_ND)
        head_grad = torch.zeros_like(head_VD) if ctx.needs_input_grad[1] else None  # frozen under LoRA
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                logits = (hidden_ND[part] @ head_VD.T).detach().requires_grad_()
                value = loss(logits, labels_N[part], None if targets is None else targets[part])
                (slope,) = torch.autograd.grad(value, logits)
            total += value.detach()
            hidden_grad[part] = slope @ head_VD
            if head_grad is not None:
                head_grad.addmm_(slope.T, hidden_ND[part])
        ctx.save_for_backward(hidden_grad, head_grad)
        return total.to(torch.promote_types(hidden_ND.dtype, torch.float32))

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
    """What `loss` gives for logits hidden_ND @ head_VD.T, without ever holding more than `chunk` rows of them.

    For vocabularies whose logits do not fit. Backward may be called once.
    """
    result: Tensor = _ThroughHead.apply(hidden_ND, head_VD, labels_N, targets, loss, chunk)
    return result


def _wide(logits: Tensor) -> Tensor:
    """In fp32 at least: a sum of 100,352 exponentials in bf16 has no digits left."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
