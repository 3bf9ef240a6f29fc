"""Which artifact is it: what decides its content, whatever it is called and wherever it lies?

The id is the SHA-256 of the specification as canonical JSON: everything that determines the bytes goes in
(teacher revision and weight hash, tokenizer hash, dataset hash, filter, k, dtypes, temperatures, generation
settings, seed, code version), and nothing else. The same specification is the same artifact, on any machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from energyd_pipelines.errors import DistillError

SCHEMA_VERSION: Final = 1
"""Of specifications and manifests; a change of meaning changes every id."""

KINDS: Final = ("dataset", "teacher", "logits", "synthetic", "student")
VIEWED: Final = ("k", "temperatures")
"""Fields of `logits` of which a larger cache also serves a smaller wish."""


@dataclass(frozen=True)
class ArtifactSpec:
    """A kind and the fields that determine the content: text, numbers, truth values, None, lists and maps."""

    kind: str
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DistillError(f"no artifact is a {self.kind!r}", cure=f"one of {', '.join(KINDS)}")
        object.__setattr__(self, "fields", {k: _plain(v, k) for k, v in self.fields.items()})

    @property
    def canonical(self) -> str:
        """The text that is hashed."""
        whole = {"schema_version": SCHEMA_VERSION, "kind": self.kind, "fields": dict(self.fields)}
        return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:32]

    def serves(self, wish: ArtifactSpec) -> bool:
        """Whether an artifact of this specification holds all of `wish`: itself, or a smaller view of it.

        A logit cache serves a smaller k and fewer temperatures; everything else must be equal.
        """
        if self.id == wish.id:
            return True
        if not self.kind == wish.kind == "logits" or _rest(self) != _rest(wish):
            return False
        k, k_asked = self.fields.get("k"), wish.fields.get("k")
        taus, taus_asked = self.fields.get("temperatures"), wish.fields.get("temperatures")
        enough = k == k_asked or (isinstance(k, int) and isinstance(k_asked, int) and k >= k_asked > 0)
        if not isinstance(taus, list) or not isinstance(taus_asked, list):
            return enough and taus == taus_asked
        return enough and set(taus_asked) <= set(taus)


def _rest(spec: ArtifactSpec) -> dict[str, Any]:
    return {k: v for k, v in spec.fields.items() if k not in VIEWED}


def _plain(value: Any, where: str) -> Any:
    """`value` with one spelling for one meaning: 2.0 is 2, a tuple is a list. Raises DistillError."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    raise DistillError(
        f"an artifact's {where} is {value!r:.60}",
        cure="text, finite numbers, true, false, None, lists or maps",
    )
