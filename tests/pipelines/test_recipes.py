"""Do the recipes do what their settings say, from the teacher's work to what is learnt and gone on with?"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from energyd_pipelines.artifacts.spec import ArtifactSpec
from energyd_pipelines.config import load
from energyd_pipelines.errors import DistillError
from energyd_pipelines.grid import run_grid

SMALLEST = (
    "students=[{name: S, width: 16, layers: 1, heads: 2}]", "data.n=64", "data.n_eval=10", "train.batch=16",
    "train.steps=3", "prerun.idle_s=0",
)  # fmt: skip
ITSELF = "students=[{name: T, ref: 'builtin:strings-v1'}]"
TWO_SIZES = "students=[{name: S, width: 16, layers: 1, heads: 2}, {name: M, width: 16, layers: 1, heads: 2}]"
PEFT = "ignore:.*gradient_checkpointing:FutureWarning"  # so do peft and older releases ask
ADAPTERS = ("pipelines=[sft]", "train.lora.r=4", "train.optimizer=adamw", "train.lr=0.05")


def study(folder: Path, *words: str) -> list[dict[str, Any]]:
    return run_grid(load("quick", [*SMALLEST, *words]), "quick", folder)


def made(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob(f"artifacts/{kind}/*/manifest.json")]


# ---- what is learnt from a cache -------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("kd.tau=1", "kd.k=8"), ("kd.tau=4", "kd.k=40"), ("train.micro_batch=5",)])
def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_its_cache(
    unmeasured: Path, words: tuple[str, ...]
) -> None:
    """Of one target at another's position its loss would be whole nats: so each batch finds its own."""
    (found,) = study(
        unmeasured / "runs", ITSELF, "pipelines=[kd]", "kd.alpha=0", "kd.k=8", "train.lr=1e-12",
        "train.warmup=0", *words,
    )  # fmt: skip
    assert 0 <= found["training"]["loss"] < 2e-3  # nats; the cache's values are fp16


def test_alpha_one_is_the_baseline_and_less_is_another_student(unmeasured: Path) -> None:
    (sft,) = study(unmeasured / "sft", "pipelines=[sft]")
    (labels,) = study(unmeasured / "labels", "pipelines=[kd]", "kd.alpha=1")
    (both,) = study(unmeasured / "both", "pipelines=[kd]", "kd.alpha=0.3")
    assert labels["nll"] == pytest.approx(sft["nll"], rel=1e-6)
    assert both["nll"] != pytest.approx(sft["nll"], rel=1e-6)


def test_each_tail_makes_another_student_and_the_bucket_is_the_usual_one(unmeasured: Path) -> None:
    unsure = "teacher={name: T, ref: olmo2-tiny, weights: random}"  # its top 2 hold little of its mass
    words = ("pipelines=[kd]", "kd.alpha=0", "kd.k=2", unsure)
    nll = [study(unmeasured / t, *words, f"kd.tail={t}")[0]["nll"] for t in ("bucket", "renorm", "none")]
    assert len(set(nll)) == 3
    assert study(unmeasured / "usual", *words)[0]["nll"] == nll[0]


def test_another_temperature_and_fewer_logits_ask_no_teacher(unmeasured: Path) -> None:
    study(unmeasured / "first", "pipelines=[kd]")
    (other,) = study(unmeasured / "other", "pipelines=[kd]", "kd.tau=4", "kd.k=3", "kd.alpha=0")
    assert [s["stage"] for s in other["saved"]] == ["teacher.logits"]
    assert len(made(unmeasured, "logits")) == 1
    study(unmeasured / "more", "pipelines=[kd]", "kd.k=9")  # what is not there is made
    assert sorted(m["spec"]["k"] for m in made(unmeasured, "logits")) == [8, 9]


# ---- what names a teacher's work -------------------------------------------------------------------------

DRAWN = "generate.temperature=0.7"
UNLEARNT = "teacher={name: strings-v1, ref: olmo2-tiny, weights: random}"
LOGITS = (
    "data.noise=0.1", "data.seed=1", "data.n=63", "kd.k=9", "kd.temperatures=[1, 3]", "kd.tau=3",
    "teacher.revision=abc", UNLEARNT,
)  # fmt: skip
ANSWERS = (
    "data.noise=0.1", "data.seed=1", "data.n=63", "generate.max_new=3", "generate.prompts=8",
    UNLEARNT, "generate.top_p=0.9", "generate.temperature=0.8", "generate.seed=1",
    "generate.batch=8",
)  # fmt: skip


class Seen(DistillError):
    """The specification that a recipe asked for."""

    def __init__(self, spec: ArtifactSpec) -> None:
        super().__init__("seen")
        self.spec = spec


