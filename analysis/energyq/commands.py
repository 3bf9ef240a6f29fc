"""What can be asked, and with which options? Parse, then hand over."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyq.formats import Enough
from energyq.options import Finite, open_store, options, settings_of
from energyq.report_command import report_command
from energyq.study_commands import STUDY_COMMANDS, show_stages_of

if TYPE_CHECKING:
    pass

_EXIT = {
    "QueryMalformed": 2, "Refused": 2, "DaemonUnresponsive": 3, "StoreForbidden": 5, "StoreNotFound": 78,
    "FactorsMissing": 78, "FiguresMissing": 78, "LakeUnusable": 78, "LakeForbidden": 5, "LakeAway": 75,
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
    from energyq.png import FiguresMissing

    if isinstance(error, (ReadError, NotFound, Refused, FactorsMissing, FiguresMissing)):
        return _EXIT.get(type(error).__name__, 1)
    return None


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


@click.group(cls=SqlByDefault, invoke_without_command=True, subcommand_metavar='"SELECT …" | COMMAND')
@options
@click.option("-f", "--file", "file", type=click.File("r"), help="Run the SQL in FILE (- for stdin).")
@click.option("--tables", is_flag=True, help="List views and what each column holds.")
@click.option("--examples", is_flag=True, help="Questions that people ask first, as SQL.")
@click.pass_context
def cli(ctx: click.Context, /, file: Any, tables: bool, examples: bool, **own: Any) -> None:
    """Ask an energyd store what things cost: SQL, or one of the commands.

    Views to ask: runs, stages, stage_energy, stage_totals, run_totals, samples, gaps … (--tables,
    --examples). On a terminal, without anything, it is a prompt; in a pipe it runs what comes in.

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

        with open_store(own) as reader:
            show_tables(reader, own["format_"], own["output"])
    elif examples:
        from energyq.examples import show_examples

        show_examples(own["output"])
    elif file is not None:
        _sql(file.read(), own)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        from energyq.prompt import ask_and_answer

        with open_store(own) as reader:
            ask_and_answer(reader)
    elif (asked := _piped()) is not None:
        _sql(asked, own)
    else:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def _piped() -> str | None:
    """SQL that came through a pipe; None if none did."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return sys.stdin.read().strip() or None


@cli.command("sql", hidden=True)
@click.argument("query")
@options
@click.pass_context
def sql_command(ctx: click.Context, /, query: str, **own: Any) -> None:
    """Run SQL; - reads it from stdin."""
    _sql(sys.stdin.read() if query == "-" else query, settings_of(ctx, **own))


def _sql(query: str, settings: dict[str, Any]) -> None:
    from energyq.formats import write, write_parquet

    with open_store(settings) as reader:
        if settings["format_"] == "parquet":
            write_parquet(reader, query, None, settings["output"])
        else:
            write(reader.sql(query), settings["format_"], settings["output"])


@cli.command()
@options
@click.pass_context
def runs(ctx: click.Context, /, **own: Any) -> None:
    """What did each run cost?

    \b
    Example:
      energyq runs --format csv
    """
    from energyq.stages import show_runs

    settings = settings_of(ctx, **own)
    with open_store(settings) as reader:
        show_runs(reader, settings["format_"], settings["output"])


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--net", is_flag=True, help="Also what went beyond idling, by the run's prerun stage.")
@click.option("--study", metavar="NAME|FILE.csv", help="A study's stages side by side; `store`: its own.")
@options
@click.pass_context
def stages(ctx: click.Context, /, run_name: str | None, net: bool, study: str | None, **own: Any) -> None:
    """What did each stage of RUN cost? RUN: an id, its beginning, a name, or all; default: the latest.

    Exits 4 if some energy is unknown or still pending.

    \b
    Examples:
      energyq stages
      energyq stages kd-1b --net
    """
    from energyq.find import find_run
    from energyq.stages import show_stages

    settings = settings_of(ctx, **own)
    if study is not None:
        if run_name is not None or net:
            raise click.UsageError("--study shows a study's stages: neither RUN nor --net goes with it", ctx)
        ctx.exit(0 if show_stages_of(study, settings) else 4)
    with open_store(settings) as reader:
        run_id = find_run(reader, run_name)
        whole = show_stages(reader, run_id, settings["format_"], settings["output"], net=net)
    ctx.exit(0 if whole else 4)


@cli.command("net")
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--idle", metavar="STAGE", help="Name of the stages that idle; default: prerun, prerun.…")
@options
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

    settings = settings_of(ctx, **own)
    with open_store(settings) as reader:
        show_net(reader, find_run(reader, run_name), idle, settings["format_"], settings["output"])


@cli.command()
@click.argument("stage")
@options
@click.pass_context
def explain(ctx: click.Context, /, stage: str, **own: Any) -> None:
    """How did the energy of STAGE come about, so that one can redo it by hand?

    STAGE: an id, its beginning, a name or a path; of several stages of that name, the latest.

    \b
    Example:
      energyq explain student.train
    """
    from energyq.explain import explain_stage

    settings = settings_of(ctx, **own)
    if settings["format_"] not in (None, "table", "json"):
        raise click.UsageError("explain speaks table (text) or json", ctx)
    with open_store(settings) as reader:
        explain_stage(reader, stage, settings["format_"], settings["output"])


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@options
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

    settings = settings_of(ctx, **own)
    with open_store(settings) as reader:
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
@click.option("--allow-mixed", is_flag=True, help="Compare unlike set-ups all the same, and say so.")
@options
@click.pass_context
def compare_command(
    ctx: click.Context, /, a: str, b: str, repeatability: float, allow_mixed: bool, **own: Any
) -> None:
    """Do A and B differ in energy? Each: a RUN, key=value for all runs so labelled, or either with /STAGE.

    Runs that differ in hardware, driver, domains, or the labels tokenizer or train_config are refused.
    Exits 4 if an energy is unknown.

    \b
    Examples:
      energyq compare student=1B,seed=0 student=7B,seed=0
      energyq compare kd-1b/student.train sft-1b/train
    """
    from energyq.compare import compare
    from energyq.compare_text import show

    settings = settings_of(ctx, **own)
    if settings["format_"] not in (None, "table", "json"):
        raise click.UsageError("compare speaks table (text) or json", ctx)
    with open_store(settings) as reader:
        found = compare(reader, a, b, repeatability, allow_mixed=allow_mixed)
    show(found, settings["format_"], settings["output"])
    ctx.exit(0 if found.difference_j is not None else 4)


@cli.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options
@click.pass_context
def export_command(ctx: click.Context, /, folder: Path, **own: Any) -> None:
    """Write every view as Parquet into the new folder DIR, with a README of columns and units.

    \b
    Example:
      energyq export ./energy-data
    """
    from energyq.export import export

    with open_store(settings_of(ctx, **own)) as reader:
        names = export(reader, folder)
    click.echo(f"{len(names)} files in {folder}", err=True)


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--region", metavar="CODE", help="Country, as FRA; default: ENERGYQ_REGION.")
@click.option("--pue", type=Finite(min=1), default=1.0, show_default=True, help="Of the building.")
@click.option("--price", metavar="PRICE", help="Of a kWh, as 0.30/kWh or 0.30EUR/kWh.")
@options
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

    settings = settings_of(ctx, **own)
    if settings["format_"] == "parquet":
        raise click.UsageError("carbon speaks table, json, jsonl, csv or markdown", ctx)
    factor = factor_of(region_of(region))
    with open_store(settings) as reader:
        run_id = find_run(reader, run_name)
        whole = show_carbon(reader, run_id, factor, pue, price, settings["format_"], settings["output"])
    ctx.exit(0 if whole else 4)


@cli.command("hosts")
@click.argument("run_name", metavar="[RUN]", required=False)
@options
@click.pass_context
def hosts_command(ctx: click.Context, /, run_name: str | None, **own: Any) -> None:
    """Who ships to a lake, or what did RUN take on each of its hosts? And do their wall clocks go right?

    Exits 4 if some energy is unknown.

    \b
    Example:
      energyq hosts kd-7b --lake /mnt/lake
    """
    from energyq.find import find_run
    from energyq.hosts import show_hosts

    settings = settings_of(ctx, **own)
    with open_store(settings) as reader:
        run_id = None if run_name is None else find_run(reader, run_name)
        whole = show_hosts(reader, run_id, settings["format_"], settings["output"])
    ctx.exit(0 if whole else 4)


for _command in (*STUDY_COMMANDS, report_command):
    cli.add_command(_command)
