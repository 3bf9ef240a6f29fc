"""How do tokenised data lie on disk between two attempts, and in an artifact?"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from energyd_pipelines.checkpoints import with_room
from energyd_pipelines.data import Flat, Prepared, Tokenizer, dataset_of
from energyd_pipelines.errors import DistillError


def write_flat(path: Path, flat: Flat) -> None:
    """Examples as one file. Raises DistillError if the disk takes no more."""

    def action() -> None:
        with path.open("wb") as file:
            np.savez(file, tokens=flat.tokens, offsets=flat.offsets, prompts=flat.prompts)

    with_room(path.parent, action)


def read_flat(path: Path) -> Flat:
    """What write_flat wrote. Raises DistillError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return Flat(found["tokens"], found["offsets"], found["prompts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DistillError(
            f"these examples cannot be read: {error!s:.100}", where=str(path), cure="make them again"
        ) from error


def write(path: Path, prepared: Prepared) -> None:
    """Both parts and the groups, whole or not at all."""
    train, held = prepared.train.examples, prepared.held_out.examples
    assert isinstance(train, Flat)
    assert isinstance(held, Flat)
    aside = path.with_name("data.new.npz")

    def action() -> None:
        try:
            with aside.open("wb") as file:
                np.savez(
                    file, tokens=train.tokens, offsets=train.offsets, prompts=train.prompts,
                    held_tokens=held.tokens, held_offsets=held.offsets, held_prompts=held.prompts,
                    groups=np.array(prepared.groups, dtype=str), too_long=prepared.too_long,
                )  # fmt: skip
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)  # on a full disk it would hold the room
            raise

    with_room(path.parent, action)


def read(path: Path, tokenizer: Tokenizer) -> Prepared:
    """What `write` wrote. Raises DistillError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as found:
            train = Flat(found["tokens"], found["offsets"], found["prompts"])
            held = Flat(found["held_tokens"], found["held_offsets"], found["held_prompts"])
            return Prepared(
                dataset_of(train, tokenizer), dataset_of(held, tokenizer), [str(g) for g in found["groups"]],
                int(found["too_long"]),
            )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DistillError(
            f"the prepared data cannot be read: {error!s:.100}",
            where=str(path),
            cure="delete the cell's folder",
        ) from error
