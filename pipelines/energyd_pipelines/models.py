"""Which network learns or teaches? Any causal LM of transformers, by name, folder, shape or size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from energyd_pipelines.config import ModelConfig, TrainConfig
from energyd_pipelines.errors import DistillError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(
    wanted: ModelConfig, *, vocab_size: int, pad_id: int, eos_id: int, seed: int, device: torch.device,
    train: TrainConfig | None = None, max_len: int = 64,
) -> nn.Module:  # fmt: skip
    """The model on `device`; ready to learn if `train` is given, else to be asked. Raises DistillError."""
    model = _base(wanted, vocab_size, pad_id, eos_id, seed, device, train, max_len)
    if train is None:
        teacher: nn.Module = model.eval().requires_grad_(False)
        return teacher
    if train.lora.r > 0:
        model = _with_adapters(model, train)
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.config.use_cache = False
    trained: nn.Module = model.train()
    return trained


def _base(
    wanted: ModelConfig, vocab_size: int, pad_id: int, eos_id: int, seed: int, device: torch.device,
    train: TrainConfig | None, max_len: int,
) -> Any:  # fmt: skip
    """The network as it is before anything is learnt: the same weights for the same seed."""
    torch.manual_seed(seed)
    dtype = DTYPES[train.dtype] if train else (torch.bfloat16 if device.type == "cuda" else torch.float32)
    attention = train.attention if train else "sdpa"
    try:
        if wanted.ref == "decoder":
            model = decoder(wanted, vocab_size, pad_id, eos_id, max_len, attention)
        elif wanted.ref.startswith("builtin:"):
            from energyd_pipelines.builtin import load_builtin

            model = load_builtin(wanted.ref).model
        elif wanted.weights == "random":
            model = _random(wanted, device, dtype, attention)
        else:
            model = _pretrained(wanted, dtype, attention)
    except ImportError as error:
        if attention == "sdpa":  # which is PyTorch's own
            raise
        raise DistillError(
            f"train.attention is {attention}: {_first_line(error)}",
            where=f"model {wanted.name}", cure="train.attention=sdpa", code=2,
        ) from error  # fmt: skip
    model = model.to(device=device, dtype=dtype)
    if (known := model.get_input_embeddings().num_embeddings) < vocab_size:
        raise DistillError(
            f"model {wanted.name} knows {known} tokens, the data have {vocab_size}",
            cure="the tokenizer that the model was trained with (data.tokenizer)",
        )
    return model


def warm_up() -> None:
    """Import what every cell needs, by one step of the smallest model on the CPU, before any is measured.

    Else the first cell's `student.train` bears it, always the baseline's: 1505 modules, 3.4 of its 4.0 s of
    CPU time at 20 steps on a 2-core VM, so that its students seemed dearer than those that came after.
    No GPU is touched: `prerun.idle` is to be without a device context.
    """
    import safetensors.torch  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    smallest = decoder(ModelConfig(name="warm-up", width=8, layers=1, heads=2), 8, 0, 1, 8, "sdpa").train()
    torch.optim.AdamW(smallest.parameters()).zero_grad()
    smallest(torch.tensor([[2, 3]])).logits.sum().backward()


def n_params(model: nn.Module) -> int:
    """All parameters, adapters too."""
    return sum(p.numel() for p in model.parameters())


def decoder(
    wanted: ModelConfig, vocab_size: int, pad_id: int, eos_id: int, max_len: int, attention: str
) -> Any:
    """A small OLMo-2: RoPE, RMSNorm, SwiGLU, no biases; fresh weights from the seed set before."""
    from transformers import Olmo2Config, Olmo2ForCausalLM

    if wanted.width % wanted.heads or (wanted.width // wanted.heads) % 2:
        raise DistillError(
            f"model {wanted.name}: width {wanted.width} is not an even multiple of {wanted.heads} heads",
            cure=f"width {2 * wanted.heads * max(1, wanted.width // (2 * wanted.heads))}", code=2,
        )  # fmt: skip
    shape = Olmo2Config(
        vocab_size=vocab_size, hidden_size=wanted.width, num_hidden_layers=wanted.layers,
        num_attention_heads=wanted.heads, num_key_value_heads=wanted.heads,
        intermediate_size=wanted.ffn or -(-wanted.width * 8 // 24) * 8, max_position_embeddings=max_len,
        pad_token_id=pad_id, eos_token_id=eos_id, bos_token_id=None, tie_word_embeddings=False,
        attn_implementation=attention,
    )  # fmt: skip
    return Olmo2ForCausalLM(shape)


def _pretrained(wanted: ModelConfig, dtype: torch.dtype, attention: str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            wanted.ref, revision=wanted.revision, dtype=dtype, attn_implementation=attention
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DistillError(
            f"no model {wanted.ref}: {_first_line(error)}",
            where=f"model {wanted.name}"
            + (" (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""),
            cure="a folder, a name on the hub, or `weights: random` with a shape such as olmo2-7b",
        ) from error


def _random(wanted: ModelConfig, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    from energyd_pipelines.shapes import random_model, shape_of

    seed = torch.initial_seed()
    return random_model(shape_of(wanted.ref), device=device, dtype=dtype, seed=seed, attention=attention)


def _with_adapters(model: Any, train: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = train.lora
    wanted = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        return get_peft_model(model, wanted)
    except ValueError as error:
        raise DistillError(
            f"no adapters on {lora.targets!r:.40}: {_first_line(error)}", where="train.lora.targets",
            cure="all-linear, or a pattern of the model's own module names", code=2,
        ) from error  # fmt: skip


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:120]


def reload(
    folder: Path, wanted: ModelConfig, *, vocab_size: int, pad_id: int, eos_id: int, seed: int,
    device: torch.device, train: TrainConfig, max_len: int,
) -> nn.Module:  # fmt: skip
    """A student that `checkpoints.save_student` wrote, ready to be asked. Raises DistillError.

    Of adapters the folder holds nothing else: what they adapt is made again, as it was for the training.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        if train.lora.r > 0:
            from peft import PeftModel

            base = _base(wanted, vocab_size, pad_id, eos_id, seed, device, train, max_len)
            model: Any = PeftModel.from_pretrained(base, folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[train.dtype])
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DistillError(
            f"the trained student cannot be read: {_first_line(error)}", where=str(folder),
            cure="delete the cell's folder: it is trained anew",
        ) from error  # fmt: skip
    found: nn.Module = model.to(device).eval()
    return found
