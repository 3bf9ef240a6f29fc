"""How does a student learn from its first step to its last? One loop for all pipelines, in stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import nn

import energyd_client as energy
from energyd_pipelines import checkpoints
from energyd_pipelines.batches import Schedule
from energyd_pipelines.config import TrainConfig
from energyd_pipelines.evaluate import evaluate
from energyd_pipelines.examples import Batch, Counts, Dataset
from energyd_pipelines.optimisers import optimiser_of, rate
from energyd_pipelines.training import Loss, must_be_finite, targets_in_batch, train_step

if TYPE_CHECKING:
    from energyd_pipelines.cell import Cell


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    steps: int
    loss: float  # nats a label token, mean over the last group of steps
    reached: bool  # the target of `stop: to_target`


def train(
    cell: Cell, run: energy.Run, student: nn.Module, data: Dataset, held_out: Dataset, groups: Sequence[str],
    *, loss: Loss, targets_of: Callable[[Batch], Any] | None = None,
) -> Trained:  # fmt: skip
    """Learn until the budget of steps is spent or the target is reached, inside stage `student.train`.

    Its children: `data_wait` (batches and the teacher's targets made ready), `steps A-B`, `eval`,
    `checkpoint`. Goes on from the cell's checkpoint if there is one. Tokens are counted on the steps alone.
    """
    config, processes = cell.config.train, cell.processes
    optimiser = optimiser_of(student, config)
    step = checkpoints.load(cell.checkpoint, student, optimiser, processes.device)
    wrapped = processes.together(student)
    schedule = Schedule(
        data, batch=config.batch, micro_batch=config.micro_batch, seed=cell.seed, bucket=config.bucket,
        rank=processes.rank, world=processes.world,
    )  # fmt: skip
    losses: list[float] = []
    reached = False
    while step < config.steps and not reached:
        last = _next_edge(step, config)
        with run.stage("data_wait", devices=processes.devices):
            ready = [schedule.step(i) for i in range(step, last)]
            if targets_of is not None:
                for batch in (b for micro in ready for b in micro):
                    batch.targets = targets_of(batch)
        with run.stage(f"steps {step + 1}-{last}", devices=processes.devices) as stage:
            counts, losses = Counts(), []
            for i, micro in enumerate(ready, step):
                optimiser.scale(rate(i, config))
                result = train_step(
                    wrapped,
                    micro,
                    loss,
                    targets_in_batch,
                    optimiser,
                    device=processes.device,
                    clip=config.clip,
                )
                must_be_finite(result.loss_mean, f"at step {i + 1}", cell.name)
                counts += result.counts
                losses.append(result.loss_mean)
                cell.say.now(f"{cell.name}  step {i + 1} of {config.steps}  loss {result.loss_mean:.3f}")
            stage.count(**processes.sum(counts).units())
        step = last
        if config.eval_every and (step % config.eval_every == 0 or step == config.steps):
            with run.stage("eval", devices=processes.devices) as stage:
                quality = evaluate(
                    student, held_out, groups, batch=cell.config.evaluate.batch, device=processes.device,
                    n=cell.config.evaluate.n,
                )  # fmt: skip
                stage.count(examples=quality.n)
            run.metric(f"eval.{config.metric}", quality.value(config.metric), n=quality.n)
            if config.stop == "to_target" and config.target is not None:
                reached = processes.agree(quality.reaches(config.metric, config.target))
        if (
            config.checkpoint_every
            and step % config.checkpoint_every == 0
            and step < config.steps
            and not reached  # resumed from here, it would learn on beyond the target
            and processes.first
        ):
            with run.stage("checkpoint", devices=processes.devices):
                checkpoints.save(cell.checkpoint, student, optimiser, step)
    if processes.first:
        with run.stage("checkpoint", devices=processes.devices):
            checkpoints.save_student(cell.folder / "student", student)
    return Trained(step, fmean(losses) if losses else float("nan"), reached)


def _next_edge(step: int, config: TrainConfig) -> int:
    """The step at which the next group ends: no group spans an evaluation or a checkpoint."""
    every = [n for n in (config.group_steps, config.eval_every, config.checkpoint_every) if n > 0]
    return min([config.steps, *((step // n + 1) * n for n in every)])
