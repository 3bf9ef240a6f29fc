"""Do records become the right tokens, labels and held-out examples, and is a bad record named?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energyd_pipelines import strings_task
from energyd_pipelines.config import DataConfig
from energyd_pipelines.data import Flat, prepare
from energyd_pipelines.data_files import read, write
from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import Example

TOKENIZER = strings_task.CharTokenizer()


def jsonl(path: Path, *records: Any) -> DataConfig:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return DataConfig(task="jsonl", path=str(path), n=0, n_eval=1, max_len=64)


def test_the_operations_do_what_their_letters_say() -> None:
    got = {name: operation("badgeb") for name, operation in strings_task.OPERATIONS.items()}
    assert got == {"r": "begdab", "s": "abbdeg", "n": "cbehfc", "u": "badge", "c": "5"}


def test_noise_spoils_about_its_share_of_the_answers_by_one_character() -> None:
    pairs = strings_task.draw(2000, seed=1, noise=0.25)
    wrong = [(p, a) for p, a in pairs if strings_task.OPERATIONS[p[0]](p[2:-1]) != a]
    assert 0.2 < len(wrong) / len(pairs) < 0.3
    for prompt, answer in wrong:
        right = strings_task.OPERATIONS[prompt[0]](prompt[2:-1])
        assert sum(a != b for a, b in zip(answer, right, strict=True)) == 1


def test_held_out_prompts_are_clean_and_never_learnt() -> None:
    prepared = prepare(DataConfig(n=3000, n_eval=300, noise=0.5), TOKENIZER)
    learnt = {TOKENIZER.decode(e.tokens[: e.prompt].tolist()) for e in prepared.train.examples}
    for e, group in zip(prepared.held_out.examples, prepared.groups, strict=True):
        prompt = TOKENIZER.decode(e.tokens[: e.prompt].tolist())
        answer = TOKENIZER.decode(e.tokens[e.prompt :].tolist())
        assert prompt not in learnt
        assert strings_task.OPERATIONS[group](prompt[2:-1]) == answer
        assert e.tokens[-1] == TOKENIZER.eos_id


def test_the_same_seed_gives_the_same_content_hash_and_one_byte_another() -> None:
    one, again = (prepare(DataConfig(n=50, n_eval=5), TOKENIZER).train for _ in range(2))
    assert one.content_hash == again.content_hash
    flat = one.examples
    assert isinstance(flat, Flat)
    flat.tokens[3] ^= 1
    assert flat.hash != again.content_hash


def test_messages_and_prompts_both_become_examples(tmp_path: Path) -> None:
    config = jsonl(
        tmp_path / "a.jsonl",
        {"prompt": "r:abc=", "completion": "cba"},
        {"prompt": "s:cab=", "completion": "abc"},
    )
    prepared = prepare(config, TOKENIZER)
    assert [TOKENIZER.decode(e.tokens.tolist()) for e in prepared.held_out.examples] == ["r:abc=cba"]
    (learnt,) = prepared.train.examples
    assert TOKENIZER.decode(learnt.tokens[learnt.prompt :].tolist()) == "abc"

    class Bytes(strings_task.CharTokenizer):
        def encode(self, text: str) -> list[int]:
            return [2 + ord(c) % 30 for c in text]

    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]
    prepared = prepare(jsonl(tmp_path / "b.jsonl", {"messages": said}, {"messages": said}), Bytes())
    (learnt,) = prepared.train.examples
    assert learnt.n_labels == len("you") + 1
    assert learnt.prompt == len("<|user|>\nhi\n<|assistant|>\n")


def test_a_data_set_of_the_datasets_library_is_read_offline(tmp_path: Path) -> None:
    import datasets

    rows = {"question": ["r:abc=", "s:cab="], "answer": ["cba", "abc"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    config = DataConfig(
        task="datasets", path=str(tmp_path / "d"), prompt="question", completion="answer", n=0, n_eval=1
    )
    assert len(prepare(config, TOKENIZER).train.examples) == 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question": "a", "answer": "b"}, "neither column messages nor prompt and completion"),
        ({"messages": [{"role": "user", "content": "a"}]}, "does not end with an answer"),
        ({"messages": "a"}, "does not end with an answer"),
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "no JSON"),
        ({"prompt": "a", "completion": None}, "completion is null"),
        ({"prompt": None, "completion": "b"}, "prompt is null"),
        ({"prompt": ["a"], "completion": "b"}, "prompt is no text: ['a']"),
        ({"prompt": "a", "completion": True}, "completion is no text: True"),
        ({"prompt": "a", "completion": float("nan")}, "completion is no text: nan"),
        ({"prompt": "\ud800", "completion": "b"}, "prompt is no valid text"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
            "content of assistant is null",
        ),
        (
            {"messages": [{"role": "user", "content": [{}]}, {"role": "assistant", "content": "a"}]},
            "content of user is no text",
        ),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path: Path, record: Any, said: str) -> None:
    config = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, record)
    with pytest.raises(DistillError) as caught:
        prepare(config, TOKENIZER)
    assert said in str(caught.value)
    assert "line 2" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_file_and_too_long_examples_are_told(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="cannot read"):
        prepare(DataConfig(task="jsonl", path=str(tmp_path / "none.jsonl")), TOKENIZER)
    with pytest.raises(DistillError, match="too few examples"):
        prepare(DataConfig(n=20, n_eval=5, max_len=4), TOKENIZER)
    assert prepare(DataConfig(n=200, n_eval=50, max_len=12), TOKENIZER).too_long > 0


def test_prepared_data_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    prepared = prepare(DataConfig(n=30, n_eval=5), TOKENIZER)
    write(tmp_path / "data.npz", prepared)
    again = read(tmp_path / "data.npz", TOKENIZER)
    assert again.train.content_hash == prepared.train.content_hash
    assert again.groups == prepared.groups
    (tmp_path / "data.npz").write_bytes(b"PK not really")
    with pytest.raises(DistillError, match="cannot be read"):
        read(tmp_path / "data.npz", TOKENIZER)


def test_examples_in_arrays_are_a_sequence() -> None:
    flat = Flat.of([Example(np.arange(n, dtype=np.uint32), 1) for n in (3, 5)])
    assert [len(e.tokens) for e in flat] == [3, 5]
    assert flat[-1].tokens.tolist() == [0, 1, 2, 3, 4]
    assert [e.prompt for e in flat[0:2]] == [1, 1]
    with pytest.raises(IndexError):
        flat[2]


def test_how_many_examples_a_file_came_to_is_said_where_it_is_not_what_was_asked_for(tmp_path: Path) -> None:
    records = [{"prompt": "r:abc=", "completion": "cba"}] * 5 + [{"prompt": "r:abc=", "completion": "c" * 30}]
    path, said = tmp_path / "a.jsonl", list[str]()
    found = prepare(replace(jsonl(path, *records), n=9, n_eval=2, max_len=24), TOKENIZER, said.append)
    assert len(found.train.examples) == 3
    assert said[0] == (
        f"{path}: 3 examples to learn from, for data.n is 9 and there are no more, 1 longer than data.max_len"
        " left out; 2 examples held out (data.n_eval)"
    )
    said.clear()
    prepare(replace(jsonl(path, *records[:5]), n=3, n_eval=2), TOKENIZER, said.append)
    assert said[0] == f"{path}: 3 examples to learn from (data.n); 2 examples held out (data.n_eval)"


def test_a_null_column_of_messages_leaves_prompt_and_completion_to_be_read(tmp_path: Path) -> None:
    record = {"messages": None, "prompt": "r:abc=", "completion": 3}
    found = prepare(replace(jsonl(tmp_path / "a.jsonl", record, record), n=1, n_eval=1), TOKENIZER)
    assert found.train.examples[0].tokens.tolist() == [*TOKENIZER.encode("r:abc=3"), TOKENIZER.eos_id]


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "a.jsonl", *[{"prompt": "a", "completion": "b"}] * 2)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(prepare(replace(config, n=1, n_eval=1), TOKENIZER).train.examples) == 1


def test_empty_answers_and_held_out_prompts_that_are_learnt_from_too_are_told(tmp_path: Path) -> None:
    records = [{"prompt": p, "completion": c} for p, c in (("a", "b"), ("c", ""), ("a", "b"), ("d", "e"))]
    path, said = tmp_path / "a.jsonl", list[str]()
    prepare(replace(jsonl(path, *records), n=2, n_eval=2), TOKENIZER, said.append)
    assert said[1:] == [
        f"{path}: 1 answers are empty: of these only the end is learnt",
        f"{path}: 1 of 2 held-out prompts are learnt from too",
    ]


def test_an_empty_file_to_hold_out_is_the_one_that_is_named(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"})
    (tmp_path / "held.jsonl").touch()
    with pytest.raises(DistillError, match=r"held\.jsonl"):
        prepare(replace(config, eval_path=str(tmp_path / "held.jsonl")), TOKENIZER)
