"""Is a step the mean over label tokens however it is cut, and is training the same twice?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from energyd_pipelines import checkpoints, models
from energyd_pipelines.batches import Schedule, collate
from energyd_pipelines.config import DataConfig, LoraConfig, ModelConfig, TrainConfig
from energyd_pipelines.data import Prepared, prepare
from energyd_pipelines.errors import DistillError
from energyd_pipelines.evaluate import evaluate
from energyd_pipelines.examples import Dataset, Example
from energyd_pipelines.generate import generate
from energyd_pipelines.identity import tokenizer_hash_of
from energyd_pipelines.losses import ce
from energyd_pipelines.optimisers import Together, optimiser_of, orthogonal, rate
from energyd_pipelines.strings_task import CharTokenizer
from energyd_pipelines.training import train_step

CPU = torch.device("cpu")
SMALL = ModelConfig(name="S", width=16, layers=1, heads=2)
TRAIN = TrainConfig(optimizer="muon", lr=0.02, batch=16, steps=20)


@pytest.fixture(scope="module")
def data() -> Prepared:
    torch.set_num_threads(1)
    return prepare(DataConfig(n=200, n_eval=40), CharTokenizer())


def model(train: TrainConfig | None = TRAIN, wanted: ModelConfig = SMALL, seed: int = 0) -> Any:
    t = CharTokenizer()
    return models.build(
        wanted, vocab_size=t.vocab_size, pad_id=t.pad_id, eos_id=t.eos_id, seed=seed, device=CPU, train=train
    )


def steps(student: Any, optimiser: Together, data: Prepared, first: int, last: int) -> list[float]:
    schedule = Schedule(data.train, batch=16, seed=0)
    losses = []
    for i in range(first, last):
        optimiser.scale(rate(i, TRAIN))
        losses.append(
            train_step(student, schedule.step(i), ce, None, optimiser, device=CPU, clip=1.0).loss_mean
        )
    return losses


def test_a_step_cut_into_unequal_micro_batches_moves_the_weights_as_the_whole_does(data: Prepared) -> None:
    rows = list(range(16))
    moved = []
    for cuts in ([rows], [rows[:1], rows[1:10], rows[10:]]):
        student = model(TrainConfig(optimizer="adamw", lr=0.01))
        optimiser = Together([torch.optim.SGD(student.parameters(), lr=1.0)])
        micro = [collate(data.train, cut) for cut in cuts]
        result = train_step(student, micro, ce, None, optimiser, device=CPU, clip=0.0)
        moved.append((result, student.lm_head.weight.detach().clone()))
    assert moved[0][0].loss_mean == pytest.approx(moved[1][0].loss_mean, rel=1e-5)
    assert moved[0][0].counts.label == moved[1][0].counts.label
    assert torch.allclose(moved[0][1], moved[1][1], atol=1e-6)
    assert not torch.allclose(moved[0][1], model().lm_head.weight, atol=1e-4)


def test_the_mean_is_over_label_tokens_not_over_micro_batches(data: Prepared) -> None:
    batch = collate(data.train, list(range(8)))
    student = model()
    result = train_step(student, [batch], ce, None, Together([torch.optim.SGD(student.parameters(), lr=0.0)]),
                        device=CPU, clip=0.0)  # fmt: skip
    with torch.no_grad():
        logits = student(input_ids=batch.tokens_BT).logits[:, :-1]
    wanted = batch.labels_BT[:, 1:]
    picked = wanted != -100
    expected = -logits.log_softmax(-1)[picked].gather(1, wanted[picked][:, None]).mean()
    assert result.loss_mean == pytest.approx(expected.item(), rel=1e-5)


def test_a_fixed_seed_gives_the_same_losses_and_another_seed_others(data: Prepared) -> None:
    def run(seed: int) -> list[float]:
        student = model(seed=seed)
        return steps(student, optimiser_of(student, TRAIN), data, 0, 4)

    assert run(0) == run(0) != run(1)


def test_a_resumed_training_goes_on_exactly_as_an_unbroken_one(data: Prepared, tmp_path: Path) -> None:
    unbroken = model()
    steps(unbroken, optimiser_of(unbroken, TRAIN), data, 0, 8)
    first = model()
    optimiser = optimiser_of(first, TRAIN)
    steps(first, optimiser, data, 0, 5)
    checkpoints.save(tmp_path / "c.pt", first, optimiser, 5)
    second = model(seed=9)
    optimiser = optimiser_of(second, TRAIN)
    at = checkpoints.load(tmp_path / "c.pt", second, optimiser, CPU)
    assert at == 5
    steps(second, optimiser, data, at, 8)
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_a_damaged_checkpoint_is_named(data: Prepared, tmp_path: Path) -> None:
    student = model()
    optimiser = optimiser_of(student, TRAIN)
    checkpoints.save(tmp_path / "c.pt", student, optimiser, 5)
    whole = (tmp_path / "c.pt").read_bytes()
    weight = next(student.parameters()).detach().numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(weight) + 2] ^= 1  # one weight would be another, and nobody told
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b""):
        (tmp_path / "c.pt").write_bytes(damaged)
        with pytest.raises(DistillError, match="checkpoint cannot be read"):
            checkpoints.load(tmp_path / "c.pt", student, optimiser, CPU)


def test_exact_match_in_one_pass_is_that_of_greedy_decoding(data: Prepared) -> None:
    teacher = model(None, ModelConfig(name="t", ref="builtin:strings-v1"))
    held = data.held_out
    quality = evaluate(teacher, held, data.groups, batch=16, device=CPU)
    prompts = [e.tokens[: e.prompt] for e in held.examples]
    said = {
        g.index: g.tokens.tolist()
        for g in generate(teacher, prompts, max_new=12, eos_id=held.eos_id, pad_id=held.pad_id, batch=16)
    }
    right: dict[str, list[bool]] = {}
    for i, e in enumerate(held.examples):
        right.setdefault(data.groups[i], []).append(said[i] == e.tokens.tolist())
    assert quality.groups == {g: sum(r) / len(r) for g, r in sorted(right.items())}
    assert quality.exact_match > 0.9
    untrained = evaluate(model(), held, data.groups, batch=16, device=CPU)
    assert untrained.exact_match < 0.1
    assert untrained.nll > 3 > quality.nll


def test_every_group_weighs_alike_and_every_label_does(data: Prepared) -> None:
    teacher = model(None, ModelConfig(name="t", ref="builtin:strings-v1"))
    held = data.held_out
    examples = [Example(e.tokens.copy(), e.prompt) for e in held.examples]
    examples[0].tokens[examples[0].prompt] ^= 1  # so the teacher's answer to it is wrong
    spoilt = Dataset(examples, "h", held.tokenizer_hash, held.vocab_size, held.pad_id, held.eos_id)
    first = ["first"] + ["rest"] * (len(examples) - 1)
    found = evaluate(teacher, spoilt, first, batch=7, device=CPU)
    assert found.groups["first"] == 0
    assert found.exact_match == pytest.approx(found.groups["rest"] / 2)
    nats, labels = 0.0, 0
    for e in examples:
        with torch.no_grad():
            logits = teacher(input_ids=torch.from_numpy(e.tokens.astype(np.int64))[None]).logits[0]
        wanted = torch.from_numpy(e.tokens[e.prompt :].astype(np.int64))
        nats -= logits[e.prompt - 1 : -1].log_softmax(-1).gather(1, wanted[:, None]).sum().item()
        labels += e.n_labels
    assert found.nll == pytest.approx(nats / labels, rel=1e-4)
    assert (found.counts.label, found.n) == (labels, len(examples))


def test_muon_makes_singular_values_alike_and_learns(data: Prepared) -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (3, 40, 16), (1, 16, 40)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3
    student = model()
    optimiser = optimiser_of(student, TRAIN)
    losses = steps(student, optimiser, data, 0, 20)
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("name", ["adafactor", "adamw", "muon"])
def test_every_optimiser_learns_and_its_state_is_kept(data: Prepared, name: Any, tmp_path: Path) -> None:
    train = TrainConfig(optimizer=name, lr=0.5 if name == "adafactor" else 0.02, batch=16, steps=20)
    student = model(train)
    optimiser = optimiser_of(student, train)
    losses = steps(student, optimiser, data, 0, 6)
    assert losses[-1] < losses[0]
    checkpoints.save(tmp_path / "c.pt", student, optimiser, 6)
    again = optimiser_of(student, train)
    assert checkpoints.load(tmp_path / "c.pt", student, again, CPU) == 6
    assert str(again.state_dict()) == str(optimiser.state_dict())


def test_the_learning_rate_climbs_and_falls_to_a_tenth() -> None:
    train = TrainConfig(steps=100, warmup=10)
    assert rate(0, train) == pytest.approx(0.1)
    assert rate(9, train) == 1
    assert rate(100, train) == pytest.approx(0.1)


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning"
)  # so do peft and older releases ask
def test_adapters_alone_learn_in_bf16_with_gradient_checkpointing(data: Prepared) -> None:
    lora = TrainConfig(
        optimizer="adamw", lr=0.05, batch=16, steps=20, lora=LoraConfig(r=4), dtype="bfloat16",
        gradient_checkpointing=True,
    )  # fmt: skip
    student = model(lora)
    learning = {n for n, p in student.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in n for n in learning)
    frozen = student.base_model.model.model.embed_tokens.weight.clone()
    assert frozen.dtype == torch.bfloat16
    losses = steps(student, optimiser_of(student, lora), data, 0, 6)
    assert losses[-1] < losses[0]
    assert torch.equal(frozen, student.base_model.model.model.embed_tokens.weight)


def test_a_model_in_a_folder_is_loaded_offline_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    saved = model()
    checkpoints.save_student(tmp_path / "m", saved)
    loaded = model(None, ModelConfig(name="m", ref=str(tmp_path / "m")))
    assert torch.equal(loaded.lm_head.weight, saved.lm_head.weight)
    assert tokenizer_hash_of(ModelConfig(name="m", ref=str(tmp_path / "m"))) is None
    with pytest.raises(DistillError, match="no model"):
        model(None, ModelConfig(name="m", ref=str(tmp_path / "nowhere")))
    with pytest.raises(DistillError, match="even multiple"):
        model(wanted=ModelConfig(name="m", width=18, heads=4))
    with pytest.raises(DistillError, match="is shipped"):
        model(None, ModelConfig(name="m", ref="builtin:none"))


def test_a_model_with_fewer_tokens_than_the_data_is_refused() -> None:
    with pytest.raises(DistillError, match="knows 40 tokens, the data have 50"):
        models.build(
            ModelConfig(name="t", ref="builtin:strings-v1"),
            vocab_size=50,
            pad_id=0,
            eos_id=1,
            seed=0,
            device=CPU,
        )
