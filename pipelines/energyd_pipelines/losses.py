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
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

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
        total = torch.zeros((), dtype=logits.dtype, device=logits.device)
        if alpha > 0:
            total = total + alpha * F.cross_entropy(logits, labels_N, reduction="sum")
        if alpha < 1:
            total = total + (1 - alpha) * tau**2 * forward_kl(logits, targets, tail)
        return total

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


def _wide(logits: Tensor) -> Tensor:
    """In fp32 at least: a sum of 100,352 exponentials in bf16 has no digits left."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
