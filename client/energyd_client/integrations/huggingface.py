"""What does each stage of a Hugging Face Trainer cost? `Trainer(…, callbacks=[EnergyCallback()])`.

Stages `train`, and in it `evaluate` and `save`. Tokens come from the trainer, where it counts them
(`include_num_input_tokens_seen`: "all" counts positions, "non_padding" nonpad); steps always.
"""

from __future__ import annotations

from typing import Any, Final

from transformers import TrainerCallback

import energyd_client as energy
from energyd_client.integrations import node

UNITS: Final = {"all": "positions", "non_padding": "nonpad"}


class EnergyCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Marks the stages of one trainer. Inside a run of yours it joins that one.

    One process a node marks; tokens, which the trainer has summed over all ranks, are told by rank 0 alone.
    The trainer says when an evaluation or a checkpoint is over and, by its control flags, that one comes. An
    `evaluate()` that you call yourself is none of these: `with energy.stage("evaluate"): trainer.evaluate()`.
    With `save_strategy="best"` it does not say that a save comes; those are then part of `train`.
    """

    def __init__(self, name: str | None = None, *, sync: bool = False, **labels: Any) -> None:
        """`name` and `labels` of the run; `sync`: wait for the GPUs at every edge, which makes them exact."""
        self._name, self._labels, self._sync = name, labels, sync
        self._run: energy.Run | None = None
        self._train: energy.Stage | None = None
        self._inner: energy.Stage | None = None
        self._devices: list[int] | list[str] | None = None
        self._told = {"steps": 0, "tokens": 0}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`train` begins."""
        if not node.is_speaker():
            return
        self._told = {"steps": state.global_step, "tokens": state.num_input_tokens_seen}  # not 0 if resumed
        self._run = energy.run(self._name, **self._labels).begin()
        self._devices = node.gpus() if args.device.type == "cuda" else None
        self._train = self._run.stage("train", devices=self._devices, sync=self._sync).begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation or a checkpoint may follow."""
        self._follows(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Likewise."""
        self._follows(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What did not come after all has ended."""
        self._close()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count what was done since the last time."""
        self._count(args, state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`evaluate` ends; a checkpoint may follow."""
        self._close()
        if control.should_save:
            self._open("save")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`save` ends."""
        self._close()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`train` ends, and the run if it is ours."""
        self._close()
        self._count(args, state)
        for block in (self._train, self._run):
            if block is not None:
                block.end()
        self._train = self._run = None

    def _follows(self, control: Any) -> None:
        if control.should_evaluate:
            self._open("evaluate")
        elif control.should_save:
            self._open("save")

    def _open(self, name: str) -> None:
        self._close()
        if self._run is not None:
            self._inner = self._run.stage(name, devices=self._devices, sync=self._sync).begin()

    def _close(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.end()

    def _count(self, args: Any, state: Any) -> None:
        if self._train is None or not state.is_world_process_zero:
            return
        unit = UNITS.get(str(args.include_num_input_tokens_seen))
        now = {"steps": int(state.global_step), "tokens": int(state.num_input_tokens_seen)}
        new = {what: n - self._told[what] for what, n in now.items()}
        self._told = now
        if unit is not None and new["tokens"] > 0:
            self._train.count(**{unit: new["tokens"]})
        if new["steps"] > 0:
            self._train.count(steps=new["steps"])
