"""What do the true-shape runs learn from? Random tokens, and logits that a teacher (or nobody) made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import NO_LABEL, Batch, Counts, Dataset, Example
from energyd_pipelines.h100_config import H100Config
from energyd_pipelines.logit_cache import CacheWriter, LogitCache, SparseTargets

_LISTED: Final = 32  # examples of the loader that is slow on purpose
_LISTED_K: Final = 100


def dataset(config: H100Config, vocab: int) -> Dataset:
    """Full sequences: no padding, so that a position is work. Prompts vary around what leaves `labels`."""
    dice = np.random.default_rng(config.seed)
    spread = config.labels // 2
    examples = []
    for _ in range(config.examples):
        n_labels = int(dice.integers(config.labels - spread, config.labels + spread + 1))
        tokens = dice.integers(3, vocab, config.length).astype(np.uint32)
        examples.append(Example(tokens, config.length - n_labels))
    return Dataset(examples, f"random-{config.seed}", "none", vocab, 0, 2)


def prompts(config: H100Config, vocab: int) -> Iterator[list[Any]]:
    """Endless lists of a thousand prompts of one length: windows differ in their batch alone."""
    dice = np.random.default_rng(config.seed + 1)
    while True:
        yield list(dice.integers(3, vocab, (1000, config.prompt)).astype(np.uint32))


def made_up_cache(folder: Path, data: Dataset, config: H100Config, device: torch.device) -> None:
    """Records of random logits where no teacher made any: what a student reads takes the same energy."""
    dice = torch.Generator(device=device).manual_seed(config.seed)
    with CacheWriter(folder, k=config.k, vocab_size=data.vocab_size) as writer:
        for example in data.examples:
            writer.append_example(
                torch.randn(example.n_labels, data.vocab_size, generator=dice, device=device) * 2
            )


def cache_of(folder: Path, data: Dataset, config: H100Config, device: torch.device) -> tuple[LogitCache, str]:
    """The cache in `folder`, and who made it: `teacher`, or `nobody` where it had to be made up here."""
    maker = folder / "maker"
    try:
        found = LogitCache.open(folder)
        alike = found.n_examples == len(data.examples) and found.vocab_size == data.vocab_size
        if alike and found.k >= config.k:
            return found.view(config.k), maker.read_text() if maker.exists() else "nobody"
    except DistillError:
        pass
    made_up_cache(folder, data, config, device)
    maker.write_text("nobody")
    return LogitCache.open(folder), "nobody"


def batch_of(data: Dataset, rows: list[int], *, targets: Any = None) -> Batch:
    """Examples side by side."""
    examples = [data.examples[i] for i in rows]
    tokens = np.stack([e.tokens for e in examples]).astype(np.int64)
    labels = np.full_like(tokens, NO_LABEL)
    for row, e in enumerate(examples):
        labels[row, e.prompt :] = e.tokens[e.prompt :]
    counts = Counts(tokens.size, tokens.size, int((labels != NO_LABEL).sum()))
    return Batch(torch.from_numpy(tokens), torch.from_numpy(labels), rows, counts, targets)


def batches(
    data: Dataset, micro: int, cache: LogitCache | None, tau: float, device: torch.device
) -> Iterator[tuple[Batch, float]]:
    """Endless micro-batches and the seconds that each took to come."""
    at = 0
    while True:
        began = time.perf_counter()
        rows = [(at + i) % len(data.examples) for i in range(micro)]
        at += micro
        targets = cache.rows(rows, tau=tau, device=device) if cache else None
        batch = batch_of(data, rows, targets=targets)
        yield batch, time.perf_counter() - began


def write_lists(path: Path, data: Dataset, config: H100Config) -> None:
    """The cache as nested lists, a line of JSON an example: all positions, k = 100, as was done once."""
    dice = np.random.default_rng(config.seed)
    k = min(_LISTED_K, data.vocab_size)
    aside = path.with_suffix(".part")
    with aside.open("w", encoding="utf-8") as file:
        for _ in range(min(_LISTED, len(data.examples))):
            rel = -np.sort(dice.random((config.length, k)) * 20)
            ids = dice.integers(0, data.vocab_size, (config.length, k))
            file.write(json.dumps({"rel": rel.round(6).tolist(), "ids": ids.tolist()}) + "\n")
    aside.replace(path)


def listed_batches(
    path: Path, data: Dataset, micro: int, device: torch.device
) -> Iterator[tuple[Batch, float]]:
    """As `batches`, from write_lists, one after the other in the training process: the GPU waits."""
    while True:
        with path.open(encoding="utf-8") as file:
            for first in range(0, min(_LISTED, len(data.examples)) - micro + 1, micro):
                began = time.perf_counter()
                rows = list(range(first, first + micro))
                ids, rel = [], []
                for i in rows:
                    listed = json.loads(file.readline())
                    part = slice(data.examples[i].prompt - 1, -1)  # the logits before each label
                    ids.append(torch.tensor(listed["ids"])[part])
                    rel.append(torch.tensor(listed["rel"])[part])
                rel_NK = torch.cat(rel).float().to(device)
                targets = SparseTargets(torch.cat(ids).to(device), rel_NK, rel_NK.logsumexp(1) + 0.1, 1.0)
                batch = batch_of(data, rows, targets=targets)
                yield batch, time.perf_counter() - began
