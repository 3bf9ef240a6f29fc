"""What does it cost to learn from what a teacher writes? It answers the prompts once, for all students."""

from __future__ import annotations

from energyd_pipelines.cell import Cell
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.losses import ce
from energyd_pipelines.prerun import prerun
from energyd_pipelines.recipes.parts import learn, measure, prepare_data, student_of
from energyd_pipelines.recipes.teacher import written_answers


def synthetic(cell: Cell) -> Quality:
    """One student, learning the teacher's answers by cross-entropy."""
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

        # Stage `teacher.generate`, unless the registry has the answers: then it is a use of an artifact.
        answers = written_answers(cell, run, data.train)

        if cell.needs("student.train"):
            with run.stage("student.train", devices=on) as stage:
                learn(cell, run, stage, answers, data, loss=ce)
            cell.done("student.train")

        with run.stage("evaluate", devices=on) as stage:
            quality = measure(cell, stage, student_of(cell, data), data)
        cell.report(run, quality)
    return quality
