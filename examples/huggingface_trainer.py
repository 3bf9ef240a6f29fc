"""What does each stage of a Hugging Face Trainer cost? One line: `callbacks=[EnergyCallback(...)]`.

    energyd start --store ./store      # and export what it prints
    python examples/huggingface_trainer.py    # or, on two ranks: torchrun --nproc-per-node=2 …
    energyq --store ./store stages

Needs `pip install transformers accelerate torch`. Trains a tiny model on random tokens, no download.
"""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from energyd_client.integrations.huggingface import EnergyCallback

LENGTH = 32


class RandomTokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences of random tokens."""

    def __init__(self, n: int) -> None:
        self._ids = torch.randint(0, 100, (n, LENGTH))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids[i], "labels": self._ids[i]}


def main() -> None:
    """Train two epochs, evaluate and save after each."""
    config = GPT2Config(vocab_size=100, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=2, per_device_train_batch_size=8, eval_strategy="epoch",
            save_strategy="epoch", report_to=[], disable_tqdm=True, include_num_input_tokens_seen="all",
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        trainer = Trainer(
            GPT2LMHeadModel(config), arguments, train_dataset=RandomTokens(64), eval_dataset=RandomTokens(16),
            callbacks=[EnergyCallback("tiny-gpt2", pipeline="pretrain")],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    main()
