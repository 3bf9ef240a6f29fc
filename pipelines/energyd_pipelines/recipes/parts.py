"""What do all recipes do alike inside of their stages: prepare, learn, measure?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import energyd_client as energy
from energyd_pipelines import models
from energyd_pipelines.cell import Cell
from energyd_pipelines.data import Prepared, prepare
from energyd_pipelines.evaluate import Quality, evaluate
from energyd_pipelines.examples import Batch, Dataset
from energyd_pipelines.loop import train
from energyd_pipelines.training import Loss, must_be_finite


def prepare_data(cell: Cell, stage: energy.Stage) -> None:
    """Tokenise, hold out, and put it where `cell.kept` and the next attempt find it."""
    if cell.processes.first:
        prepared = prepare(cell.config.data, cell.tokenizer, cell.say.once)
        stage.count(label=sum(e.n_labels for e in prepared.train.examples), too_long=prepared.too_long)
        cell.keep(prepared)
    cell.processes.wait()


def learn(
    cell: Cell, run: energy.Run, stage: energy.Stage, lessons: Dataset, data: Prepared, *, loss: Loss,
    targets_of: Callable[[Batch], Any] | None = None,
) -> None:  # fmt: skip
    """Build the student and train it on `lessons`; it lies in the cell's folder afterwards."""
    cell.begins_to_train(stage)
    student = models.build(cell.student, **_as_built(cell, lessons))
    trained = train(cell, run, student, lessons, data.held_out, data.groups, loss=loss, targets_of=targets_of)
    cell.trained, cell.outcome = student, trained
    cell.processes.wait()


def student_of(cell: Cell, data: Prepared) -> nn.Module:
    """The trained student: the one in memory, or what an earlier attempt wrote."""
    if cell.trained is None:
        cell.trained = models.reload(cell.folder / "student", cell.student, **_as_built(cell, data.train))
    return cell.trained


def _as_built(cell: Cell, lessons: Dataset) -> dict[str, Any]:
    """What decides the student before it has learnt anything."""
    return {
        "vocab_size": lessons.vocab_size, "pad_id": lessons.pad_id, "eos_id": lessons.eos_id,
        "seed": cell.seed, "device": cell.processes.device, "train": cell.config.train,
        "max_len": cell.config.data.max_len + 8,
    }  # fmt: skip


def measure(cell: Cell, stage: energy.Stage, student: nn.Module, data: Prepared) -> Quality:
    """Quality on what was held out."""
    quality = evaluate(
        student, data.held_out, data.groups, batch=cell.config.evaluate.batch, device=cell.processes.device,
        n=cell.config.evaluate.n,
    )  # fmt: skip
    stage.count(**quality.counts.units(), examples=quality.n)
    must_be_finite(quality.nll, "on what was held out", cell.name)
    return quality
