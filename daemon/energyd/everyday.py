"""What can be typed to measure what one does anyway: `energyd run`, `mark` and `record`?

Parse and hand over; what does the work is imported when it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


def pairs(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words as a map."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise click.BadParameter(f"{word!r} is no KEY=VALUE", ctx, param)
    return {key: value for key, _, value in (word.partition("=") for word in words)}


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", help="Of the run. [default: the script's or the program's]")
@click.option(
    "-l", "--label", "labels", metavar="KEY=VALUE", multiple=True, callback=pairs,
    help="Label of the run; may be given many times.",
)  # fmt: skip
@click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False),
    help="Measure into this folder: by the daemon on it, else by one of our own.",
)  # fmt: skip
@click.option(
    "--idle", "idle_s", metavar="SECONDS", type=click.FloatRange(min=0), default=0.0,
    help="Measure the machine at rest first (3 or more), to tell what goes beyond idling.",
)  # fmt: skip
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the bill as JSON, too.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No table at the end.")
@click.option("--source", default="auto", show_default=True, help="Of a daemon of our own: as for `start`.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(labels: dict[str, str], command: tuple[str, ...], **options: Any) -> None:
    """Run COMMAND and say what it cost; its exit code is passed through.

    The table goes to stderr: energy by domain with its doubt, mean power, coverage. Programs inside that use
    the client join the run. Where no daemon runs, one of our own measures and ends with the command; its
    store is kept in --store, else in a folder that the table names. Signals reach the command. What cannot
    be measured is said, and keeps no command from running.

    \b
    Examples:
      energyd run -- python train.py --epochs 3
      energyd run --store ./energy -l student=1B -- torchrun train.py
      energyd run --idle 5 --json cost.json -- make
    """
    from energyd.measured import Options, run_command

    sys.exit(run_command(command, Options(labels=labels, **options)))
