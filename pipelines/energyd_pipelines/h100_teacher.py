"""What do the 32B teacher's two stages cost: caching its logits, and generating at several batch sizes?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from energyd_pipelines import h100_data as data_of
from energyd_pipelines.examples import Counts
from energyd_pipelines.generate import generate
from energyd_pipelines.h100_config import Piece
from energyd_pipelines.h100_windows import Variant, Work, device, prerun, rounds
from energyd_pipelines.logit_cache import CacheWriter
from energyd_pipelines.shapes import Shape, random_model, shape_of
from energyd_pipelines.teacher_logits import write_logits


def measure(piece: Piece) -> None:
    """One load of the teacher, then what the part asks for."""
    config, where = piece.config, device()
    prerun(piece, where)
    shape = shape_of(config.teacher)
    model = random_model(shape, device=where, seed=config.seed)
    teacher = _Teacher(piece, shape, model, where)
    facts = {"size": config.teacher, "params": shape.params, "dtype": "bfloat16"}
    logits = Variant(
        f"{config.teacher} logits", "teacher.logits", teacher.logits,
        {**facts, "batch": config.logits_batch, "length": config.length, "k": config.k},
    )  # fmt: skip
    answers = {**facts, "prompt": config.prompt, "max_new": config.max_new}

    def generating(how: str, start: Callable[[int], Iterator[Work]]) -> list[Variant]:
        return [
            Variant(
                f"{config.teacher} {how} {batch}",
                "teacher.generate",
                partial(start, batch),
                {**answers, "batch": batch, "how": how},
                warm_up=1,
            )
            for batch in config.batches
        ]

    graphs = generating("graph", partial(teacher.static, graph=True))
    parts = {
        "logits": [logits],
        "generate": graphs,
        "eager": generating("eager", teacher.eager),
        "teacher": [logits, *graphs],
    }
    failed = rounds(piece, parts[config.part])
    # Where steps cannot be recorded, the static cache alone is the next best.
    instead = generating("static", partial(teacher.static, graph=False))
    rounds(piece, [v for v in instead if v.name.replace("static", "graph") in failed])


class _Teacher:
    """The model, and what it is asked for."""

    def __init__(self, piece: Piece, shape: Shape, model: Any, where: torch.device) -> None:
        self.config, self.shape, self.model, self.where = piece.config, shape, model, where
        self.folder = piece.cache
        self.model.eval()

    def logits(self) -> Iterator[Work]:
        """One batch through the teacher and into a cache. The first whole cache is kept for students."""
        data = data_of.dataset(self.config, self.shape.vocab)
        n = 0
        while True:
            folder = self.folder.with_name(f"{self.folder.name}-{n}")
            with CacheWriter(folder, k=self.config.k, vocab_size=self.shape.vocab) as writer:
                for counts in write_logits(
                    self.model, data, writer, batch=self.config.logits_batch, device=self.where
                ):
                    flops = self.shape.train_flops(
                        positions=counts.positions, heads=counts.positions, length=self.config.length
                    )
                    yield Work(counts, flops=flops / 3)
            self._keep(folder)
            n += 1

    def _keep(self, folder: Path) -> None:
        if (self.folder / "cache.json").exists():
            shutil.rmtree(folder)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        folder.rename(self.folder)
        (self.folder / "maker").write_text("teacher")

    def static(self, batch: int, *, graph: bool) -> Iterator[Work]:
        """A batch of answers at each `next`: static cache, left padding, each step one CUDA graph or not."""
        for prompts in data_of.prompts(self.config, self.shape.vocab):
            whole = prompts[: len(prompts) // batch * batch]
            answers = generate(
                self.model,
                whole,
                max_new=self.config.max_new,
                eos_id=None,
                pad_id=0,
                batch=batch,
                graph=graph,
            )
            while found := list(islice(answers, batch)):
                yield self._work(
                    [len(a.tokens) - a.n_generated for a in found], [a.n_generated for a in found]
                )

    def eager(self, batch: int) -> Iterator[Work]:
        """The same by transformers' `generate`, its cache growing step by step."""
        for prompts in data_of.prompts(self.config, self.shape.vocab):
            for first in range(0, len(prompts) - batch + 1, batch):
                rows = sorted(prompts[first : first + batch], key=len)
                width = len(rows[-1])
                tokens = torch.zeros(batch, width, dtype=torch.int64)
                mask = torch.zeros(batch, width, dtype=torch.int64)
                for i, row in enumerate(rows):
                    tokens[i, width - len(row) :] = torch.from_numpy(row.astype(np.int64))
                    mask[i, width - len(row) :] = 1
                with torch.inference_mode():
                    out = self.model.generate(
                        input_ids=tokens.to(self.where), attention_mask=mask.to(self.where), do_sample=False,
                        min_new_tokens=self.config.max_new, max_new_tokens=self.config.max_new,
                    )  # fmt: skip
                made = int(out.shape[1]) - width
                yield self._work([len(row) for row in rows], [made] * batch)

    def _work(self, asked: list[int], made: list[int]) -> Work:
        """Counts and arithmetic of one batch: padding is computed, and the prompt's head is made once."""
        width, answered = max(asked), sum(made)
        positions = len(asked) * width + answered
        seen = width + max(made) / 2
        flops = len(asked) * width * self.shape.body_flops(width / 2) + answered * (
            self.shape.body_flops(seen) + self.shape.head_flops
        )
        return Work(Counts(positions, sum(asked) + answered, 0), answered, flops)
