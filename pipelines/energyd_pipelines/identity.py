"""Which weights and whose tokens are these, told without loading the model?"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from energyd_pipelines.config import ModelConfig, digest
from energyd_pipelines.errors import DistillError


def weights_hash_of(wanted: ModelConfig) -> str:
    """By its manifest, the hub's commit, the bytes of its weights, or what random ones are drawn from."""
    if wanted.ref.startswith("builtin:"):
        from energyd_pipelines.builtin import manifest_of

        return str(manifest_of(wanted.ref)["weights"]["sha256"])
    if wanted.weights == "random" or wanted.ref == "decoder":
        return f"random {digest(asdict(wanted))}"
    folder = Path(wanted.ref)
    if folder.is_dir():
        found = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if path.suffix in (".safetensors", ".bin") or path.name == "config.json":
                with path.open("rb") as file:
                    while block := file.read(1 << 24):
                        found.update(block)
        return found.hexdigest()
    from transformers import AutoConfig

    try:
        commit = AutoConfig.from_pretrained(wanted.ref, revision=wanted.revision)._commit_hash
    except (OSError, ValueError) as error:
        said = str(error).strip().split("\n", 1)[0]
        raise DistillError(
            f"no model {wanted.ref}: {said:.120}",
            where=f"model {wanted.name}",
            cure="a folder, or a name on the hub",
        ) from error
    if commit is None:  # two teachers would pass for one
        raise DistillError(
            f"nothing tells which commit of {wanted.ref} this is", where=f"model {wanted.name}",
            cure="download it to a folder, and name that",
        )  # fmt: skip
    return str(commit)


def tokenizer_hash_of(wanted: ModelConfig) -> str | None:
    """Of the tokenizer that the model was trained with; None: it has none of its own."""
    if wanted.ref.startswith("builtin:"):
        from energyd_pipelines.builtin import manifest_of

        return str(manifest_of(wanted.ref)["tokenizer_hash"])
    folder = Path(wanted.ref)
    own = not folder.is_dir() or any(
        (folder / n).exists() for n in ("tokenizer.json", "tokenizer_config.json")
    )
    if wanted.weights == "random" or wanted.ref == "decoder" or not own:
        return None
    from energyd_pipelines.hub_tokenizer import HubTokenizer

    return HubTokenizer(wanted.ref).hash


def must_share_tokens(wanted: ModelConfig, role: str, data_hash: str) -> None:
    """Refuse a model whose tokens are not those of the data. Raises DistillError."""
    own = tokenizer_hash_of(wanted)
    if own is not None and own != data_hash:
        raise DistillError(
            f"{role} {wanted.name} has another tokenizer than the data: {own[:12]}, not {data_hash[:12]}",
            cure="a teacher and students of one family, or their tokenizer as data.tokenizer",
        )
