"""What do real language models draw? Random weights of true shapes: power does not know what was learnt.

Training: the shape of OLMo-2 1B, bf16, AdamW, 8 x 2048 tokens a step (about 65 GiB), halved while the GPU has
no room. Decoding: the shape of OLMo-2 32B, bf16, `generate` at batch 32; weights are made on the meta device,
then filled on the GPU, which takes seconds instead of minutes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Final

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM, StoppingCriteria

TINY: Final = bool(os.environ.get("ACCURACY_BENCH_TINY"))  # rehearsal on a machine without a GPU
VOCABULARY: Final = 100352
_DEVICE: Final = "cuda" if torch.cuda.is_available() else "cpu"


def _config(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> Any:
    if TINY:
        hidden, layers, heads, kv_heads, intermediate = 64, 2, 4, 2, 128
    return Olmo2Config(
        vocab_size=512 if TINY else VOCABULARY, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=intermediate,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def _model(config: Any) -> Any:
    """A model on the GPU with random weights, bf16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = Olmo2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.to_empty(device=_DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(0, 0.02)
    # Its table of angles is computed, not learnt, and was left unset by to_empty.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(_DEVICE)
    return model


def _wait() -> None:
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


class Train:
    """Full training steps."""

    def run(self, name: str, seed: int, stop: threading.Event, say: Any) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = _model(_config(2048, 16, 16, 16, 8192))
        model.train()
        model.config.use_cache = False
        # Fused: one kernel a step; the states are bf16 as the weights are.
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=_DEVICE == "cuda")
        batch, length = (2, 32) if TINY else (8, 2048)
        done, began = 0, time.monotonic()
        said_at: float | None = None
        while not stop.is_set():
            try:
                tokens = torch.randint(3, model.config.vocab_size, (batch, length), device=_DEVICE)
                model(input_ids=tokens, labels=tokens).loss.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                _wait()
                fits = True
            except torch.OutOfMemoryError:
                fits = False
            if not fits:  # here, since inside of `except` the traceback still holds what filled the memory
                if batch == 1:
                    raise RuntimeError("out of memory at batch 1")
                batch //= 2
                print(f"out of memory: batch {batch}", file=sys.stderr, flush=True)
                optimiser.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                continue
            done += 1
            if said_at is None and done >= 8:
                said_at, done = time.monotonic(), 0
                say(steady=name, preparing_s=round(said_at - began, 1))
        seconds = time.monotonic() - (said_at or began)
        return {
            "steps": done,
            "batch": batch,
            "length": length,
            "tokens_per_s": done * batch * length / seconds,
        }


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation early when the benchmark has seen enough."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)


class Decode:
    """Batched generation, prompt after prompt."""

    def run(self, name: str, seed: int, stop: threading.Event, say: Any) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = _model(_config(5120, 64, 40, 8, 27648))
        model.eval()
        batch, prompt, new = (2, 8, 8) if TINY else (32, 128, 64)
        began, done = time.monotonic(), 0
        said_at: float | None = None
        with torch.inference_mode():
            while not stop.is_set():
                tokens = torch.randint(3, model.config.vocab_size, (batch, prompt), device=_DEVICE)
                # The first one is short: it only warms kernels and memory up.
                n = new if said_at is not None else 8
                out = model.generate(
                    input_ids=tokens, attention_mask=torch.ones_like(tokens), do_sample=False,
                    min_new_tokens=n, max_new_tokens=n, stopping_criteria=[_Stop(stop)],
                )  # fmt: skip
                _wait()
                if said_at is None:
                    said_at = time.monotonic()
                    say(steady=name, preparing_s=round(said_at - began, 1))
                else:
                    done += int(out.shape[0] * (out.shape[1] - prompt))
        seconds = time.monotonic() - (said_at or began)
        return {"batch": batch, "prompt": prompt, "new": new, "tokens_per_s": done / seconds}
