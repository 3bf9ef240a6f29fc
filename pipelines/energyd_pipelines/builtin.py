"""Which models are shipped? One: the teacher of the string task, with what it cost to make.

`distill train-teacher` makes it: trained on clean answers, its weights in fp16 and its manifest beside this
file. The joules in the manifest were measured on the machine that it names; here they are `reported`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from energyd_pipelines.errors import DistillError


@dataclass(frozen=True)
class Builtin:
    """A shipped model and its manifest."""

    model: Any
    manifest: dict[str, Any]


def manifest_of(ref: str) -> dict[str, Any]:
    """The manifest of `builtin:NAME`. Raises DistillError for a name that is not shipped."""
    found = files("energyd_pipelines").joinpath("teachers", f"{ref.removeprefix('builtin:')}.json")
    if not found.is_file():
        shipped = [f.name for f in files("energyd_pipelines").joinpath("teachers").iterdir()]
        names = ", ".join(
            f"builtin:{n.removesuffix('.json')}" for n in sorted(shipped) if n.endswith(".json")
        )
        raise DistillError(f"no model {ref} is shipped", cure=f"one of {names}", code=2)
    manifest: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return manifest


def load_builtin(ref: str) -> Builtin:
    """The model of `builtin:NAME`, in float32 on the CPU; its weights are checked by hash."""
    from safetensors.torch import load_file
    from transformers import Olmo2Config, Olmo2ForCausalLM

    manifest = manifest_of(ref)
    with as_file(files("energyd_pipelines").joinpath("teachers", manifest["weights"]["name"])) as path:
        if hash_of(path) != manifest["weights"]["sha256"]:
            raise DistillError(
                f"the weights of {ref} are damaged", where=str(path), cure="install energyd anew"
            )
        weights = load_file(path)
    model = Olmo2ForCausalLM(Olmo2Config(**manifest["shape"]))
    model.load_state_dict({name: w.float() for name, w in weights.items()})
    return Builtin(model, manifest)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