@pytest.mark.parametrize(("pipeline", "decides"), [("kd", LOGITS), ("synthetic", ANSWERS)])
def test_what_decides_a_teachers_work_names_another_artifact_and_nothing_else_does(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str, decides: tuple[str, ...]
) -> None:
    def asked(cell: Any, run: Any, spec: ArtifactSpec, *_: Any) -> None:
        raise Seen(spec)

    monkeypatch.setattr(import_module("energyd_pipelines.recipes.teacher"), "_obtain", asked)

    def named(n: int, *words: str) -> str:
        with pytest.raises(Seen) as seen:
            study(unmeasured / str(n), f"pipelines=[{pipeline}]", DRAWN, *words)
        return seen.value.spec.id

    usual = named(0)
    ids = [named(1 + n, word) for n, word in enumerate(decides)]
    assert len({usual, *ids}) == 1 + len(decides), dict(zip(decides, ids, strict=True))
    aside = ("train.steps=9", "train.lr=0.5", "kd.alpha=0.9", "kd.batch=3", "seeds=[7]", "evaluate.n=3")
    for n, word in enumerate(aside):
        assert named(100 + n, word) == usual, word


def test_how_the_teacher_generates_is_what_the_settings_say(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = import_module("energyd_pipelines.recipes.teacher")
    asked: dict[str, Any] = {}

    def generate(*given: Any, then: Any = recipe.generate, **settings: Any) -> Any:
        asked.update(settings)
        return then(*given, **settings)

    monkeypatch.setattr(recipe, "generate", generate)
    wanted = {"temperature": 0.5, "top_p": 0.8, "max_new": 3, "batch": 7, "graph": True, "seed": 4}
    study(unmeasured / "one", "pipelines=[synthetic]", f"generate={json.dumps(wanted)}")
    assert {name: asked[name] for name in wanted} == wanted
    assert (asked["static_cache"], asked["eos_id"], asked["pad_id"]) == (True, 1, 0)
    study(unmeasured / "two", "pipelines=[synthetic]")
    assert (asked["batch"], asked["graph"]) == (None, False)  # the largest that fits


def test_other_weights_under_the_same_name_are_another_teacher(unmeasured: Path) -> None:
    study(unmeasured / "t", "pipelines=[sft]")
    student = unmeasured / "t" / "sft-S-0" / "student"
    teacher = "teacher={name: T, ref: t/sft-S-0/student}"
    study(unmeasured / "one", "pipelines=[kd]", teacher)
    weights = student / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    study(unmeasured / "two", "pipelines=[kd]", teacher)
    assert len(made(unmeasured, "logits")) == 2


def test_what_a_teacher_made_names_it_and_what_training_it_took(unmeasured: Path) -> None:
    study(unmeasured / "one", "pipelines=[kd, synthetic]")
    for kind in ("logits", "synthetic"):
        ((parent,),) = [m["parents"] for m in made(unmeasured, kind)]
        assert (parent["id"], parent["kind"]) == ("builtin:strings-v1", "teacher")
        assert (parent["total_j"], parent["origin"]) == (pytest.approx(320.1, abs=0.1), "reported")
    # One of ours has its manifest beside it; what that does not know stays null.
    ours = json.loads((unmeasured / "one" / "kd-S-0" / "student" / "manifest.json").read_text())
    study(unmeasured / "two", "pipelines=[kd]", "teacher={name: T, ref: one/kd-S-0/student}")
    ((parent,),) = [m["parents"] for m in made(unmeasured, "logits") if m["spec"]["teacher"] == "T"]
    assert (parent["artifact_id"], parent["total_j"]) == (ours["artifact_id"], None)


@pytest.mark.parametrize("pipeline", ["kd", "synthetic"])
def test_a_teachers_weights_are_hashed_before_its_stage_and_not_in_its_energy(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    recipe = import_module("energyd_pipelines.recipes.teacher")
    order: list[str] = []

    def told(name: str) -> Any:
        then = getattr(recipe, name)

        def called(*given: Any) -> Any:
            order.append(name)
            return then(*given)

        return called

    for name in ("weights_hash_of", "_teacher"):
        monkeypatch.setattr(recipe, name, told(name))
    study(unmeasured / "one", f"pipelines=[{pipeline}]")
    assert order == ["weights_hash_of", "_teacher"]


def test_a_reason_makes_it_again_once_for_all_sizes(unmeasured: Path) -> None:
    words = ("pipelines=[kd]", TWO_SIZES, "seeds=[0, 1]")
    study(unmeasured / "one", *words)
    again = study(unmeasured / "two", *words, "reuse.regenerate=a wrong prompt")
    assert [len(r["saved"]) for r in again] == [0, 1, 1, 1]
    assert len(list(unmeasured.glob("artifacts/logits/.superseded/*"))) == 1
    study(unmeasured / "three", *words, "reuse.regenerate=and again")  # another study, another reason
    assert len(list(unmeasured.glob("artifacts/logits/.superseded/*"))) == 2


def test_whether_it_was_made_again_is_not_asked_of_a_damaged_cell_without_a_word(unmeasured: Path) -> None:
    words = ("pipelines=[kd]", "seeds=[0, 1]", "reuse.regenerate=a wrong prompt")
    study(unmeasured / "one", *words)
    beside = unmeasured / "two" / "kd-S-1"
    beside.mkdir(parents=True)
    (beside / "state.json").write_text("{")
    with pytest.raises(DistillError, match="how far this cell had come cannot be read"):
        study(unmeasured / "two", *words)


# ---- which models ----------------------------------------------------------------------------------------


def tokenizer(folder: Path) -> None:
    """Seven tokens, saved as transformers' are."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {s: i for i, s in enumerate(["<pad>", "<eos>", "?", *"abcd"])}
    inner = Tokenizer(WordLevel(ids, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="?"
    ).save_pretrained(folder)


def words_of(folder: Path) -> tuple[str, ...]:
    """Settings of a study on a file, by a tokenizer of transformers."""
    tokenizer(folder / "tok")
    rows = [{"prompt": "ab" * (i % 3 + 1), "completion": "cd" * (i % 4 + 1)} for i in range(40)]
    (folder / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return (
        "data.task=jsonl", "data.path=d.jsonl", "data.n=0", "data.tokenizer=tok", "kd.k=3",
        "train.optimizer=adafactor", "generate.max_new=4",
    )  # fmt: skip


@pytest.mark.filterwarnings(PEFT)
def test_random_weights_of_a_true_shape_go_through_every_recipe(unmeasured: Path) -> None:
    shape = "ref: olmo2-tiny, weights: random"
    found = study(
        unmeasured / "runs", *words_of(unmeasured), f"students=[{{name: S, {shape}}}]",
        f"teacher={{name: T, {shape}}}", "train.dtype=bfloat16", "train.gradient_checkpointing=true",
        "train.attention=eager",
    )  # fmt: skip
    assert [r["training"]["steps"] for r in found] == [3, 3, 3]
    assert all(0 < r["training"]["loss"] < 20 for r in found)
    config = json.loads((unmeasured / "runs" / "sft-S-0" / "student" / "config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"]) == (64, 512)


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen3", "GPTNeoX"])
def test_models_of_other_families_teach_and_learn(unmeasured: Path, family: str) -> None:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"n_positions": 64} if family == "GPT2" else {"intermediate_size": 16}
    sizes |= {"head_dim": 8, "num_key_value_heads": 1} if family == "Qwen3" else {}
    shape = getattr(transformers, f"{family}Config")(vocab_size=7, bos_token_id=1, eos_token_id=1, **sizes)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    getattr(transformers, name)(shape).save_pretrained(unmeasured / "m")
    found = study(
        unmeasured / "runs", *words_of(unmeasured), "students=[{name: S, ref: m}]",
        "teacher={name: T, ref: m}", "train.lr=0.05",
    )  # fmt: skip
    assert [r["training"]["steps"] for r in found] == [3, 3, 3]
    (written,) = made(unmeasured, "synthetic")
    assert 30 <= written["ledger"]["generated"] <= 4 * 30


def test_weights_that_are_damaged_are_named(unmeasured: Path) -> None:
    study(unmeasured / "t", "pipelines=[sft]")
    weights = unmeasured / "t" / "sft-S-0" / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DistillError, match="no model t/sft-S-0/student") as refused:
        study(unmeasured / "two", "pipelines=[kd]", "teacher={name: T, ref: t/sft-S-0/student}")
    assert len(str(refused.value).splitlines()) == 3
    assert made(unmeasured, "logits") == []


# ---- gone on with ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(PEFT)
def test_adapters_that_were_killed_before_evaluation_are_found_on_the_weights_they_adapt(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unbroken,) = study(unmeasured / "unbroken", *ADAPTERS)
    (untrained,) = study(unmeasured / "untrained", *ADAPTERS, "train.lr=1e-12")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(import_module("energyd_pipelines.recipes.sft"), "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            study(unmeasured / "killed", *ADAPTERS)
    (found,) = study(unmeasured / "killed", *ADAPTERS)
    assert (found["attempts"], found["nll"]) == (2, pytest.approx(unbroken["nll"], rel=1e-6))
    assert found["nll"] != pytest.approx(untrained["nll"], rel=1e-3)


def test_the_settings_of_every_cell_lie_beside_it_and_are_those_it_ran_by(unmeasured: Path) -> None:
    words = ("pipelines=[sft]", "train.steps=2", "train.warmup=1")
    study(unmeasured / "one", *words)
    assert load(str(unmeasured / "one" / "sft-S-0" / "config.yaml")) == load("quick", [*SMALLEST, *words])


@pytest.mark.long  # the preset as it is: half a minute of a core
def test_every_pipeline_of_quick_learns_far_above_chance_and_the_same_again(unmeasured: Path) -> None:
    found = [run_grid(load("quick", ["prerun.idle_s=0"]), "quick", unmeasured / n) for n in ("one", "two")]
    assert [r["pipeline"] for r in found[0]] == ["sft", "kd", "synthetic"]
    for once, again in zip(*found, strict=True):
        # By chance only a count of four digits is right now and then: 0.05 of all.
        assert once["exact_match"] > 0.2
        assert (once["exact_match"], once["nll"]) == (again["exact_match"], again["nll"])
