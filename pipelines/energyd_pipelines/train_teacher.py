"""How was the shipped teacher made, and what did that take? As students are, but from clean answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import energyd_client as energy
from energyd_pipelines import models, strings_task
from energyd_pipelines.batches import Schedule
from energyd_pipelines.builtin import hash_of
from energyd_pipelines.config import DataConfig, ModelConfig, TrainConfig
from energyd_pipelines.data import prepare
from energyd_pipelines.evaluate import evaluate
from energyd_pipelines.examples import Counts
from energyd_pipelines.losses import ce
from energyd_pipelines.optimisers import optimiser_of, rate
from energyd_pipelines.production import energy_of
from energyd_pipelines.progress import Progress
from energyd_pipelines.training import train_step

NAME = "strings-v1"
SHAPE = ModelConfig(name=NAME, width=64, layers=3, heads=4)
TRAIN = TrainConfig(optimizer="muon", lr=0.02, batch=64, steps=1200)
DATA = DataConfig(n=30_000, noise=0.0, n_eval=700)
MAX_LEN = 64


def train_teacher(out: Path | None = None, steps: int | None = None) -> str:
    """Train it, write `strings-v1.safetensors` (fp16) and its manifest into `out`; what to say of it."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder = out or Path(__file__).parent / "teachers"
    folder.mkdir(parents=True, exist_ok=True)
    train = TRAIN if steps is None else TrainConfig(optimizer="muon", lr=0.02, batch=64, steps=steps)
    device, say = torch.device("cpu"), Progress()
    tokenizer = strings_task.CharTokenizer()
    with energy.run("train-teacher", teacher=NAME) as run, run.stage("teacher.train") as stage:
        prepared = prepare(DATA, tokenizer)
        model: Any = models.build(
            SHAPE, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id, seed=0,
            device=device, train=train, max_len=MAX_LEN,
        )  # fmt: skip
        optimiser = optimiser_of(model, train)
        schedule = Schedule(prepared.train, batch=train.batch, seed=0)
        total = Counts()
        for step in range(train.steps):
            optimiser.scale(rate(step, train))
            result = train_step(
                model, schedule.step(step), ce, None, optimiser, device=device, clip=train.clip
            )
            total += result.counts
            say.now(f"teacher  step {step + 1} of {train.steps}  loss {result.loss_mean:.3f}")
        stage.count(**total.units())
    model.load_state_dict(
        {name: w.half().float() for name, w in model.state_dict().items()}
    )  # as it is shipped
    quality = evaluate(model, prepared.held_out, prepared.groups, batch=256, device=device)
    cost = energy_of(str(stage.stage_id), run_id=run.run_id)
    weights = folder / f"{NAME}.safetensors"
    save_file({name: w.half().contiguous() for name, w in model.state_dict().items()}, weights)
    shape = model.config.to_dict()
    kept = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "max_position_embeddings", "pad_token_id", "eos_token_id", "bos_token_id",
        "tie_word_embeddings", "rope_parameters",
    )  # fmt: skip
    manifest = {
        "name": NAME, "licence": "Apache-2.0",
        "weights": {"name": weights.name, "bytes": weights.stat().st_size, "sha256": hash_of(weights)},
        "shape": {k: shape[k] for k in kept if k in shape},
        "tokenizer_hash": tokenizer.hash,
        "dataset_hash": prepared.train.content_hash,
        "ledger": total.units(),
        "quality": {
            "exact_match": quality.exact_match, "nll": quality.nll, "n": quality.n, "groups": quality.groups,
        },
        "production": {**cost.as_json(), "host": None, "origin": "reported", "measured_as": cost.origin},
    }  # fmt: skip
    (folder / f"{NAME}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    joules = "unmeasured" if cost.total_j is None else f"{cost.total_j:.4g} J"
    return f"{weights}: exact match {quality.exact_match:.3f} on {quality.n} held-out prompts, {joules}"
