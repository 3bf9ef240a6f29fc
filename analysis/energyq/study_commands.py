"""What can be asked of a study: `breakeven`, `frontier`? Parse, then hand over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from energyq.study import Study

Opener = Callable[[dict[str, Any]], Any]


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that asks of a study."""
    for option in (
        click.option("--allow-mixed", is_flag=True, help="Compare unlike set-ups all the same, and say so."),
        click.option("--metric", metavar="NAME", help="Quality metric. [default: exact_match]"),
        click.option("--study", metavar="NAME|FILE.csv", help="A table, not the store; `poster` is shipped."),
    ):
        command = option(command)
    return command


def load(settings: dict[str, Any], opener: Opener) -> Study:
    """The study asked for: a table, or the labelled runs of the store."""
    from energyq.study import read_csv
    from energyq.study_store import must_be_alike, read_store

    if settings["study"]:
        return read_csv(settings["study"])
    with opener(settings) as reader:
        study = read_store(reader, metric=settings["metric"])
    must_be_alike(study, allow_mixed=settings["allow_mixed"])
    return study
