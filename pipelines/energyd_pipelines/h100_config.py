"""Which settings has the true-shape study, and what did earlier calls of it measure already?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from energyd_pipelines.config import build, override, parse_yaml


@dataclass(frozen=True, kw_only=True)
class H100Config:
    """Settings of the true-shape study; `presets/h100.yaml` holds what is usual."""

    part: Literal["students", "logits", "generate", "eager", "teacher"] = "students"
    sizes: tuple[str, ...] = ("1b", "7b", "13b")
    teacher: str = "32b"
    modes: tuple[str, ...] = ("sft", "kd", "evaluate", "starved")  # of part students
    batches: tuple[int, ...] = (8, 32, 64, 128)  # of generation
    window_s: float = 20.0  # steady state; a window ends with the step that passes it
    idle_s: float = 20.0  # each of the three stages before there is work; 0: none
    repeats: int = 3
    minutes: float = 9.0
    length: int = 1024  # positions of a training sequence
    labels: int = 360  # of them, on average: the share that padded Tulu has
    examples: int = 128  # the teacher is through with them within one window, so that students find a cache
    sequences: int = 16  # of one optimiser step, for all sizes
    micro: int = 0  # sequences at once; 0: 8, for 13B 4
    logits_batch: int = 4
    k: int = 64
    alpha: float = 0.5
    tau: float = 1.0
    checkpointing: bool = True
    prompt: int = 128  # tokens
    max_new: int = 128
    seed: int = 0
    out: str = "h100"  # windows.jsonl and nothing else
    cache: str = ""  # folder of the KD cache; empty: OUT/cache
    pretend: bool = False  # a tiny shape and short windows: the same code on a machine without a GPU


def pretended(config: H100Config) -> H100Config:
    """The same study, so small that a laptop's core takes seconds."""
    return replace(
        config, sizes=tuple("tiny" for _ in config.sizes[:1]), teacher="tiny", batches=config.batches[:2],
        window_s=min(config.window_s, 0.3), idle_s=min(config.idle_s, 0.2), repeats=min(config.repeats, 2),
        length=min(config.length, 64), labels=min(config.labels, 24), examples=min(config.examples, 32),
        sequences=4, micro=2, k=8, prompt=12, max_new=8,
    )  # fmt: skip


def load(words: Sequence[str] = ()) -> H100Config:
    """The preset with `key=value` words on top. Raises DistillError."""
    text = files("energyd_pipelines").joinpath("presets", "h100.yaml").read_text(encoding="utf-8")
    values = parse_yaml(text, "h100")
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("sizes", "modes", "batches") and not value.startswith("["):
            word = f"{key}=[{value}]"  # noqa: PLW2901  # sizes=1b,7b is easier to type
        override(values, word)
    config: H100Config = build(H100Config, values, "h100")
    return pretended(config) if config.pretend else config


@dataclass
class Piece:
    """What one call has: its settings, its deadline, what was measured before."""

    config: H100Config
    out: Path
    deadline: float
    done: set[tuple[str, int]] = field(default_factory=set)
    left: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """Where the KD cache lies."""
        return Path(self.config.cache) if self.config.cache else self.out / "cache"

    def seconds(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()


def piece_of(config: H100Config) -> Piece:
    """Read what earlier calls left in the output folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    piece = Piece(config, out, time.monotonic() + 60 * config.minutes)
    for file in sorted(out.glob("windows*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            if not row.get("error"):
                piece.done.add((row["variant"], row["repeat"]))
    return piece
