"""What can be learnt in seconds and is still hard to get wholly right? Five operations on short strings.

`r:badge=` asks for the string reversed, `s:` sorted, `n:` each letter's next, `u:` without repeated letters,
`c:` how many different letters there are. Labels of the training data carry noise, as people's do: a share
of the answers has one wrong character. A teacher that learnt from clean answers is then worth asking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

LETTERS: Final = "abcdefghijkl"
OPERATIONS: Final[dict[str, Callable[[str], str]]] = {
    "r": lambda word: word[::-1],
    "s": lambda word: "".join(sorted(word)),
    "n": lambda word: "".join(LETTERS[(LETTERS.index(c) + 1) % len(LETTERS)] for c in word),
    "u": lambda word: "".join(dict.fromkeys(word)),
    "c": lambda word: str(len(set(word))),
}
SHORTEST, LONGEST = 3, 6
PAD_ID, EOS_ID = 0, 1
SYMBOLS: Final = "abcdefghijklmnopqrstuvwxyz0123456789:="


class CharTokenizer:
    """One token a character; 0 is padding, 1 the end."""

    vocab_size = 2 + len(SYMBOLS)
    pad_id, eos_id = PAD_ID, EOS_ID

    @property
    def hash(self) -> str:
        """Of the symbols in their order."""
        return hashlib.sha256(f"char:{SYMBOLS}".encode()).hexdigest()[:32]

    def encode(self, text: str) -> list[int]:
        """Token of each character. ValueError for one that is no symbol."""
        return [2 + SYMBOLS.index(c) for c in text]

    def decode(self, tokens: list[int]) -> str:
        """The characters, up to the end token; padding is left out."""
        kept = tokens[: tokens.index(EOS_ID)] if EOS_ID in tokens else tokens
        return "".join(SYMBOLS[t - 2] for t in kept if t >= 2)


def draw(
    n: int, *, seed: int, noise: float = 0.0, apart_from: frozenset[str] = frozenset(), longest: int = LONGEST
) -> list[tuple[str, str]]:
    """`n` different (prompt, answer) pairs of words up to `longest`; none of `apart_from` is a prompt."""
    dice = np.random.default_rng(seed)
    found: dict[str, str] = {}
    for prompt, answer in _endless(dice, longest):
        if prompt in found or prompt in apart_from:
            continue
        found[prompt] = _spoilt(answer, dice) if dice.random() < noise else answer
        if len(found) == n:
            break
    return list(found.items())


def n_prompts(longest: int) -> int:
    """How many different prompts there are with words up to `longest`."""
    return len(OPERATIONS) * sum(int(len(LETTERS) ** size) for size in range(SHORTEST, min(longest, 20) + 1))


def _endless(dice: np.random.Generator, longest: int) -> Iterator[tuple[str, str]]:
    names = list(OPERATIONS)
    while True:
        name = names[dice.integers(len(names))]
        size = int(dice.integers(SHORTEST, longest + 1))
        # Half of the words are of few letters, so that there is something to leave out and to count.
        letters = LETTERS if dice.random() < 0.5 else "".join(dice.choice(list(LETTERS), 4))
        word = "".join(dice.choice(list(letters), size))
        yield f"{name}:{word}=", OPERATIONS[name](word)


def _spoilt(answer: str, dice: np.random.Generator) -> str:
    """`answer` with one character exchanged for another of its kind."""
    at = int(dice.integers(len(answer)))
    kind = "0123456789" if answer[at].isdigit() else LETTERS
    others = [c for c in kind if c != answer[at]]
    return answer[:at] + others[dice.integers(len(others))] + answer[at + 1 :]
