"""What can be asked, and with which options? Parse, then hand over."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyq.formats import FORMATS, Enough

if TYPE_CHECKING:
    from energyd.store.read import Reader

_EXIT = {
    "QueryMalformed": 2, "Refused": 2, "DaemonUnresponsive": 3, "StoreForbidden": 5, "StoreNotFound": 78,
    "FactorsMissing": 78,
}  # fmt: skip


def run(args: list[str] | None) -> int:
    """Parse and run. Every error becomes two or three lines on stderr and an exit code."""
    try:
        code = cli.main(args=args, prog_name="energyq", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except Enough:
        return 0
    except OSError as error:
        click.echo(f"energyq: {error}", err=True)
        return 5 if isinstance(error, PermissionError) else 1
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        click.echo(f"energyq: {error}", err=True)
        return code


def _code_of(error: Exception) -> int | None:
    """The exit code of an error that speaks for itself; None for a fault in energyq."""
    from energyd.store.read import ReadError
    from energyq.factors import FactorsMissing
    from energyq.find import NotFound, Refused

    if isinstance(error, (ReadError, NotFound, Refused, FactorsMissing)):
        return _EXIT.get(type(error).__name__, 1)
    return None


class Finite(click.FloatRange):
    """A number in a range; nan compares with nothing, and so passes every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Fails on nan and infinities."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


