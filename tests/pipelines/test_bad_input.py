"""Does bad input get one clear error and leave no half artifact?"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from energyd_pipelines import checkpoints, models, strings_task
from energyd_pipelines.cli import cli
from energyd_pipelines.config import ModelConfig

SMALLEST = (
    "students=[{name: S, width: 16, layers: 1, heads: 2}]", "data.n=64", "data.n_eval=10", "train.batch=16",
    "train.steps=2", "prerun.idle_s=0",
)  # fmt: skip


def distill(*words: str) -> tuple[int, str]:
    """(exit code, what stderr says)."""
    result = CliRunner().invoke(cli, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def refused(*words: str, code: int = 1) -> str:
    got, said = distill("run", "quick", *SMALLEST, *words)
    assert (got, len(said.splitlines()) <= 3) == (code, True), said
    assert said.startswith("distill: ")
    return said


def artifacts(folder: Path) -> list[str]:
    """What anybody would take for an artifact."""
    return [p.parent.name for p in folder.glob("artifacts/*/*/manifest.json")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("kd.kk=3",), 2, "unknown key kd.kk"),
        (("pipelines=[kd]", "kd.k=41"), 2, "kd.k is 41, the vocabulary has 40 tokens"),
        (("pipelines=[kd]", "teacher=null"), 2, "needs a teacher"),
        (("pipelines=[synthetic]", "teacher.ref=builtin:other"), 2, "is shipped"),
        (("students.0.ref=/nowhere/model", "pipelines=[sft]"), 1, "no tokenizer"),
        (("device=cuda",), 2, "no CUDA device"),
        (("device=tpu",), 2, "device is 'tpu'"),
        (("train.attention=flash_attention_2",), 2, "train.attention is flash_attention_2"),
        (("train.optimizer=adamw", "train.lora={r: 2, targets: nothing}"), 2, "no adapters on 'nothing'"),
        (("train.batch=65",), 2, "fewer than one batch"),
        (("kd.k=41",), 2, "kd.k is 41, the vocabulary has 40 tokens"),
        (
            ("pipelines=[sft]", "train.optimizer=adamw", "train.lr=1e30", "train.steps=6"), 1,
            "the student diverged",
        ),
        (("pipelines=[sft]", "students.0.width=400000"), 1, "does not fit in the memory of cpu"),
        (
            ("pipelines=[sft]", "train.optimizer=adamw", "train.lora.r=4", "train.lora.targets=nosuch"), 2,
            "no adapters on",
        ),
        (("--resume",), 1, "nothing to resume"),
        (("out=/proc/nowhere",), 2, "results cannot be put there"),
        (("reuse.root=/proc/nowhere", "pipelines=[kd]"), 1, "a reuse.root that you may write to"),
        (("--regenerate", " ", "pipelines=[kd]"), 2, "needs a reason"),
    ],
)
def test_what_cannot_be_is_refused_in_three_lines(
    unmeasured: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    assert said in refused(*words, code=code)
    assert artifacts(unmeasured) == []
    assert not list(unmeasured.glob("runs/*/*/result.json"))


def test_a_missing_column_names_the_line_and_the_columns_there_are(unmeasured: Path) -> None:
    (unmeasured / "d.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    models_folder = unmeasured / "m"
    tokenizer(models_folder, "abc")
    words = ("data.task=jsonl", "data.path=d.jsonl", f"data.tokenizer={models_folder}", "pipelines=[sft]")
    said = refused(*words)
    assert "d.jsonl, line 1" in said
    assert "question, answer" in said


def tokenizer(folder: Path, letters: str) -> None:
    """A tokenizer of transformers, one token a letter, saved."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    vocabulary = {s: i for i, s in enumerate(["<pad>", "<eos>", "<unk>", *letters])}
    inner = Tokenizer(kinds.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    made.save_pretrained(folder)


def saved_model(folder: Path, letters: str) -> None:
    import torch

    model = models.build(
        ModelConfig(name="m", width=16, layers=1, heads=2), vocab_size=40, pad_id=0, eos_id=1, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    checkpoints.save_student(folder, model)
    tokenizer(folder, letters)


def records(path: Path, n: int = 40) -> None:
    lines = [{"prompt": "ab" * (i % 3 + 1), "completion": "c" * (i % 4 + 1)} for i in range(n)]
    path.write_text("".join(json.dumps(r) + "\n" for r in lines))


def test_a_teacher_of_another_tokenizer_is_refused_and_one_of_the_same_is_not(unmeasured: Path) -> None:
    saved_model(unmeasured / "student", "abc")
    saved_model(unmeasured / "other", "bac")
    records(unmeasured / "d.jsonl")
    words = (
        "data.task=jsonl", "data.path=d.jsonl", "data.n=0", "students=[{name: S, ref: student}]",
        "pipelines=[kd]", "train.optimizer=adafactor", "kd.k=2",
    )  # fmt: skip
    said = refused(*words, "teacher={name: T, ref: other}")
    assert "another tokenizer than the data" in said
    said = refused(*words, "data.tokenizer=other", "pipelines=[sft]")
    assert "student S has another tokenizer" in said
    assert artifacts(unmeasured) == []
    code, said = distill("run", "quick", *SMALLEST, *words, "teacher={name: T, ref: student}")
    assert code == 0, said
    assert len(artifacts(unmeasured)) == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [("model.safetensors", "cut"), ("model.safetensors", "changed"), ("tokenizer.json", "changed")],
)
def test_a_damaged_file_of_a_model_is_one_clear_error(unmeasured: Path, name: str, damage: str) -> None:
    saved_model(unmeasured / "m", "abc")
    records(unmeasured / "d.jsonl")
    file = unmeasured / "m" / name
    whole = bytearray(file.read_bytes())
    whole[9] ^= 0x40
    file.write_bytes(whole if damage == "changed" else whole[: len(whole) // 2])
    words = ("data.task=jsonl", "data.path=d.jsonl", "data.n=0", "train.optimizer=adafactor")
    refused(*words, "students=[{name: S, ref: m}]", "pipelines=[sft]")


def test_a_corrupted_cache_stops_the_run_and_a_reason_makes_it_again(unmeasured: Path) -> None:
    words = ("run", "quick", *SMALLEST, "pipelines=[kd]")
    assert distill(*words)[0] == 0
    rows = next(unmeasured.glob("artifacts/logits/*/rows.bin"))
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 1
    rows.write_bytes(data)
    said = refused("pipelines=[kd]")
    assert "damaged" in said
    assert "--regenerate" in said
    assert distill(*words, "--regenerate", "a bit flipped")[0] == 0
    assert distill(*words)[0] == 0
    manifest = json.loads(next(unmeasured.glob("artifacts/logits/*/manifest.json")).read_text())
    assert manifest["regenerated"]["reason"] == "a bit flipped"


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file of this process may grow beyond 30,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_room")
def test_a_disk_without_space_leaves_no_artifact_and_says_where(unmeasured: Path) -> None:
    said = refused("pipelines=[kd]", "data.n=400")
    assert "larger than allowed" in said
    assert "artifacts/logits" in said
    assert artifacts(unmeasured) == []
    assert not list(unmeasured.glob("artifacts/logits/.drafts/*"))


@pytest.mark.usefixtures("no_room")
def test_a_student_that_finds_no_room_is_an_error_of_ours_and_leaves_no_half_of_it(unmeasured: Path) -> None:
    said = refused("pipelines=[sft]", "students.0.width=64", "students.0.ffn=64")
    assert "cannot write" in said
    assert "--resume" in said
    assert not list(unmeasured.glob("runs/*/*/student*"))


@pytest.mark.usefixtures("no_room")
def test_data_that_find_no_room_give_back_what_they_took(unmeasured: Path) -> None:
    assert "cannot write" in refused("pipelines=[sft]", "data.n=2000")
    assert not list(unmeasured.glob("runs/*/*/*.new*"))


def test_artifacts_that_may_only_be_read_are_used_and_the_store_alone_counts_it(
    unmeasured: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("run", "quick", *SMALLEST, "pipelines=[kd]")
    assert distill(*words)[0] == 0
    uses = next(unmeasured.glob("artifacts/logits/*/uses.jsonl"))
    uses.unlink()
    uses.symlink_to("/proc/nowhere")  # takes no line, root's neither
    assert distill(*words)[0] == 0
    assert "this use is counted in the store alone" in caplog.text
    assert len(list(unmeasured.glob("runs/*/kd-S-0/result.json"))) == 2


def test_an_interrupted_study_says_how_it_goes_on(unmeasured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run", "quick", *SMALLEST, "pipelines=[sft]")

    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupting:
        interrupting.setattr(checkpoints, "save_student", ctrl_c)
        code, said = distill(*words)
    assert (code, said.splitlines()[0]) == (130, "distill: interrupted")
    assert "--resume goes on" in said
    assert distill(*words, "--resume")[0] == 0
    found = json.loads(next(unmeasured.glob("runs/*/*/result.json")).read_text())
    assert (found["attempts"], len(found["run_ids"])) == (2, 2)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"run_ids": 3}'])
def test_a_damaged_state_or_result_of_a_cell_is_one_clear_error(
    unmeasured: Path, text: str
) -> None:
    words = ("pipelines=[sft]", "train.steps=2")
    assert distill("run", "quick", *SMALLEST, *words)[0] == 0
    result = next(unmeasured.glob("runs/*/*/result.json"))
    result.write_text(text)
    assert "came to cannot be read" in refused(*words, "--resume")
    code, said = distill("metrics", str(result.parent), "none.json")
    assert (code, "came to cannot be read" in said) == (1, True)
    result.unlink()
    state = result.with_name("state.json")
    kept = state.read_text()
    state.write_text(text)
    assert "had come cannot be read" in refused(*words, "--resume")
    state.write_text(kept)
    assert distill("run", "quick", *SMALLEST, *words, "--resume")[0] == 0
    assert result.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "qick"), "did you mean quick?"),
        (("run", "h100", "--seeds", "3"), "goes on by itself"),
        (("list",), "Did you mean: artifacts list?"),
    ],
)
def test_a_word_nearly_right_is_answered_with_the_right_one(words: tuple[str, ...], said: str) -> None:
    code, told = distill(*words)
    assert code == 2
    assert said in told


