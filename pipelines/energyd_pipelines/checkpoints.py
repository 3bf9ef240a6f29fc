"""How does a training go on after a kill? From the last checkpoint, exactly as it would have gone on.

A checkpoint holds weights, optimiser, step and random states. The data cursor is the step: which examples a
step sees follows from seed and step alone (batches.py). It is written aside and renamed, so that a kill
leaves the one before.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from energyd_pipelines.errors import DistillError
from energyd_pipelines.optimisers import Together


def save(path: Path, model: nn.Module, optimiser: Together, step: int) -> None:
    """Replace the checkpoint at `path`. Raises DistillError if the disk takes no more."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with_room(path.parent, lambda: _replace(path, state))


def _replace(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.new")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def load(path: Path, model: nn.Module, optimiser: Together, device: torch.device) -> int:
    """The step to go on with (0: no checkpoint); weights, optimiser and random states are put back."""
    if not path.exists():
        return 0
    try:
        with zipfile.ZipFile(path) as parts:  # torch writes the CRC of each part and does not read it
            if (damaged := parts.testzip()) is not None:
                raise ValueError(f"{damaged} is not what was written (CRC)")
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] and device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["random_cuda"]])
        return int(state["step"])
    except Exception as error:  # unpickling a damaged file raises whatever it meets first
        said = str(error).strip().split("\n", 1)[0]
        raise DistillError(
            f"the checkpoint cannot be read: {said:.100}",
            where=str(path),
            cure="delete it: training begins anew",
        ) from error


def save_student(folder: Path, model: Any) -> None:
    """The trained student as transformers (or peft) writes it, whole or not at all."""

    from transformers.utils import logging

    logging.disable_progress_bar()

    def write() -> None:
        aside = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            model.save_pretrained(aside)
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    with_room(folder.parent, write)


def with_room(folder: Path, action: Callable[[], None]) -> None:
    """Do it, and say plainly when the disk takes no more."""
    from safetensors import SafetensorError

    try:
        action()
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk: torch's writer says "… write …" (RuntimeError), that of safetensors "… os error 28".
        if not isinstance(error, OSError) and not any(sign in str(error) for sign in ("write", "os error")):
            raise
        raise DistillError(
            f"cannot write: {getattr(error, 'strerror', None) or error}", where=str(folder),
            cure="free space there, then `distill run --resume`: nothing before the last checkpoint is lost",
        ) from error  # fmt: skip
