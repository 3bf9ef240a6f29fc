"""How good is a model on examples that it never saw? Exact match and negative log-likelihood, in one pass.

Greedy decoding gives the reference answer if and only if the likeliest token after each prefix of the
reference is the reference's next one. So exact match needs no decoding: the pass that gives the likelihood
of the labels decides it too, at a fraction of the energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional as F

from energyd_pipelines.batches import collate
from energyd_pipelines.examples import Counts, Dataset
from energyd_pipelines.training import label_logits


@dataclass(frozen=True)
class Quality:
    """What a model is worth on held-out examples."""

    exact_match: float  # mean over the groups of the share that is wholly right
    nll: float  # nats a label token
    n: int
    groups: dict[str, float]  # exact match of each
    counts: Counts

    def value(self, metric: str) -> float:
        """`exact_match` or `nll`."""
        return self.exact_match if metric == "exact_match" else self.nll

    def reaches(self, metric: str, target: float) -> bool:
        """Is it as good as `target`? Less is better for nll."""
        return self.nll <= target if metric == "nll" else self.exact_match >= target


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, groups: Sequence[str], *, batch: int, device: torch.device, n: int = 0
) -> Quality:
    """Quality on the first `n` examples of `dataset` (0: all); `groups` names the group of each."""
    was_training = model.training
    model.eval()
    n = min(n, len(dataset.examples)) or len(dataset.examples)
    by_length = sorted(range(n), key=lambda i: len(dataset.examples[i].tokens))
    right: dict[str, list[bool]] = {}
    nll, counts = 0.0, Counts()
    for start in range(0, n, batch):
        rows = by_length[start : start + batch]
        b = collate(dataset, rows)
        logits_NV, labels_N = label_logits(model, b.tokens_BT.to(device), b.labels_BT.to(device))
        nll += F.cross_entropy(logits_NV.float(), labels_N, reduction="sum").item()
        hit_N = (logits_NV.argmax(-1) == labels_N).cpu()
        at = 0
        for row in rows:
            n_labels = dataset.examples[row].n_labels
            right.setdefault(groups[row], []).append(bool(hit_N[at : at + n_labels].all()))
            at += n_labels
        counts += b.counts
    model.train(was_training)
    by_group = {name: fmean(hits) for name, hits in sorted(right.items())}
    return Quality(fmean(by_group.values()), nll / max(1, counts.label), n, by_group, counts)
