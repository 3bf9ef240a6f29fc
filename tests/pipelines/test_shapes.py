"""Are the shapes the true ones, and is the arithmetic counted right?"""

from __future__ import annotations

import pytest
import torch

from energyd_pipelines.errors import DistillError
from energyd_pipelines.shapes import random_model, shape_of


@pytest.mark.parametrize(
    ("name", "params_b", "forward_gflop", "kv_bytes"),
    [("1b", 1.485, 2.63, 131_072), ("7b", 7.299, 14.0, 524_288), ("13b", 13.716, 26.8, 819_200),
     ("32b", 32.234, 64.1, 262_144)],
)  # fmt: skip
def test_true_shapes_have_their_published_sizes(
    name: str, params_b: float, forward_gflop: float, kv_bytes: int
) -> None:
    shape = shape_of(f"OLMo2-{name}")
    assert shape.params / 1e9 == pytest.approx(params_b, rel=1e-3)
    assert (shape.body_flops(512) + shape.head_flops) / 1e9 == pytest.approx(forward_gflop, rel=5e-3)
    assert shape.kv_bytes == kv_bytes


def test_a_random_model_has_the_shapes_weights_and_answers_finite_numbers() -> None:
    shape = shape_of("tiny")
    model = random_model(shape, device="cpu", seed=1)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert matrices == shape.params
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    logits = model(input_ids=torch.arange(3, 19)[None]).logits
    assert logits.shape == (1, 16, shape.vocab)
    assert torch.isfinite(logits).all()
    again = random_model(shape, device="cpu", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_random_models_positions_are_those_of_a_model_made_the_usual_way() -> None:
    from transformers import Olmo2ForCausalLM

    model = random_model(shape_of("tiny"), device="cpu", dtype=torch.float32)
    usual = Olmo2ForCausalLM(model.config)
    usual.load_state_dict(model.state_dict())
    tokens = torch.arange(3, 40)[None]
    torch.testing.assert_close(model(input_ids=tokens).logits, usual(input_ids=tokens).logits)


def test_an_unknown_shape_is_told_which_there_are() -> None:
    with pytest.raises(DistillError, match="no shape '8b'"):
        shape_of("8b")
