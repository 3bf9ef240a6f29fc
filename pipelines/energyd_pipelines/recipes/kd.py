"""What does it cost to learn from a teacher's distributions? Its top logits are cached once, for all."""

from __future__ import annotations

from typing import Any

from energyd_pipelines.cell import Cell
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.examples import Batch
from energyd_pipelines.losses import kd as kd_loss
from energyd_pipelines.prerun import prerun
from energyd_pipelines.recipes.parts import learn, measure, prepare_data, student_of
from energyd_pipelines.recipes.teacher import cached_logits


def kd(cell: Cell) -> Quality:
    """One student, learning alpha·CE + (1 − alpha)·tau²·KL(teacher ‖ student)."""
    settings = cell.config.kd
    with cell.begin() as run:
        on = cell.processes.devices

        if cell.needs("prerun"):
            with run.stage("prerun", devices=on):
                cell.idle = prerun(run, cell.config.prerun, cell.processes.device, on)
            cell.done("prerun")

        if cell.needs("preprocess"):
            with run.stage("preprocess", devices=on) as stage:
                prepare_data(cell, stage)
            cell.done("preprocess")
        data = cell.kept()

        # Stage `teacher.logits`, unless the registry has them: then it is a use of an artifact.
        cache = cached_logits(cell, run, data.train)

        def targets_of(batch: Batch) -> Any:
            return cache.rows(batch.rows_B, tau=settings.tau, device=cell.processes.device)

        if cell.needs("student.train"):
            with run.stage("student.train", devices=on) as stage:
                loss = kd_loss(settings.alpha, settings.tau, settings.tail)
                learn(cell, run, stage, data.train, data, loss=loss, targets_of=targets_of)
            cell.done("student.train")

        with run.stage("evaluate", devices=on) as stage:
            quality = measure(cell, stage, student_of(cell, data), data)
        cell.report(run, quality)
    return quality
