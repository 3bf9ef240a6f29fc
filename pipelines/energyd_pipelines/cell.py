"""One pipeline for one student with one seed: under which labels is it measured, and how far had it come?

Its folder holds `config.yaml` (resolved), `state.json` (attempt, finished stages), `data.npz`, the
checkpoint, the trained student and, at the end, `result.json`. A killed attempt stays in the store as a run
of its own, with the label `attempt`; the next one skips what is finished. `run_ids` names all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from torch import nn

import energyd_client as energy
from energyd_pipelines.checkpoints import with_room
from energyd_pipelines.config import Config, ModelConfig
from energyd_pipelines.errors import DistillError
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.processes import Processes
from energyd_pipelines.progress import Progress
from energyd_pipelines.study_folder import read_result

if TYPE_CHECKING:
    from energyd_pipelines.artifacts.registry import Artifact, Registry
    from energyd_pipelines.data import Prepared, Tokenizer
    from energyd_pipelines.loop import Trained
    from energyd_pipelines.production import Site
    from energyd_pipelines.starved import Starved

KEPT: Final[dict[str, type | tuple[type, ...]]] = {
    "attempt": int, "finished": list, "run_ids": list, "idle": (str, type(None)), "trainings": list,
}  # fmt: skip
"""What the next attempt must know of those before it, and of which type it is: `state.json`."""


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
    run_ids: list[str] = field(default_factory=list)  # of all attempts, the present one last
    saved: list[dict[str, Any]] = field(default_factory=list)  # what reuse spared
    parents: list[Artifact] = field(default_factory=list)  # the teacher's artifacts that it learnt from
    trained: nn.Module | None = None  # the student, while it is in memory
    outcome: Trained | None = None  # of the training in this attempt
    trainings: list[list[str]] = field(default_factory=list)  # [run, stage]: each `student.train` so far
    idle: str | None = None  # id of the stage that idled

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
    def study_run_ids(self) -> set[str]:
        """Of every cell of this study, begun or finished."""
        states = map(_state_in, self.folder.parent.glob("*/state.json"))
        return {run_id for state in states if state is not None for run_id in state["run_ids"]}

    @property
    def result(self) -> dict[str, Any] | None:
        """What a finished cell came to; None: it is not finished."""
        return read_result(self.folder / "result.json")

    @contextmanager
    def begin(self) -> Iterator[energy.Run]:
        """The run of the next attempt, its labels those that the analysis reads (energyq breakeven)."""
        self._read()
        self.attempt += 1
        self._write()  # first: two attempts of one number could not be told apart
        teacher = self.config.teacher
        with energy.run(
            self.name, pipeline=self.pipeline, student=self.student.name, seed=self.seed,
            teacher=teacher.name if teacher is not None and self.pipeline != "sft" else None,
            tokenizer=self.tokenizer.hash[:12], train_config=self.config.train_hash, config=self.config.hash,
            dataset=self.config.data.path or self.config.data.task, preset=self.preset,
            stop=self.config.train.stop, attempt=self.attempt,
        ) as run:  # fmt: skip
            self.run_ids.append(run.run_id)
            self._write()
            yield run

    def begins_to_train(self, stage: energy.Stage) -> None:
        """Note that this stage trains, so that its energy is in the student's sum however it ends."""
        self.trainings.append([self.run_ids[-1], str(stage.stage_id)])
        self._write()

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

            write_card(self, quality)
        starved = self._starved()
        if starved.share is not None:
            run.metric("starved_share", starved.share)
        found = {
            "pipeline": self.pipeline, "student": self.student.name, "seed": self.seed,
            "exact_match": quality.exact_match, "nll": quality.nll, "n": quality.n, "groups": quality.groups,
            "attempts": self.attempt, "run_ids": self.run_ids, "saved": self.saved,
            "starved_share": starved.share, "starved_reason": starved.reason,
            "training": asdict(self.outcome) if self.outcome else None,
        }  # fmt: skip
        self._put("result.json", json.dumps(found, indent=1))
        self.checkpoint.unlink(missing_ok=True)

    def _starved(self) -> Starved:
        """For which share of `student.train` its GPUs idled, or why that is not known."""
        from energyd_pipelines.starved import Starved, of_stage, together

        if not self.trainings:
            return Starved(share=None, reason="which stages trained it is not kept")
        if self.idle is None:
            return Starved(share=None, reason="prerun.idle_s is 0, so the idle floor is not known")
        return together(of_stage(self.trainings[-1][1], self.idle).values())

    def _read(self) -> None:
        found = _state_in(self.folder / "state.json")
        if found is not None:
            for name in KEPT:
                setattr(self, name, found[name])

    def _write(self) -> None:
        if not (self.folder / "config.yaml").exists():
            self._put("config.yaml", yaml.safe_dump(self.config.as_dict(), sort_keys=False))
        self._put("state.json", json.dumps({name: getattr(self, name) for name in KEPT}, indent=1))

    def _put(self, name: str, text: str) -> None:
        """Replace a small file, whole or not at all. Raises DistillError if the disk takes no more."""
        if not self.processes.first:
            return
        aside = self.folder / f"{name}.new"

        def replace() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(self.folder / name)
            except BaseException:
                aside.unlink(missing_ok=True)  # on a full disk it would hold the room
                raise

        with_room(self.folder, replace)


def _state_in(path: Path) -> dict[str, Any] | None:
    """How far a cell had come; None: it has not begun. Raises DistillError for a damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(n), kind) for n, kind in KEPT.items()):
        raise DistillError(
            "how far this cell had come cannot be read", where=str(path),
            cure="delete the cell's folder: it is trained anew; its attempts stay in the store",
        )  # fmt: skip
    return found
