"""What is trained on: one sequence, many of them, and what of them lies in one batch?

Four counts of tokens exist and are never mixed: `positions` (computed, padding included), `nonpad` (without
padding), `label` (learnt from) and `generated` (decoded up to the end token; generation counts it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

NO_LABEL: Final = -100
"""Marks positions of `labels_BT` that are not learnt from; PyTorch's and Hugging Face's own number."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence: a prompt, and what is to follow it up to the end token."""

    tokens: NDArray[np.uint32]  # (T,)
    prompt: int  # tokens[prompt:] are labels; at least one token of prompt

    @property
    def n_labels(self) -> int:
        """How many of the tokens are labels."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True)
class Dataset:
    """Examples in a fixed order, and whose tokens they are."""

    examples: Sequence[Example]
    content_hash: str  # of every token and prompt length, in order
    tokenizer_hash: str
    vocab_size: int
    pad_id: int
    eos_id: int


@dataclass(frozen=True)
class Counts:
    """Tokens of a batch, a step or a stage."""

    positions: int = 0
    nonpad: int = 0
    label: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.positions + other.positions, self.nonpad + other.nonpad, self.label + other.label)

    def units(self) -> dict[str, int]:
        """As `stage.count(**units)` takes them."""
        return {"positions": self.positions, "nonpad": self.nonpad, "label": self.label}


@dataclass
class Batch:
    """Some examples side by side, padded at the right.

    `labels_BT[b, t]` is token t itself where it is a label (the logits at t − 1 predict it), else NO_LABEL.
    """

    tokens_BT: Tensor  # int64
    labels_BT: Tensor  # int64
    rows_B: list[int]  # indices into dataset.examples
    counts: Counts
    targets: Any = None  # SparseTargets of the N label positions, row by row, where a teacher's are wanted
