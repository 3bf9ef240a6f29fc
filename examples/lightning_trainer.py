"""What does each stage of a PyTorch Lightning Trainer cost? One line: `callbacks=[EnergyCallback(...)]`.

    energyd start --store ./store      # and export what it prints
    python examples/lightning_trainer.py        # or, on two ranks: … 2
    energyq --store ./store stages

Needs `pip install lightning`. Trains a tiny model on random numbers, no download.
"""

from __future__ import annotations

import sys
import tempfile

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from energyd_client.integrations.lightning import EnergyCallback


class Tiny(pl.LightningModule):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 4)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss."""
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """The loss, reported."""
        self.log("loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(ranks: int = 1) -> None:
    """Train two epochs on so many ranks, evaluate and save after each."""
    numbers = TensorDataset(torch.randn(64, 16))
    with tempfile.TemporaryDirectory() as folder:
        energy = EnergyCallback(
            "tiny-linear", count=lambda batch: {"positions": batch[0].numel()}, pipeline="pretrain"
        )
        trainer = pl.Trainer(
            max_epochs=2, callbacks=[energy], default_root_dir=folder, accelerator="cpu", devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            logger=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit(Tiny(), DataLoader(numbers, 8), DataLoader(numbers, 8))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
