"""How does a teacher answer many prompts with few joules?

Decoding reads all weights for each step, whoever many rows there are: the batch is the lever (a 32B teacher
on an H100 took 0.76 J a token at batch 32 and 0.53 at 64). So the largest batch that fits is the default,
prompts of like length share one, keys and values have their final place from the start (a cache that grows
is copied each step and is there twice while it is), and a step can be one CUDA graph instead of a thousand
launches.

Prompts are padded on the left, so that each row's next token follows its last one. Padding is never attended
to, never counted, never part of what comes back. A row ends with its EOS, which belongs to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyd_pipelines.errors import DistillError
from energyd_pipelines.grouped import grouped_attention

_LARGEST: Final = 1024
_SHARE: Final = 0.85  # of free memory, left to keys, values and what a prefill needs


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: `tokens` is prompt and answer, its EOS too; `n_generated` the answer alone."""

    index: int
    tokens: NDArray[np.uint32]
    n_generated: int


def generate(
    model: Any,
    prompts: Sequence[NDArray[np.uint32]],
    *,
    max_new: int,
    eos_id: int | None,
    pad_id: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch: int | None = None,
    static_cache: bool = True,
    graph: bool = False,
    seed: int = 0,
) -> Iterator[Generated]:
    """An answer for each prompt, batch after batch, those of like length together (`index` tells whose).

    `temperature` 0 is greedy; else tokens are drawn from the smallest set with probability `top_p`, the same
    ones for the same seed and batch. `batch` None: the largest that fits, halved if that was too many.
    `static_cache` needs a model of full attention throughout; `graph` replays each step as a CUDA graph.
    `eos_id` None: nothing ends before `max_new`. Raises DistillError for an empty prompt or bad settings.
    """
    if max_new < 1 or temperature < 0 or not 0 < top_p <= 1 or (batch is not None and batch < 1):
        raise DistillError(
            f"generate: max_new={max_new}, temperature={temperature}, top_p={top_p}, batch={batch}",
            cure="max_new and batch from 1, temperature from 0, top_p above 0 and at most 1",
        )
    empty = [i for i, prompt in enumerate(prompts) if len(prompt) == 0]
    if empty:
        raise DistillError(f"prompt {empty[0]} is empty", cure="every prompt needs a token to follow")
    if not prompts:
        return
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    guessed = batch is None
    if batch is None:
        batch = largest_batch(model, prompt=len(prompts[order[-1]]), max_new=max_new, of=len(prompts))
    model.eval()
    decoder: _Decoder | None = None
    start = 0
    while start < len(order):
        rows = order[start : start + batch]
        width = max(len(prompts[i]) for i in rows)
        fits = True
        try:
            with torch.inference_mode(), grouped_attention(model):
                if static_cache and (decoder is None or not decoder.takes(len(rows), width + max_new)):
                    # Prompts only get longer: a place for the next batches too is made once, not eight times.
                    width_max = max(len(prompts[i]) for i in order[start : start + 8 * batch])
                    decoder = None
                    decoder = _Decoder(model, len(rows), width_max + max_new, graph=graph)
                tokens, counts = _answer(
                    model, [prompts[i] for i in rows], max_new, eos_id, pad_id,
                    _Draw(temperature, top_p, seed, start, model.device), decoder if static_cache else None,
                )  # fmt: skip
        except torch.OutOfMemoryError:
            fits = False
        if not fits:  # not inside of `except`: its traceback holds what filled the memory
            decoder = None
            torch.cuda.empty_cache()
            if batch == 1 or not guessed:
                raise DistillError(
                    f"out of memory: a batch of {batch} with {max_new} new tokens",
                    cure="a smaller batch, or 0",
                )
            batch //= 2
            continue
        start += len(rows)
        for row, i in enumerate(rows):
            answer = tokens[row, : counts[row]].astype(np.uint32)
            yield Generated(i, np.concatenate([prompts[i].astype(np.uint32), answer]), int(counts[row]))


def largest_batch(model: Any, *, prompt: int, max_new: int, of: int = _LARGEST) -> int:
    """The largest power of two (at most `of` rounded up) whose cache and prefill fit in free memory."""
    limit = min(_LARGEST, 1 << max(0, of - 1).bit_length())
    if model.device.type != "cuda":
        return min(limit, 64)
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    a_row = 2 * config.num_hidden_layers * heads * width * (prompt + max_new) * size
    a_row += prompt * (4 * inner + 8 * config.hidden_size) * size + 4 * 4 * config.vocab_size
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    fitting = int(_SHARE * free / a_row)
    return max(1, min(limit, 1 << max(0, fitting.bit_length() - 1)))


