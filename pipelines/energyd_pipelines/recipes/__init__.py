"""Which pipelines are there? One file each, to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable

from energyd_pipelines.cell import Cell
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.recipes.kd import kd
from energyd_pipelines.recipes.sft import sft
from energyd_pipelines.recipes.synthetic import synthetic

RECIPES: dict[str, Callable[[Cell], Quality]] = {"sft": sft, "kd": kd, "synthetic": synthetic}
