"""What does each stage of a PyTorch Lightning Trainer cost? `Trainer(…, callbacks=[EnergyCallback()])`.

Stages `train`, and in it `evaluate` and `save`; `sanity_check` before it; `test` and `predict` on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback

import energyd_client as energy
from energyd_client.integrations import node


class EnergyCallback(Callback):  # type: ignore[misc]  # lightning is not typed here
    """Marks the stages of one trainer. Inside a run of yours it joins that one.

    One process a node marks. `count(batch)` says what a training batch holds, such as
    `lambda batch: {"positions": batch["input_ids"].numel()}`; it is summed over all ranks at the end of
    training and told by rank 0. Steps are counted always.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        count: Callable[[Any], Mapping[str, int]] | None = None,
        sync: bool = False,
        **labels: Any,
    ) -> None:
        """`name` and `labels` of the run; `sync`: wait for the GPUs at every edge, which makes them exact."""
        self._name, self._labels, self._sync, self._of_batch = name, labels, sync, count
        self._run: energy.Run | None = None
        self._open: list[energy.Stage] = []
        self._counts: dict[str, int] = {}
        self._save: Callable[..., None] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The run begins. Checkpoints get a stage here, as Lightning does not say when one is over."""
        if not node.is_speaker() or self._run is not None:
            return
        self._run = energy.run(self._name, **self._labels).begin()
        self._save = save = trainer.save_checkpoint

        def staged(*args: Any, **more: Any) -> None:
            self._begin(trainer, "save")
            try:
                save(*args, **more)
            finally:
                self._end("save")

        trainer.save_checkpoint = staged

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The run ends, if it is ours."""
        if self._save is not None:
            trainer.save_checkpoint, self._save = self._save, None
        self._close("ok")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """What is open ends with `error`."""
        self._close("error")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """`train` begins."""
        self._counts = {}
        self._begin(trainer, "train")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up what this rank did."""
        if self._of_batch is not None:
            for unit, n in self._of_batch(batch).items():
                self._counts[unit] = self._counts.get(unit, 0) + n

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """`train` ends, with what all ranks did in it."""
        counts = self._counts
        if counts and trainer.world_size > 1:
            counts = {unit: int(n.sum()) for unit, n in pl_module.all_gather(counts).items()}
        if self._open and trainer.is_global_zero:
            self._open[0].count(steps=trainer.global_step, **counts)
        self._end("train")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """`evaluate` begins."""
        self._begin(trainer, "sanity_check" if trainer.sanity_checking else "evaluate")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """`evaluate` ends."""
        self._end("sanity_check" if trainer.sanity_checking else "evaluate")

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """`test` begins."""
        self._begin(trainer, "test")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """`test` ends."""
        self._end("test")

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """`predict` begins."""
        self._begin(trainer, "predict")

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """`predict` ends."""
        self._end("predict")

    def _begin(self, trainer: Any, name: str) -> None:
        if self._run is not None:
            on_gpu = trainer.strategy.root_device.type == "cuda"
            devices = node.gpus(trainer.num_devices) if on_gpu else None
            self._open.append(self._run.stage(name, devices=devices, sync=self._sync).begin())

    def _end(self, name: str) -> None:
        if self._open and self._open[-1].name == name:
            self._open.pop().end()

    def _close(self, status: str) -> None:
        while self._open:
            self._open.pop().end(status)
        if self._run is not None:
            self._run.end(status)
            self._run = None
