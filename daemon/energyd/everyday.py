"""What can be typed to measure what one does anyway: `energyd run`, `mark` and `record`?

Parse and hand over; what does the work is imported when it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from energyd.amounts import Amount, above_zero


def pairs(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words as a map."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise click.BadParameter(f"{word!r} is no KEY=VALUE", ctx, param)
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def named(ctx: click.Context, param: click.Parameter, word: str | None) -> str | None:
    """A name or an id; an empty one is a variable that the script has not set."""
    if word is not None and not word.strip():
        raise click.BadParameter("an empty name names nothing", ctx, param)
    return word


def in_a_folder(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be made; told before the command runs, for hours perhaps, and not after it."""
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise click.BadParameter(f"there is no folder {path.absolute().parent} to write to", ctx, param)
    return path


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
    "--idle", "idle_s", metavar="SECONDS", type=Amount(min=0), default=0.0,
    help="Measure the machine at rest first (3 or more), to tell what goes beyond idling.",
)  # fmt: skip
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, writable=True),
    callback=in_a_folder, help="Write the bill as JSON, too.",
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


@click.group()
def mark() -> None:
    """Say what a shell script is doing: stages that begin and end in separate calls.

    A stage belongs to the shell that called (or --owner PID): when that ends, what it left open
    ends `aborted`. Its run is named by --run or after the script; inside `energyd run`, or with
    ENERGYD_RUN_ID set, it joins that run, below ENERGYD_STAGE_ID. The stage holds neither the call that
    began it nor the one that ended it.

    \b
    Example:
      id=$(energyd mark begin tokenize)
      ./tokenize corpus.txt
      energyd mark count $id label=81234567
      energyd mark end $id
    """


owner_option = click.option(
    "--owner", metavar="PID", type=int, help="Process the stage belongs to. [default: the shell that called]"
)
export_option = click.option(
    "--export", is_flag=True, help="Print what programs need to join, for eval, instead of the id."
)


@mark.command()
@click.argument("stage", callback=named)
@click.option("--run", help="Name of the run, begun with its first stage. [default: the script's]")
@click.option(
    "-l", "--label", "labels", metavar="KEY=VALUE", multiple=True, callback=pairs, help="Label of a new run."
)
@click.option("--parent", metavar="ID", help="Stage around it. [default: ENERGYD_STAGE_ID]")
@click.option("--device", "devices", multiple=True, help="GPU to charge: number or UUID. [default: all]")
@owner_option
@export_option
def begin(stage: str, export: bool, **options: Any) -> None:
    """Begin STAGE; prints its id.

    With --export, programs started next join it.

    \b
    Examples:
      id=$(energyd mark begin train --run kd-1b -l seed=0)
      eval "$(energyd mark begin train --export)"
    """
    from energyd import marks

    ids = _marked(lambda: marks.begin(stage, **options))
    click.echo(_export(ids["run_id"], ids["stage_id"]) if export else ids["stage_id"])


@mark.command()
@click.argument("stage", required=False, callback=named)
@click.option("--status", type=click.Choice(["ok", "error"]), default="ok", show_default=True)
@owner_option
@export_option
def end(stage: str | None, status: str, owner: int | None, export: bool) -> None:
    """End STAGE, an id or a name; by default the one begun last.

    With --export, programs started next join what is around it.

    \b
    Examples:
      energyd mark end $id
      energyd mark end train --status error
    """
    from energyd import marks

    ids = _marked(lambda: marks.end(stage, status, owner))
    if export:
        click.echo(_export(ids["run_id"], ids["parent_id"]))


@mark.command()
@click.argument("words", metavar="[STAGE] UNIT=N...", nargs=-1, required=True)
@owner_option
def count(words: tuple[str, ...], owner: int | None) -> None:
    """Add work done in STAGE (default: the one begun last): tokens, samples, files.

    \b
    Examples:
      energyd mark count $id label=4096 positions=8192
      energyd mark count files=12
    """
    from energyd import marks

    stage = None if "=" in words[0] else words[0]
    counts: dict[str, int] = {}
    for word in words[0 if stage is None else 1 :]:
        unit, _, number = word.partition("=")
        if not unit or not number.isascii() or not number.isdigit() or int(number) > 2**53:
            raise click.UsageError(f"{word!r} is no UNIT=N with a whole number")
        counts[unit] = int(number)
    if not counts:
        raise click.UsageError("nothing to count: UNIT=N is missing, such as label=4096")
    _marked(lambda: marks.count(stage, counts, owner))


@mark.command()
@click.argument("name")
@click.argument("value", type=float)
@click.option("-n", type=click.IntRange(min=0), help="Examples behind it.")
@click.option("--stage", help="Id or name of an open stage of the run. [default: the one begun last]")
@owner_option
def metric(name: str, value: float, n: int | None, stage: str | None, owner: int | None) -> None:
    """Report a quality figure of the run that a stage is open in.

    \b
    Example:
      energyd mark metric exact_match 0.81 -n 700
    """
    import math

    from energyd import marks

    if not math.isfinite(value):
        raise click.UsageError(f"{value} is no finite number")
    _marked(lambda: marks.metric(name, value, n, stage, owner))


def _marked(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from energyd.marks import MarkError

    try:
        return call()
    except MarkError as error:
        click.echo(f"energyd: {error}", err=True)
        sys.exit(1)


def _export(run_id: str, stage_id: str | None) -> str:
    from energyd_client import endpoints

    return f"export {endpoints.ENV_RUN_ID}={run_id} {endpoints.ENV_STAGE_ID}={stage_id or ''}"


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seconds", type=above_zero(), help="End after so long.")
@click.option("--device", metavar="GPU", help="One GPU only: its index or UUID. [default: all]")
@click.option("--source", default="auto", show_default=True, help="auto, replay:DIR or simulated.")
def record(folder: Path, seconds: float | None, device: str | None, source: str) -> None:
    """Record the power of this machine's GPUs as a trace; Ctrl-C ends it.

    Needs no daemon. One GPU's trace lies in DIR, those of several in DIR/gpu0, DIR/gpu1 and so on; each is
    what `energyd start --source replay:DIR` plays. Samples and the energy counter are written as the driver
    gives them.

    \b
    Examples:
      energyd record ./trace --seconds 60
      energyd start --store ./s --source replay:./trace
    """
    from energyd.record import RecordError
    from energyd.record import record as record_trace
    from energyd.sources import SourceError

    def say(text: str) -> None:
        click.echo(f"energyd: {text}", err=True)

    try:
        made = record_trace(folder, source=source, seconds=seconds, wanted=device, say=say)
    except (RecordError, SourceError, OSError) as error:
        say(str(error))
        sys.exit(78)
    for one in made:
        if one.n < 2:
            say(f"{one.folder}: {one.n} samples are no trace; record for longer")
            continue
        said = f"{one.n} samples over {one.last_ns / 1e9:.1f} s"
        say(f"{said}; play: energyd start --source replay:{one.folder}")
    if any(one.n < 2 for one in made):
        sys.exit(1)
