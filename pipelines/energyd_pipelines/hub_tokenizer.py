"""How does a tokenizer of transformers look to the pipelines?"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from energyd_pipelines.errors import DistillError


class HubTokenizer:
    """A tokenizer by name or folder. Raises DistillError where there is none, or none that can end."""

    def __init__(self, ref: str) -> None:
        from transformers import AutoTokenizer

        try:
            self.inner: Any = AutoTokenizer.from_pretrained(ref)
        except Exception as error:  # the tokenizers' parser knows no class of its own
            said = str(error).strip().split("\n", 1)[0]
            raise DistillError(
                f"no tokenizer {ref!r}: {said:.120}", cure="data.tokenizer=FOLDER or a name on the hub"
            ) from error
        if self.inner.eos_token_id is None:
            raise DistillError(f"tokenizer {ref!r} has no end token", cure="another one (data.tokenizer)")
        self.eos_id = int(self.inner.eos_token_id)
        pad = self.inner.pad_token_id
        self.pad_id = int(self.eos_id if pad is None else pad)
        self.vocab_size = len(self.inner)

    @property
    def hash(self) -> str:
        """Of the whole vocabulary and, for fast tokenizers, of everything that cuts text."""
        backend = getattr(self.inner, "backend_tokenizer", None)
        rules = json.loads(backend.to_str()) if backend is not None else {}
        rules = {k: v for k, v in rules.items() if k not in ("padding", "truncation")}
        text = json.dumps([sorted(self.inner.get_vocab().items()), self.eos_id, rules], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, no special ones added."""
        found: list[int] = self.inner.encode(text, add_special_tokens=False)
        return found
