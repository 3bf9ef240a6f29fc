"""One pipeline for one student with one seed: under which labels is it measured, and how far had it come?

Its folder holds `config.yaml` (resolved), `state.json` (attempt, finished stages), `data.npz`, the
checkpoint, the trained student and, at the end, `result.json`. A killed attempt stays in the store as a run
of its own, with the label `attempt`; the next one skips what is finished.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

import energyd_client as energy
from energyd_pipelines.config import Config, ModelConfig
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.processes import Processes
from energyd_pipelines.progress import Progress

if TYPE_CHECKING:
    from energyd_pipelines.artifacts.registry import Artifact, Registry
    from energyd_pipelines.data import Prepared, Tokenizer
    from energyd_pipelines.loop import Trained
    from energyd_pipelines.production import Site


@dataclass
class Cell:
    """What a recipe is given."""

    config: Config
    preset: str
    pipeline: str
    student: ModelConfig
    seed: int
    folder: Path
    tokenizer: Tokenizer
    registry: Registry
    processes: Processes
    say: Progress
    finished: list[str] = field(default_factory=list)
    attempt: int = 0
    saved: list[dict[str, Any]] = field(default_factory=list)  # what reuse spared
    parents: list[Artifact] = field(default_factory=list)  # the teacher's artifacts that it learnt from
    trained: nn.Module | None = None  # the student, while it is in memory
    outcome: Trained | None = None  # of the training in this attempt
    training: energy.Stage | None = None  # `student.train` of this attempt
    idle: str | None = None  # id of the stage that idled in this attempt

    @property
    def name(self) -> str:
        """Of the run, and of the cell's folder without its seed."""
        return f"{self.pipeline}-{self.student.name}"

    @property
    def site(self) -> Site:
        """Where the machine stands, for cards."""
        from energyd_pipelines.production import Site

        return Site(**asdict(self.config.site))

    @property
    def checkpoint(self) -> Path:
        """Of the student in training."""
        return self.folder / "checkpoint.pt"

    @property
    def result(self) -> dict[str, Any] | None:
        """What a finished cell came to; None: it is not finished."""
        path = self.folder / "result.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return found

    def begin(self) -> energy.Run:
        """The run of the next attempt, its labels those that the analysis reads (energyq breakeven)."""
        self._read()
        self.attempt += 1
        self._write()
        teacher = self.config.teacher
        return energy.run(
            self.name, pipeline=self.pipeline, student=self.student.name, seed=self.seed,
            teacher=teacher.name if teacher is not None and self.pipeline != "sft" else None,
            tokenizer=self.tokenizer.hash[:12], train_config=self.config.train_hash, config=self.config.hash,
            dataset=self.config.data.path or self.config.data.task, preset=self.preset,
            stop=self.config.train.stop, attempt=self.attempt,
        )  # fmt: skip

    def needs(self, stage: str) -> bool:
        """Has no attempt finished this stage yet?"""
        return stage not in self.finished

    def done(self, stage: str) -> None:
        """Note that a stage is finished and need not be done again."""
        self.finished.append(stage)
        self._write()

    def keep(self, prepared: Prepared) -> None:
        """Put the tokenised data where the next attempt finds them."""
        if self.processes.first:
            from energyd_pipelines.data_files import write

            write(self.folder / "data.npz", prepared)

    def kept(self) -> Prepared:
        """What `keep` put aside."""
        from energyd_pipelines.data_files import read

        return read(self.folder / "data.npz", self.tokenizer)

    def report(self, run: energy.Run, quality: Quality) -> None:
        """Quality to the store and to `result.json`; from now on the cell is finished."""
        run.metric("exact_match", quality.exact_match, n=quality.n)
        run.metric("nll", quality.nll, n=quality.n)
        for name, value in quality.groups.items():
            if name:
                run.metric(f"exact_match.{name}", value)
        if self.processes.first:
            from energyd_pipelines.student_card import write_card

            write_card(self, run.run_id, quality)
        share = self._starved_share()
        if share is not None:
            run.metric("starved_share", share)
        self._put(
            "result.json",
            {
                "pipeline": self.pipeline, "student": self.student.name, "seed": self.seed,
                "exact_match": quality.exact_match, "nll": quality.nll, "n": quality.n,
                "groups": quality.groups,
                "attempts": self.attempt, "run_ids": [run.run_id], "saved": self.saved,
                "starved_share": share,
                "training": asdict(self.outcome) if self.outcome else None,
            },
        )  # fmt: skip
        self.checkpoint.unlink(missing_ok=True)

    def _starved_share(self) -> float | None:
        """For which share of `student.train` its GPUs idled; None: not known."""
        on_gpu = self.processes.first and self.processes.device.type == "cuda"
        if not on_gpu or self.training is None or self.idle is None:
            return None  # a CPU's power is the whole machine's: it says nothing of one program's waiting
        from energyd_pipelines.starved import of_stage, together

        return together(of_stage(str(self.training.stage_id), self.idle).values()).share

    def _read(self) -> None:
        path = self.folder / "state.json"
        if path.exists():
            state = json.loads(path.read_text())
            self.attempt, self.finished = state["attempt"], state["finished"]

    def _write(self) -> None:
        if not self.processes.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "config.yaml").exists():
            (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config.as_dict(), sort_keys=False))
        self._put("state.json", {"attempt": self.attempt, "finished": self.finished})

    def _put(self, name: str, content: dict[str, Any]) -> None:
        """Replace a small file, whole or not at all."""
        if not self.processes.first:
            return
        aside = self.folder / f"{name}.new"
        with aside.open("w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.folder / name)
