"""Which options do several commands share, and how is the store opened that they name?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyq.formats import FORMATS

if TYPE_CHECKING:
    from energyd.store.read import Reader


class Finite(click.FloatRange):
    """A number in a range; nan compares with nothing, and so passes every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Fails on nan and infinities."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command takes; on the command they win over those before it."""
    all_: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
        click.option(
            "--store",
            metavar="DIR",
            type=click.Path(readable=False, path_type=Path),
            help="The store's folder.",
        ),
        click.option(
            "--format", "format_", type=click.Choice(FORMATS), help="table on a terminal, else csv."
        ),
        click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to FILE, not stdout."),
        click.option("--endpoint", help="Ask the daemon here, not where the store's lock file says."),
    )
    for option in reversed(all_):
        command = option(command)
    return command


def settings_of(ctx: click.Context, **own: Any) -> dict[str, Any]:
    """Options of the command, and where it has none, those given before it."""
    return {k: v if v is not None else (ctx.obj or {}).get(k) for k, v in own.items()}


def open_store(settings: dict[str, Any]) -> Reader:
    """The store that --store and --endpoint name, or the machine's. Raises ReadError."""
    from energyd.store.read import default_store, open_reader

    return open_reader(settings["store"] or default_store(), endpoint=settings["endpoint"])
