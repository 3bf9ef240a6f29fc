"""How does text become examples: which tokens are prompt, which are learnt, which are held out?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from energyd_pipelines import strings_task
from energyd_pipelines.config import DataConfig
from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import Dataset, Example


class Tokenizer(Protocol):
    """What is needed of a tokenizer here."""

    vocab_size: int
    pad_id: int
    eos_id: int

    @property
    def hash(self) -> str:
        """Equal if and only if the same text becomes the same tokens."""

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, no special ones added."""


class Flat(Sequence[Example]):
    """Examples in three arrays: no Python object a token, however many there are."""

    def __init__(
        self, tokens: NDArray[np.uint32], offsets: NDArray[np.int64], prompts: NDArray[np.int64]
    ) -> None:
        self.tokens, self.offsets, self.prompts = tokens, offsets, prompts

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Flat:
        """From examples, in their order."""
        listed = list(examples)
        sizes = [len(e.tokens) for e in listed]
        tokens = np.concatenate([e.tokens for e in listed]) if listed else np.empty(0, np.uint32)
        return cls(
            tokens.astype(np.uint32), np.cumsum([0, *sizes], dtype=np.int64),
            np.array([e.prompt for e in listed], dtype=np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = at + len(self) if at < 0 else at
        if not 0 <= i < len(self):
            raise IndexError(at)
        return Example(self.tokens[self.offsets[i] : self.offsets[i + 1]], int(self.prompts[i]))

    @property
    def hash(self) -> str:
        """Of every token and every prompt's length, in order."""
        found = hashlib.sha256()
        for part in (self.tokens, self.offsets, self.prompts):
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()[:32]

    def save(self, path: Path) -> None:
        """As one .npz file."""
        np.savez(path, tokens=self.tokens, offsets=self.offsets, prompts=self.prompts)

    @classmethod
    def load(cls, path: Path) -> Flat:
        """What `save` wrote."""
        with np.load(path) as found:
            return cls(found["tokens"], found["offsets"], found["prompts"])


@dataclass(frozen=True)
class Prepared:
    """What `preprocess` makes."""

    train: Dataset
    held_out: Dataset
    groups: list[str]  # of each held-out example, for the macro average
    too_long: int  # examples left out because of `data.max_len`


def dataset_of(examples: Iterable[Example], tokenizer: Tokenizer) -> Dataset:
    """Examples with the hashes that artifacts are found by."""
    flat = examples if isinstance(examples, Flat) else Flat.of(examples)
    return Dataset(flat, flat.hash, tokenizer.hash, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id)


def tokenizer_of(data: DataConfig, fallback: str = "") -> Tokenizer:
    """The tokenizer of the data: of characters, or of transformers by name or folder. Raises DistillError."""
    if data.task == "strings":
        return strings_task.CharTokenizer()
    from energyd_pipelines.hub_tokenizer import HubTokenizer

    return HubTokenizer(data.tokenizer or fallback)


def prepare(data: DataConfig, tokenizer: Tokenizer, tell: Callable[[str], object] = str) -> Prepared:
    """Tokenise, leave out what is too long, hold out. Raises DistillError.

    `tell` hears how many examples a file came to, where the settings asked for another number.
    """
    if data.task == "strings":
        held = strings_task.draw(data.n_eval, seed=10_000 + data.seed, longest=data.longest)
        apart = frozenset(prompt for prompt, _ in held)
        learn = strings_task.draw(
            data.n, seed=data.seed, noise=data.noise, apart_from=apart, longest=data.longest
        )
        groups = [prompt[0] for prompt, _ in held]
    else:
        pairs = list(
            _pairs(data, data.path, data.n + (0 if data.eval_path else data.n_eval) if data.n else 0)
        )
        held = list(_pairs(data, data.eval_path, data.n_eval)) if data.eval_path else pairs[: data.n_eval]
        learn = pairs if data.eval_path else pairs[data.n_eval :]
        groups = [""] * len(held)
    held_examples = [_example(tokenizer, *pair) for pair in held]
    kept = [i for i, e in enumerate(held_examples) if len(e.tokens) <= data.max_len]
    learn_examples = [_example(tokenizer, *pair) for pair in learn]
    short = [e for e in learn_examples if len(e.tokens) <= data.max_len]
    if not kept or not short:
        raise DistillError(
            f"too few examples: {len(short)} to learn from and {len(kept)} held out, of {len(learn + held)}",
            where=(data.eval_path if short else data.path) or data.path or data.task,
            cure="more data, a smaller data.n_eval or a larger data.max_len",
        )  # fmt: skip
    if data.task != "strings":
        _tell(data, (len(learn), len(short)), (len(held), len(kept)), tell)
        _tell_what_is_odd(data, learn, held, tell)
    return Prepared(
        dataset_of(short, tokenizer), dataset_of((held_examples[i] for i in kept), tokenizer),
        [groups[i] for i in kept], len(learn) - len(short) + len(held) - len(kept),
    )  # fmt: skip


def _tell(
    data: DataConfig, learn: tuple[int, int], held: tuple[int, int], tell: Callable[[str], object]
) -> None:
    """Each pair: (read, of those not too long)."""
    parts = []
    for what, key, asked, (found, kept) in (
        ("to learn from", "data.n", data.n, learn),
        ("held out", "data.n_eval", data.n_eval, held),
    ):
        short = f", for {key} is {asked} and there are no more" if found < asked else ""
        long = f", {found - kept} longer than data.max_len left out" if kept < found else ""
        limit = f" ({key})" if found == asked else ""
        parts.append(f"{kept} examples {what}{limit}{short}{long}")
    tell(f"{data.path}: {'; '.join(parts)}")


def _tell_what_is_odd(
    data: DataConfig, learn: Sequence[tuple[str, str]], held: Sequence[tuple[str, str]],
    tell: Callable[[str], object],
) -> None:  # fmt: skip
    """What may be meant, and makes quality another thing than it seems."""
    empty = sum(not answer for _, answer in (*learn, *held))
    if empty:
        tell(f"{data.path}: {empty} answers are empty: of these only the end is learnt")
    learnt = {prompt for prompt, _ in learn}
    both = sum(prompt in learnt for prompt, _ in held)
    if both:
        tell(f"{data.eval_path or data.path}: {both} of {len(held)} held-out prompts are learnt from too")


def _example(tokenizer: Tokenizer, prompt: str, answer: str) -> Example:
    asked = tokenizer.encode(prompt) or [tokenizer.eos_id]  # a first label needs something before it
    tokens = np.array([*asked, *tokenizer.encode(answer), tokenizer.eos_id], dtype=np.uint32)
    return Example(tokens, len(asked))


def _pairs(data: DataConfig, path: str, most: int) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of each record, at most `most` (0: all)."""
    records = _jsonl(path) if data.task == "jsonl" or path.endswith(".jsonl") else _hub(path, data.split)
    for n, (where, record) in enumerate(records):
        if most and n == most:
            return
        yield _pair(data, record, where)


def _pair(data: DataConfig, record: dict[str, Any], where: str) -> tuple[str, str]:
    if record.get(data.messages) is not None:
        try:
            *before, last = [(str(m["role"]), m["content"]) for m in record[data.messages]]
        except (TypeError, KeyError, ValueError):
            before, last = [], ("", "")
        if last[0] != "assistant" or not before:
            raise DistillError(
                f"{data.messages} does not end with an answer of the assistant",
                where=where, cure='[{"role": "user", "content": …}, …, {"role": "assistant", "content": …}]',
            )  # fmt: skip
        turns = "".join(f"<|{role}|>\n{_text(text, f'content of {role}', where)}\n" for role, text in before)
        return f"{turns}<|assistant|>\n", _text(last[1], "content of assistant", where)
    if data.prompt in record and data.completion in record:
        prompt, answer = (_text(record[name], name, where) for name in (data.prompt, data.completion))
        return prompt, answer
    raise DistillError(
        f"neither column {data.messages} nor {data.prompt} and {data.completion}: {', '.join(record):.50}",
        where=where, cure="data.messages=COLUMN, or data.prompt=COLUMN data.completion=COLUMN",
    )  # fmt: skip


def _text(value: Any, name: str, where: str) -> str:
    """A text or a finite number as text; `None` or a list would be learnt as Python spells it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        said = "null" if value is None else f"no text: {value!r:.40}"
        raise DistillError(f"{name} is {said}", where=where, cure="a text there, or leave this record out")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a pair, such as \ud800: no tokenizer takes it
        raise DistillError(
            f"{name} is no valid text: {error.reason}, character {error.start}", where=where,
            cure="a text there, or leave this record out",
        ) from error  # fmt: skip
    return value


def _jsonl(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}, line {number}"
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DistillError(f"no JSON: {error}", where=where, cure="one object a line") from error
                if not isinstance(record, dict):
                    raise DistillError("no JSON object", where=where, cure="one object a line")
                yield where, record
    except (OSError, UnicodeDecodeError) as error:
        raise DistillError(f"cannot read {path!r}: {error}", cure="data.path=FILE.jsonl", code=2) from error


def _hub(path: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        if Path(path).is_dir() and (Path(path) / "state.json").exists():
            found: Any = datasets.load_from_disk(path)
        elif Path(path).is_dir() and (Path(path) / "dataset_dict.json").exists():
            found = datasets.load_from_disk(path)[split]
        else:
            found = datasets.load_dataset(path, split=split)
    except Exception as error:  # whatever a data set's loader raises
        said = str(error).strip().split("\n", 1)[0]
        raise DistillError(
            f"no data set {path!r} with split {split!r}: {said:.120}",
            cure="a name on the hub, a folder of save_to_disk, or data.task=jsonl",
        ) from error
    for number, record in enumerate(found):
        yield f"{path} [{split}], row {number}", record
