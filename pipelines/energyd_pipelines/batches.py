"""Which examples are learnt from at which step? Seed and step alone decide it, so a kill forgets nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import NO_LABEL, Batch, Counts, Dataset

POOL = 50
"""So many batches are drawn at random, sorted by length, cut, and shuffled again."""


def collate(dataset: Dataset, rows: Sequence[int]) -> Batch:
    """Examples `rows` side by side, padded at the right to the longest of them."""
    examples = [dataset.examples[i] for i in rows]
    longest = max(len(e.tokens) for e in examples)
    tokens_BT = np.full((len(rows), longest), dataset.pad_id, dtype=np.int64)
    labels_BT = np.full((len(rows), longest), NO_LABEL, dtype=np.int64)
    for b, e in enumerate(examples):
        tokens_BT[b, : len(e.tokens)] = e.tokens
        labels_BT[b, e.prompt : len(e.tokens)] = e.tokens[e.prompt :]
    counts = Counts(tokens_BT.size, sum(len(e.tokens) for e in examples), sum(e.n_labels for e in examples))
    return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(labels_BT), [int(i) for i in rows], counts)


class Schedule:
    """The batches of every step of one training, for one process of `world`."""

    def __init__(
        self, dataset: Dataset, *, batch: int, micro_batch: int = 0, seed: int, bucket: bool = True,
        rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        if batch % world:
            raise DistillError(
                f"train.batch is {batch}, which {world} processes cannot share equally",
                cure=f"a multiple of {world}", code=2,
            )  # fmt: skip
        if len(dataset.examples) < batch:
            raise DistillError(
                f"{len(dataset.examples)} examples are fewer than one batch of {batch}",
                cure=f"train.batch={max(1, len(dataset.examples) // 2)}, or more data", code=2,
            )  # fmt: skip
        self.dataset, self.batch, self.seed, self.bucket = dataset, batch, seed, bucket
        self.mine = slice(rank, None, world)
        self.micro_batch = micro_batch or batch
        self.steps_per_epoch = len(dataset.examples) // batch
        self.lengths = np.array([len(e.tokens) for e in dataset.examples])
        self._epoch, self._order = -1, np.empty((0, 0), dtype=np.int64)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Examples of `step` (from 0), of all processes."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        found: NDArray[np.int64] = self._order[at]
        return found

    def step(self, step: int) -> list[Batch]:
        """This process's micro-batches of `step`."""
        rows = self.rows(step)[self.mine]
        return [
            collate(self.dataset, rows[i : i + self.micro_batch].tolist())
            for i in range(0, len(rows), self.micro_batch)
        ]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        """(steps_per_epoch, batch): every example at most once; the last few that fill no batch rest."""
        dice = np.random.default_rng((self.seed, epoch))
        order = dice.permutation(len(self.lengths))[: self.steps_per_epoch * self.batch]
        if not self.bucket:
            return order.reshape(-1, self.batch)
        pool = POOL * self.batch
        parts = [order[i : i + pool] for i in range(0, len(order), pool)]
        parts = [p[np.argsort(self.lengths[p], kind="stable")] for p in parts]
        batches = np.concatenate(parts).reshape(-1, self.batch)
        shuffled: NDArray[np.int64] = dice.permutation(batches)  # whole rows
        return shuffled
