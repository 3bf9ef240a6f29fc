"""What does the teacher say at every label of a data set, and how does that come into the cache?

One forward pass over the examples, those of like length together, and of each label position the top k,
gathered where the logits are. A window of batches is put back into the data set's order before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import NO_LABEL, Counts, Dataset, Example
from energyd_pipelines.logit_cache import CacheWriter
from energyd_pipelines.training import label_logits

_WINDOW: Final = 32  # batches that are sorted by length together


def write_logits(
    model: Any, dataset: Dataset, writer: CacheWriter, *, batch: int, device: torch.device
) -> Iterator[Counts]:
    """Append every example to the writer, in order; gives the counts of each batch as it is done.

    Raises DistillError where teacher and data do not share a vocabulary.
    """
    width = int(model.get_output_embeddings().weight.shape[0])
    if width < dataset.vocab_size:
        raise DistillError(
            f"the teacher knows {width} tokens, the data uses {dataset.vocab_size}",
            cure="teacher and student must share the tokenizer",
        )
    model.eval()
    for start in range(0, len(dataset.examples), batch * _WINDOW):
        window = dataset.examples[start : start + batch * _WINDOW]
        order = sorted(range(len(window)), key=lambda i: -len(window[i].tokens))
        found: dict[int, Any] = {}
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            records, counts = _records(model, [window[i] for i in rows], writer, dataset.pad_id, device)
            found.update(zip(rows, records, strict=True))
            if first + batch >= len(order):  # before the last count is told: then all are there
                for i in range(len(window)):
                    writer.append_rows(found[i])
            yield counts


@torch.inference_mode()
def _records(
    model: Any, examples: list[Example], writer: CacheWriter, pad_id: int, device: torch.device
) -> tuple[list[Any], Counts]:
    """Cache records of each example of a batch, padded at the right."""
    width = max(len(e.tokens) for e in examples)
    tokens = np.full((len(examples), width), pad_id, np.int64)
    labels = np.full((len(examples), width), NO_LABEL, np.int64)
    for row, e in enumerate(examples):
        tokens[row, : len(e.tokens)] = e.tokens
        labels[row, e.prompt : len(e.tokens)] = e.tokens[e.prompt :]
    logits_NV, _ = label_logits(
        model, torch.from_numpy(tokens).to(device), torch.from_numpy(labels).to(device)
    )
    lengths = [e.n_labels for e in examples]
    counts = Counts(tokens.size, sum(len(e.tokens) for e in examples), sum(lengths))
    return np.split(writer.compact(logits_NV), np.cumsum(lengths)[:-1]), counts
