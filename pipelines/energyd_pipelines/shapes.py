"""What are the true shapes of OLMo-2, how much arithmetic are they, and how are they had without weights?

Power does not know what was learnt: random weights of true shapes draw about what trained ones draw (bf16
matrix products on random data; zeros draw less). Shapes as in the published configs of OLMo-2-0425-1B,
-1124-7B, -1124-13B and -0325-32B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from energyd_pipelines.errors import DistillError

H100_BF16_FLOPS: Final = 989.4e12
"""Dense bf16 peak of an H100 SXM, FLOP/s (NVIDIA's data sheet): the denominator of MFU here."""


@dataclass(frozen=True)
class Shape:
    """A decoder with SwiGLU, an untied head, and the vocabulary of OLMo-2 if no other is given."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 100_352

    @property
    def layer_params(self) -> int:
        """Weights of one layer that multiply: attention and feed-forward."""
        head_dim = self.hidden // self.heads
        return self.hidden * head_dim * 2 * (self.heads + self.kv_heads) + 3 * self.hidden * self.ffn

    @property
    def params(self) -> int:
        """All weights but the norms', which are less than a thousandth."""
        return self.layers * self.layer_params + 2 * self.vocab * self.hidden

    @property
    def kv_bytes(self) -> int:
        """bf16 bytes of keys and values that one cached token takes."""
        return 2 * 2 * self.layers * self.kv_heads * (self.hidden // self.heads)

    def body_flops(self, context: float) -> float:
        """Forward FLOP of one position through all layers that looks back at `context` positions (mean)."""
        return 2.0 * self.layers * self.layer_params + 4.0 * self.layers * self.hidden * context

    @property
    def head_flops(self) -> float:
        """Forward FLOP of one position's logits."""
        return 2.0 * self.hidden * self.vocab

    def train_flops(self, *, positions: int, heads: int, length: int) -> float:
        """FLOP of forward and backward, without what checkpointing repeats (so MFU, not HFU).

        `heads`: positions whose logits were made. Causal attention looks back at half the length.
        """
        return 3.0 * (positions * self.body_flops(length / 2) + heads * self.head_flops)


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 2, 4, 2, 128, vocab=512),
        Shape("1b", 2048, 16, 16, 16, 8192),
        Shape("7b", 4096, 32, 32, 32, 11008),
        Shape("13b", 5120, 40, 40, 40, 13824),
        Shape("32b", 5120, 64, 40, 8, 27648),
    )
}


def shape_of(name: str) -> Shape:
    """The shape of this name, `olmo2-` before it or not. Raises DistillError for another."""
    found = SHAPES.get(name.lower().removeprefix("olmo2-"))
    if found is None:
        raise DistillError(f"no shape {name!r}", cure=f"one of {', '.join(SHAPES)}")
    return found


def random_model(
    shape: Shape, *, device: torch.device | str, dtype: torch.dtype = torch.bfloat16, seed: int = 0,
    attention: str = "sdpa",
) -> Any:  # fmt: skip
    """An Olmo2ForCausalLM with random weights, made on the meta device and filled where it shall live.

    So 32B are ready in seconds, and the machine's memory never holds them. bf16 32B takes 64.5 GB.
    """
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, attn_implementation=attention,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = Olmo2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.to_empty(device=device)
    dice = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(0, 0.02, generator=dice)
    # The rotary table is computed, not learnt: to_empty left it unset.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    return model