class _Draw:
    """The next token of each row."""

    def __init__(self, temperature: float, top_p: float, seed: int, start: int, device: Any) -> None:
        self.temperature, self.top_p = temperature, top_p
        # Mixed, since the CPU's generator looks at 32 bits of a seed.
        mixed = np.random.SeedSequence([seed, start]).generate_state(1, np.uint32)
        self.dice = torch.Generator(device=device).manual_seed(int(mixed[0]))

    def __call__(self, logits_BV: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        p_BV = (logits_BV.float() / self.temperature).softmax(-1)
        if self.top_p < 1:
            sorted_p, at = p_BV.sort(-1, descending=True)
            # The first token always stays; the one that passes top_p does too.
            sorted_p[sorted_p.cumsum(-1) - sorted_p >= self.top_p] = 0
            p_BV = torch.zeros_like(p_BV).scatter(-1, at, sorted_p)
        return torch.multinomial(p_BV, 1, generator=self.dice)[:, 0]


def _answer(
    model: Any, prompts: list[NDArray[np.uint32]], max_new: int, eos_id: int | None, pad_id: int,
    draw: _Draw, decoder: _Decoder | None,
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """(tokens (B, max_new), how many of each row are real)."""
    width = max(len(p) for p in prompts)
    padded = np.full((len(prompts), width), pad_id, np.int64)
    real = np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        padded[row, width - len(prompt) :], real[row, width - len(prompt) :] = prompt, True
    tokens_BT = torch.from_numpy(padded).to(model.device)
    real_BT = torch.from_numpy(real).to(model.device)
    steps = decoder.steps(tokens_BT, real_BT) if decoder else _growing(model, tokens_BT, real_BT)
    logits = next(steps)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    counts = torch.zeros(len(prompts), dtype=torch.int64, device=model.device)
    out = torch.full((len(prompts), max_new), pad_id, dtype=torch.int64, device=model.device)
    for step in range(max_new):
        token = torch.where(alive, draw(logits), pad_id)
        out[:, step] = token
        counts += alive
        if eos_id is not None:
            alive = alive & (token != eos_id)
            if not bool(alive.any()):
                break
        if step + 1 < max_new:
            logits = steps.send(token)
    steps.close()
    return out.cpu().numpy(), counts.cpu().numpy()


def _growing(model: Any, tokens_BT: Tensor, real_BT: Tensor) -> Any:
    """Logits of the next token, given tokens one by one; the cache grows."""
    from transformers import DynamicCache

    where = (real_BT.long().cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    mask, position = real_BT.long(), where[:, -1:]
    logits = _call(model, tokens_BT, mask, where, cache)
    while True:
        token = yield logits
        mask, position = torch.cat([mask, torch.ones_like(mask[:, :1])], 1), position + 1
        logits = _call(model, token[:, None], mask, position, cache)


def _call(model: Any, tokens: Tensor, mask: Tensor, where: Tensor, cache: Any) -> Tensor:
    """Logits (B, V) of the last position. What a cache is called depends on the version of transformers."""
    known = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in known else "past_key_values"
    more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    more[name] = cache
    out = model(input_ids=tokens, attention_mask=mask, position_ids=where, use_cache=True, **more)
    logits: Tensor = out.logits[:, -1]
    return logits


class _Decoder:
    """A place for `batch` rows of up to `length` tokens, used again by every batch that fits in."""

    def __init__(self, model: Any, batch: int, length: int, *, graph: bool) -> None:
        from transformers import StaticCache

        self.model, self.batch = model, batch
        self.length = -(-length // 8) * 8  # masks of other widths are copied into such ones by the kernels
        self.cache = StaticCache(config=model.config, max_cache_len=self.length)
        if any(getattr(layer, "is_sliding", False) for layer in self.cache.layers):
            raise DistillError("this model attends to windows", cure="static_cache: false")
        self.graph: Any = None
        self._wants_graph = graph and model.device.type == "cuda"
        device = model.device
        self._token = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self._where = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        # Added to scores: bf16 as those are, since a mask of bools would be converted anew in each layer.
        self._mask = torch.zeros(batch, 1, 1, self.length, dtype=model.dtype, device=device)
        self._logits: Tensor | None = None

    def takes(self, batch: int, length: int) -> bool:
        """Whether so many rows of prompts and answers have their place here."""
        return batch == self.batch and length <= self.length

    def steps(self, tokens_BT: Tensor, real_BT: Tensor) -> Any:
        """A generator: gives logits (B, V) of the next token, is sent that token."""
        width = tokens_BT.shape[1]
        self.cache.reset()
        out = torch.finfo(self._mask.dtype).min
        seen = torch.zeros(self.batch, self.length, dtype=torch.bool, device=self._mask.device)
        seen[:, :width] = real_BT
        key = torch.arange(self.length, device=seen.device)[None, :]
        query = torch.arange(width, device=seen.device)[:, None]
        # A row of padding looks at itself, or its softmax would be of nothing.
        sees = ((key <= query) & seen[:, None, :]) | (key == query)
        mask = torch.zeros(self.batch, 1, width, self.length, dtype=self._mask.dtype, device=seen.device)
        mask.masked_fill_(~sees[:, None], out)
        where = (real_BT.long().cumsum(1) - 1).clamp(min=0)
        logits = _call(self.model, tokens_BT, mask, where, self.cache)
        del mask, sees
        self._where.copy_(where[:, -1:])
        self._mask.zero_().masked_fill_(~seen[:, None, None, :], out)
        at = width
        while True:
            token = yield logits
            self._token.copy_(token[:, None])
            self._where += 1
            self._mask[..., at] = 0
            at += 1
            logits = self._step()

    def _step(self) -> Tensor:
        if not self._wants_graph:
            return _call(self.model, self._token, self._mask, self._where, self.cache)
        if self.graph is None:
            self._capture()
        self.graph.replay()
        assert self._logits is not None
        return self._logits

    def _capture(self) -> None:
        """Record one step. Warming up and recording write no token: the cache's length is put back."""
        lengths = [layer.cumulative_length for layer in self.cache.layers]
        before = [length.clone() for length in lengths]

        def back() -> None:
            for length, value in zip(lengths, before, strict=True):
                length.copy_(value)

        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries make their handles and workspaces outside of the recording
            for _ in range(2):
                _call(self.model, self._token, self._mask, self._where, self.cache)
                back()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._logits = _call(self.model, self._token, self._mask, self._where, self.cache)
        back()
