"""How does one token attend to keys and values that several query heads share, without copying those?

transformers before 5.24 repeats keys and values for each query head as soon as there is a mask: with 40
query and 8 key heads, each decoding step copies the whole cache five times over. The five heads of a group
are five queries for the same keys, which is what scaled_dot_product_attention takes anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor
from torch.nn import functional as F

NAME: Final = "energyd_grouped"


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Attention of (B, H, T, C) queries; (B, T, H, C) comes back, as transformers wants it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    groups = query.shape[1] // key.shape[1]
    if query.shape[2] > 1 or groups == 1 or attention_mask is None or attention_mask.shape[1] != 1:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return found
    batch, heads, _, width = query.shape
    packed = query.reshape(batch, heads // groups, groups, width)
    scale = more.get("scaling")
    out = F.scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scale)
    return out.reshape(batch, heads, 1, value.shape[-1]).transpose(1, 2).contiguous(), None


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """While inside, a model that uses sdpa attends so; any other is left as it is."""
    config = model.config.get_text_config()
    if getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