def test_training_to_a_target_stops_at_the_first_evaluation_that_reaches_it(unmeasured: Path) -> None:
    words = ("pipelines=[sft]", "train.steps=12", "train.eval_every=4", "train.stop=to_target")
    words += ("train.metric=nll",)
    results = []
    for target in (100.0, 0.0):  # nats: less is better
        code, said = distill("run", "quick", *SMALLEST, *words, f"train.target={target}", f"out=to-{target}")
        assert code == 0, said
        found = json.loads(next(unmeasured.glob(f"to-{target}/*/*/result.json")).read_text())
        results.append((found["training"]["steps"], found["training"]["reached"]))
    assert results == [(4, True), (12, False)]


def test_a_target_that_was_reached_leaves_no_checkpoint_from_which_to_learn_on(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the target and before the end: the next attempt must stop where this one did."""
    kept: list[int] = []
    save = checkpoints.save

    def keep(path: Path, model: Any, optimiser: Any, step: int) -> None:
        kept.append(step)
        save(path, model, optimiser, step)

    monkeypatch.setattr(checkpoints, "save", keep)
    words = ["pipelines=[sft]", "train.steps=12", "train.eval_every=4", "train.checkpoint_every=2",
             "train.stop=to_target", "train.metric=nll", "train.target=100.0"]  # fmt: skip

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(checkpoints, "save_student", killed)
        distill("run", "quick", *SMALLEST, *words)
    assert kept == [2]
    code, said = distill("run", "quick", *SMALLEST, *words, "--resume")
    assert code == 0, said
    found = json.loads(next(unmeasured.glob("runs/*/*/result.json")).read_text())
    assert (found["attempts"], found["training"]["steps"]) == (2, 4)


def test_a_preset_is_shown_whole_and_presets_are_listed() -> None:
    shown = CliRunner().invoke(cli, ["config", "quick", "train.steps=7"])
    assert "steps: 7" in shown.output
    assert "gradient_checkpointing: false" in shown.output
    assert {"tiny", "quick"} <= set(CliRunner().invoke(cli, ["presets"]).output.split())


def test_the_tokenizer_of_the_task_is_the_shipped_teachers() -> None:
    from energyd_pipelines.builtin import manifest_of

    manifest: dict[str, Any] = manifest_of("builtin:strings-v1")
    assert manifest["tokenizer_hash"] == strings_task.CharTokenizer().hash
    assert manifest["quality"]["exact_match"] >= 0.94
    assert manifest["production"]["origin"] == "reported"
