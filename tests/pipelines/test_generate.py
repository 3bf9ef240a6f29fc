"""Does batched, padded, cached generation say what the model says of one prompt alone?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from energyd_pipelines.errors import DistillError
from energyd_pipelines.generate import generate, largest_batch
from energyd_pipelines.grouped import NAME, grouped_attention
from energyd_pipelines.shapes import random_model, shape_of

PAD, NEW = 0, 6
SHAPE = shape_of("tiny")


@pytest.fixture(scope="module")
def model() -> Any:
    made = random_model(SHAPE, device="cpu", dtype=torch.float32, seed=3)
    made.eval()
    return made


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    dice = np.random.default_rng(1)
    return [dice.integers(3, SHAPE.vocab, n).astype(np.uint32) for n in (5, 1, 9, 3, 9, 2)]


def alone(model: Any, prompt: np.ndarray, new: int = NEW) -> list[int]:
    """Greedy, one prompt, no cache, no padding: the definition."""
    tokens = [int(t) for t in prompt]
    with torch.no_grad():
        for _ in range(new):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens


def run(model: Any, prompts: list[np.ndarray], **settings: Any) -> dict[int, Any]:
    given = {"max_new": NEW, "eos_id": None, "pad_id": PAD, **settings}
    return {g.index: g for g in generate(model, prompts, **given)}


@pytest.mark.parametrize("static", [True, False], ids=["static", "growing"])
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_every_prompt_survives_and_gets_what_it_gets_alone(
    model: Any, prompts: list[np.ndarray], batch: int, static: bool
) -> None:
    found = run(model, prompts, batch=batch, static_cache=static)
    assert sorted(found) == list(range(len(prompts)))
    for i, prompt in enumerate(prompts):
        assert found[i].tokens[: len(prompt)].tolist() == prompt.tolist()
        assert found[i].tokens.tolist() == alone(model, prompt)
        assert found[i].n_generated == NEW
        assert found[i].tokens.dtype == np.uint32


@pytest.mark.parametrize("static", [True, False], ids=["static", "growing"])
def test_an_answer_ends_with_its_eos_and_only_real_tokens_are_counted(
    model: Any, prompts: list[np.ndarray], static: bool
) -> None:
    eos = alone(model, prompts[0])[len(prompts[0]) + 2]  # what the first one says third
    found = run(model, prompts, batch=6, eos_id=eos, static_cache=static)
    for i, prompt in enumerate(prompts):
        answer = alone(model, prompt)[len(prompt) :]
        wanted = answer[: answer.index(eos) + 1] if eos in answer else answer
        assert found[i].tokens[len(prompt) :].tolist() == wanted
        assert found[i].n_generated == len(wanted)
    assert found[0].n_generated <= 3
    assert sum(g.n_generated for g in found.values()) < NEW * len(prompts)


def test_generation_stops_when_all_have_ended(model: Any, prompts: list[np.ndarray]) -> None:
    eos = alone(model, prompts[0], 1)[-1]
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    hook = model.register_forward_pre_hook(count)
    try:
        found = run(model, prompts[:1], eos_id=eos, max_new=50)
    finally:
        hook.remove()
    assert (found[0].n_generated, steps) == (1, 1)


def test_a_seed_repeats_what_was_drawn_and_another_does_not(model: Any, prompts: list[np.ndarray]) -> None:
    drawn = [
        [run(model, prompts, batch=6, temperature=5.0, seed=seed)[i].tokens.tolist() for i in range(6)]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_tiny_top_p_leaves_the_likeliest_token_alone(model: Any, prompts: list[np.ndarray]) -> None:
    found = run(model, prompts, temperature=3.0, top_p=1e-6, batch=6)
    assert all(found[i].tokens.tolist() == alone(model, prompts[i]) for i in range(6))


def test_drawn_tokens_follow_the_distribution_cut_at_top_p(model: Any) -> None:
    prompt = np.array([7, 8, 9], np.uint32)
    with torch.no_grad():
        p = (model(input_ids=torch.tensor([[7, 8, 9]])).logits[0, -1] / 0.05).softmax(0)
    ranked, ids = p.sort(descending=True)
    top_p = float(ranked[:3].sum()) - 1e-4  # the third passes it, and is the last
    found = run(model, [prompt] * 2000, batch=2000, temperature=0.05, top_p=top_p, max_new=1)
    seen = np.bincount([int(g.tokens[-1]) for g in found.values()], minlength=SHAPE.vocab) / 2000
    assert set(np.flatnonzero(seen)) <= set(ids[:3].tolist())
    kept = (ranked[:3] / ranked[:3].sum()).numpy()
    assert np.abs(seen[ids[:3].numpy()] - kept).max() < 0.05  # 4.5 standard deviations of 2,000 draws


def test_grouped_attention_is_what_repeated_keys_give(model: Any, prompts: list[np.ndarray]) -> None:
    assert SHAPE.heads > SHAPE.kv_heads
    with grouped_attention(model):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "sdpa"
    # Whole answers are compared above; here the numbers themselves, one step with a mask.
    from transformers import StaticCache

    from energyd_pipelines.generate import _call

    tokens, where = torch.tensor([[5, 6, 7]]), torch.arange(3)[None]
    mask = torch.full((1, 1, 3, 8), torch.finfo(torch.float32).min).triu(1)
    last = torch.zeros(1, 1, 1, 8)
    last[..., 4:] = torch.finfo(torch.float32).min
    found = []
    for inside in (False, True):
        cache = StaticCache(config=model.config, max_cache_len=8)
        with torch.inference_mode():
            _call(model, tokens, mask, where, cache)
            if inside:
                with grouped_attention(model):
                    found.append(_call(model, torch.tensor([[9]]), last, torch.tensor([[3]]), cache))
            else:
                found.append(_call(model, torch.tensor([[9]]), last, torch.tensor([[3]]), cache))
    torch.testing.assert_close(found[0], found[1])


def test_the_largest_batch_on_a_cpu_is_no_larger_than_there_are_prompts(model: Any) -> None:
    assert largest_batch(model, prompt=8, max_new=8, of=5) == 8
    assert largest_batch(model, prompt=8, max_new=8) == 64


@pytest.mark.parametrize(
    ("free_gb", "prompt", "batch"), [(17.0, 128, 128), (17.0, 768, 16), (8.5, 768, 8), (0.1, 768, 1)]
)
def test_the_largest_batch_on_a_gpu_is_what_the_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch, free_gb: float, prompt: int, batch: int
) -> None:
    """The 32B teacher beside its weights: 262,144 bytes a token of keys and values, and the prefill."""
    shape = shape_of("32b")
    config = SimpleNamespace(
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, hidden_size=shape.hidden,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn, vocab_size=shape.vocab,
    )  # fmt: skip
    config.get_text_config = lambda: config
    teacher = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=config)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gb * 1e9), int(80e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    found = largest_batch(teacher, prompt=prompt, max_new=128)
    assert found == batch
    a_row = shape.kv_bytes * (prompt + 128) + prompt * 2 * (4 * shape.ffn + 8 * shape.hidden)
    assert found * a_row < free_gb * 1e9 or found == 1
    assert 2 * found * a_row > 0.8 * free_gb * 1e9  # twice as many would leave no room for anything else


def test_a_guessed_batch_that_does_not_fit_is_halved_and_a_wanted_one_is_told(
    model: Any, prompts: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room_for_four(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if len(named["input_ids"]) >= 4:
            raise torch.OutOfMemoryError("made up")

    hook = model.register_forward_pre_hook(no_room_for_four, with_kwargs=True)
    try:
        found = run(model, prompts)
        with pytest.raises(DistillError, match="out of memory: a batch of 4"):
            run(model, prompts, batch=4)
    finally:
        hook.remove()
    assert all(found[i].tokens.tolist() == alone(model, prompts[i]) for i in range(6))


def test_bad_settings_get_one_clear_error(model: Any, prompts: list[np.ndarray]) -> None:
    for bad in ({"max_new": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"batch": 0}):
        with pytest.raises(DistillError, match="generate: "):
            run(model, prompts, **bad)
    with pytest.raises(DistillError, match="prompt 1 is empty"):
        run(model, [prompts[0], np.array([], np.uint32)])
    assert run(model, []) == {}
