"""What do training steps and evaluation of each student cost at its true shape?"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import energyd_client as energy
from energyd_pipelines import h100_data as data_of
from energyd_pipelines.chunked_head import Headless, through
from energyd_pipelines.examples import Batch, Dataset
from energyd_pipelines.h100_config import H100Config, Piece
from energyd_pipelines.h100_windows import Variant, Work, device, prerun, rounds
from energyd_pipelines.logit_cache import LogitCache
from energyd_pipelines.losses import Loss, ce, kd
from energyd_pipelines.shapes import Shape, random_model, shape_of
from energyd_pipelines.training import label_logits, targets_in_batch, train_step

Batches = Iterator[tuple[Batch, float]]


def measure(piece: Piece) -> None:
    """Prerun, the cache if nobody made one, then one size after the other."""
    config, where = piece.config, device()
    prerun(piece, where)
    for size in config.sizes:
        modes = [mode for mode in config.modes if mode != "starved" or size == config.sizes[0]]
        if all((f"{size} {mode}", r) in piece.done for mode in modes for r in range(config.repeats)):
            continue
        if piece.seconds() < 2 * config.window_s:
            piece.left.append(size)
            continue
        _measure_size(piece, size, modes, where)
        gc.collect()  # the next size needs all the memory
        if where.type == "cuda":
            torch.cuda.empty_cache()


def _measure_size(piece: Piece, size: str, modes: list[str], where: torch.device) -> None:
    """All modes of one size within one model load."""
    config, shape = piece.config, shape_of(size)
    data, cache, maker, lists = _prepare(piece, shape, where)
    student = Student(config, shape, where, micro=config.micro or (4 if size == "13b" else 8))
    facts = {
        "size": size, "params": shape.params, "length": config.length, "micro_batch": student.micro,
        "sequences": config.sequences, "optimizer": "adafactor", "dtype": "bfloat16",
        "checkpointing": int(config.checkpointing), "cache_by": maker,
    }  # fmt: skip

    def read(cache: LogitCache | None) -> Batches:
        return data_of.batches(data, student.micro, cache, config.tau, where)

    def lists_read() -> Batches:
        return data_of.listed_batches(lists, data, student.micro, where)

    kinds: dict[str, tuple[str, Callable[[], Iterator[Work]]]] = {
        "sft": ("student.train", lambda: student.train(ce, read(None))),
        "kd": ("student.train", lambda: student.train(kd(config.alpha, config.tau), read(cache))),
        "evaluate": ("evaluate", lambda: student.evaluate(read(None))),
        "starved": ("student.train", lambda: student.train(kd(config.alpha), lists_read())),
    }
    rounds(piece, [Variant(f"{size} {mode}", *kinds[mode], {**facts, "mode": mode}) for mode in modes])


def _prepare(piece: Piece, shape: Shape, where: torch.device) -> tuple[Dataset, LogitCache, str, Path]:
    """Data, the KD cache, who made it, and the nested lists."""
    config = piece.config
    lists = piece.cache.with_name(f"{piece.cache.name}-lists-{shape.vocab}-{config.length}.jsonl")
    run = energy.run(f"h100 {shape.name} preprocess", study="h100", size=shape.name)
    with run, run.stage("preprocess"):
        data = data_of.dataset(config, shape.vocab)
        cache, maker = data_of.cache_of(piece.cache, data, config, where)
        if "starved" in config.modes and not lists.exists():
            data_of.write_lists(lists, data, config)
    return data, cache, maker, lists


class Student:
    """One model with its optimiser, and what can be done with both."""

    def __init__(self, config: H100Config, shape: Shape, where: torch.device, *, micro: int) -> None:
        self.config, self.shape, self.where, self.micro = config, shape, where, micro
        self.model: Any = random_model(shape, device=where, seed=config.seed)
        self.model.config.use_cache = False
        if config.checkpointing:
            renamed = getattr(self.model, "activation_checkpointing_enable", None)  # transformers 5.24
            (renamed or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.optimiser: Any = torch.optim.Adafactor(self.model.parameters(), lr=1e-5, foreach=False)

    def train(self, loss: Loss, source: Batches) -> Iterator[Work]:
        """One optimiser step at each `next`."""
        self.model.train()
        headless, through_head = Headless(self.model), through(loss, self.model)
        while True:
            waited = 0.0

            def micro_batches() -> Iterator[Batch]:
                nonlocal waited
                for _ in range(self.config.sequences // self.micro):
                    batch, seconds = next(source)
                    waited += seconds
                    yield batch

            result = train_step(
                headless, micro_batches(), through_head, targets_in_batch, self.optimiser,
                device=self.where, clip=1.0,
            )  # fmt: skip
            counts = result.counts
            flops = self.shape.train_flops(
                positions=counts.positions, heads=counts.label, length=self.config.length
            )
            yield Work(counts, flops=flops, waited_s=waited)

    def evaluate(self, source: Batches) -> Iterator[Work]:
        """The loss of one batch at each `next`, forward only."""
        self.model.eval()
        headless, loss = Headless(self.model), through(ce, self.model)
        while True:
            batch, waited = next(source)
            with torch.no_grad():
                hidden, labels = label_logits(
                    headless, batch.tokens_BT.to(self.where), batch.labels_BT.to(self.where)
                )
                loss(hidden, labels, None).item()
            flops = self.shape.train_flops(
                positions=batch.counts.positions, heads=batch.counts.label, length=self.config.length
            )
            yield Work(batch.counts, flops=flops / 3, waited_s=waited)