class SqlByDefault(click.Group):
    """`energyq "SELECT …"`: what is no command is SQL."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A known command, else `sql` with everything as its arguments."""
        word = args[0]
        if word in self.commands:
            return super().resolve_command(ctx, args)
        if word.isidentifier():
            near = difflib.get_close_matches(word, self.commands, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"{word!r} is neither a command nor SQL{hint}", ctx)
        return "sql", self.commands["sql"], args


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command takes; on the command they win over those before it."""
    options: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
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
    for option in reversed(options):
        command = option(command)
    return command


def _settings(ctx: click.Context, **own: Any) -> dict[str, Any]:
    """Options of the command, and where it has none, those given before it."""
    return {k: v if v is not None else (ctx.obj or {}).get(k) for k, v in own.items()}


def _open(settings: dict[str, Any]) -> Reader:
    from energyd.store.read import default_store, open_reader

    return open_reader(settings["store"] or default_store(), endpoint=settings["endpoint"])


@click.group(cls=SqlByDefault, invoke_without_command=True, subcommand_metavar='"SELECT …" | COMMAND')
@_options
@click.option("-f", "--file", "file", type=click.File("r"), help="Run the SQL in FILE (- for stdin).")
@click.option("--tables", is_flag=True, help="List views and what each column holds.")
@click.pass_context
def cli(ctx: click.Context, /, file: Any, tables: bool, **own: Any) -> None:
    """Ask an energyd store what things cost: SQL, or one of the commands.

    Views to ask: runs, stages, stage_energy, stage_totals, run_totals, samples, gaps … (--tables).

    \b
    Examples:
      energyq "SELECT stage, energy_j, u_random_j FROM stage_energy"
      energyq --store ./my-store stages
      energyq -f question.sql --format json -o answer.json
    """
    ctx.obj = own
    if ctx.invoked_subcommand is not None:
        return
    if tables:
        from energyq.tables import show_tables

        with _open(own) as reader:
            show_tables(reader, own["format_"], own["output"])
    elif file is not None:
        _sql(file.read(), own)
    else:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@cli.command("sql", hidden=True)
@click.argument("query")
@_options
@click.pass_context
def sql_command(ctx: click.Context, /, query: str, **own: Any) -> None:
    """Run SQL; - reads it from stdin."""
    _sql(sys.stdin.read() if query == "-" else query, _settings(ctx, **own))


def _sql(query: str, settings: dict[str, Any]) -> None:
    from energyq.formats import write, write_parquet

    with _open(settings) as reader:
        if settings["format_"] == "parquet":
            write_parquet(reader, query, None, settings["output"])
        else:
            write(reader.sql(query), settings["format_"], settings["output"])


@cli.command()
@_options
@click.pass_context
def runs(ctx: click.Context, /, **own: Any) -> None:
    """What did each run cost?

    \b
    Example:
      energyq runs --format csv
    """
    from energyq.stages import show_runs

    settings = _settings(ctx, **own)
    with _open(settings) as reader:
        show_runs(reader, settings["format_"], settings["output"])


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--net", is_flag=True, help="Also what went beyond idling, by the run's prerun stage.")
@_options
@click.pass_context
def stages(ctx: click.Context, /, run_name: str | None, net: bool, **own: Any) -> None:
    """What did each stage of RUN cost? RUN: an id, its beginning, a name, or all; default: the latest.

    Exits 4 if some energy is unknown or still pending.

    \b
    Examples:
      energyq stages
      energyq stages kd-1b --net
    """
    from energyq.find import find_run
    from energyq.stages import show_stages

    settings = _settings(ctx, **own)
    with _open(settings) as reader:
        run_id = find_run(reader, run_name)
        whole = show_stages(reader, run_id, settings["format_"], settings["output"], net=net)
    ctx.exit(0 if whole else 4)


@cli.command("net")
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--idle", metavar="STAGE", help="Name of the stages that idle; default: prerun, prerun.…")
@_options
@click.pass_context
def net_command(ctx: click.Context, /, run_name: str | None, idle: str | None, **own: Any) -> None:
    """What did each stage of RUN take beyond idling, device by device?

    Idle power: prerun.context, else the latest prerun stage that ended before, in the same run.

    \b
    Example:
      energyq net kd-1b --idle prerun.idle
    """
    from energyq.find import find_run
    from energyq.stages import show_net

    settings = _settings(ctx, **own)
    with _open(settings) as reader:
        show_net(reader, find_run(reader, run_name), idle, settings["format_"], settings["output"])


@cli.command()
@click.argument("stage")
@_options
@click.pass_context
def explain(ctx: click.Context, /, stage: str, **own: Any) -> None:
    """How did the energy of STAGE come about, so that one can redo it by hand?

    STAGE: an id, its beginning, a name or a path; of several stages of that name, the latest.

    \b
    Example:
      energyq explain student.train
    """
    from energyq.explain import explain_stage

    settings = _settings(ctx, **own)
    if settings["format_"] not in (None, "table", "json"):
        raise click.UsageError("explain speaks table (text) or json", ctx)
    with _open(settings) as reader:
        explain_stage(reader, stage, settings["format_"], settings["output"])


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@_options
@click.pass_context
def verify(ctx: click.Context, /, run_name: str | None, **own: Any) -> None:
    """Recompute every stage energy (of RUN; default: all) from the raw samples.

    Exits 1 if any differs by more than rounding, 4 if some could not be checked.

    \b
    Example:
      energyq verify kd-1b
    """
    from energyq.find import find_run
    from energyq.verify import verify_stages

    settings = _settings(ctx, **own)
    with _open(settings) as reader:
        code = verify_stages(
            reader, find_run(reader, run_name or "all"), settings["format_"], settings["output"]
        )
    ctx.exit(code)


@cli.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--repeatability", metavar="SHARE", type=Finite(min=0, max=1), default=0.005, show_default=True,
    help="Usual spread (k = 1) between runs, where it cannot be told from repeats.",
)  # fmt: skip
@_options
@click.pass_context
def compare_command(ctx: click.Context, /, a: str, b: str, repeatability: float, **own: Any) -> None:
    """Do A and B differ in energy? Each: a RUN, key=value for all runs so labelled, or either with /STAGE.

    Exits 4 if an energy is unknown.

    \b
    Examples:
      energyq compare student=1B,seed=0 student=7B,seed=0
      energyq compare kd-1b/student.train sft-1b/train
    """
    from energyq.compare import compare
    from energyq.compare_text import show

    settings = _settings(ctx, **own)
    if settings["format_"] not in (None, "table", "json"):
        raise click.UsageError("compare speaks table (text) or json", ctx)
    with _open(settings) as reader:
        found = compare(reader, a, b, repeatability)
    show(found, settings["format_"], settings["output"])
    ctx.exit(0 if found.difference_j is not None else 4)


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--region", metavar="CODE", help="Country, as FRA; default: ENERGYQ_REGION.")
@click.option("--pue", type=Finite(min=1), default=1.0, show_default=True, help="Of the building.")
@click.option("--price", metavar="PRICE", help="Of a kWh, as 0.30/kWh or 0.30EUR/kWh.")
@_options
@click.pass_context
def carbon(
    ctx: click.Context, /, run_name: str | None, region: str | None, pue: float, price: str | None, **own: Any
) -> None:
    """How much CO2e did the energy of RUN (or all) cause, by its region's electricity? Asks no network.

    Exits 4 if some energy is unknown.

    \b
    Example:
      energyq carbon --region FRA --pue 1.2 --price 0.30EUR/kWh
    """
    from energyq.carbon import region_of, show_carbon
    from energyq.factors import factor_of
    from energyq.find import find_run

    settings = _settings(ctx, **own)
    if settings["format_"] == "parquet":
        raise click.UsageError("carbon speaks table, json, jsonl, csv or markdown", ctx)
    factor = factor_of(region_of(region))
    with _open(settings) as reader:
        run_id = find_run(reader, run_name)
        whole = show_carbon(reader, run_id, factor, pue, price, settings["format_"], settings["output"])
    ctx.exit(0 if whole else 4)
