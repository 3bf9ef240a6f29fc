"""Which options do several commands share, and how is the store opened that they name?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from energyq.formats import FORMATS

if TYPE_CHECKING:
    from energyd.store.read import Reader


NAMED: Final = 2
"""Damaged files that are named, of however many."""


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
            "--lake", metavar="URL", help="A fleet's lake instead: a folder, s3://… or postgresql://…"
        ),
        click.option(
            "--lake-keys", metavar="FILE", type=click.Path(path_type=Path), help="Its credentials, mode 0600."
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


@contextlib.contextmanager
def open_store(settings: dict[str, Any]) -> Iterator[Reader]:
    """The store that --store and --endpoint name, or the machine's. Raises ReadError.

    Of damaged files that the answer had to do without it tells afterwards, and exits 4.
    """
    from energyd.store.read import default_store, open_lake, open_reader

    lake = settings["lake"]
    if lake is not None and (settings["store"] or settings["endpoint"]):
        raise click.UsageError("--lake asks many stores: neither --store nor --endpoint goes with it")
    with (
        open_lake(lake, keys=settings["lake_keys"])
        if lake is not None
        else open_reader(settings["store"] or default_store(), endpoint=settings["endpoint"])
    ) as reader:
        yield reader
        for path, why in islice(reader.left_out.items(), NAMED):
            click.echo(f"energyq: the rows of {path} are left out: it {why}", err=True)
        if (more := len(reader.left_out) - NAMED) > 0:
            click.echo(f"  and those of {more} more files", err=True)
        if reader.left_out:
            cure = "stop the daemon, then `energyd recover`"
            click.echo(f"  cure: {cure if lake is None else 'put it there again from its host'}", err=True)
            click.get_current_context().exit(4)
