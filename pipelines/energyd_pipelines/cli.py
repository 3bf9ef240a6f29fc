"""What can be typed after `distill`?"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from energyd_pipelines.artifacts_cli import artifacts
from energyd_pipelines.errors import AGAIN, DistillError

# Idle OpenMP threads spin by default, which costs power and, on a shared machine, time (up to 17 times as
# long for models this small). libgomp reads this while torch is being imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


INTERRUPTED: Final = 130


class Group(click.Group):
    """Errors of ours in three lines on stderr, with their exit code."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; one that is of `distill artifacts` is told so."""
        if args and args[0] in artifacts.commands and args[0] not in self.commands:
            raise click.UsageError(f"No such command '{args[0]}'. Did you mean: artifacts {args[0]}?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DistillError as error:
            click.echo(f"distill: {error}", err=True)
            ctx.exit(error.code)


@click.group(cls=Group, context_settings={"max_content_width": 110})
def cli() -> None:
    """What does it cost to make a small model as good as a large one has taught it to be?

    \b
    Examples:
      distill run                      three sizes, three pipelines, two to three minutes on two cores
      distill run tiny --seeds 3 train.steps=300
      distill run mine.yaml --resume   go on where it was killed
      distill artifacts list           what teachers made, what it cost, who used it
    """


@cli.command("run")
@click.argument("what", metavar="[PRESET|CONFIG.yaml] [KEY=VALUE]…", nargs=-1)
@click.option("--seeds", metavar="N", type=click.IntRange(1), help="Seeds 0 to N − 1; three give intervals.")
@click.option("--resume", is_flag=True, help="Go on with the newest execution of these settings.")
@click.option("--minutes", metavar="N", type=click.FloatRange(0, min_open=True),
              help="Begin no cell that would end later; exits 75 if some are left, for --resume.")
@click.option("--regenerate", metavar="REASON", help="Ask the teacher again; the reason is recorded.")
@click.pass_context
def run_command(
    ctx: click.Context, what: Sequence[str], seeds: int | None, resume: bool, minutes: float | None,
    regenerate: str | None,
) -> None:
    """Run a study: pipelines × students × seeds. Finished teachers' artifacts are reused.

    Results lie in runs/, artifacts in artifacts/ (out=FOLDER, reuse.root=FOLDER). `distill presets` names the
    presets, `distill config PRESET` shows every setting that KEY=VALUE can change.

    \b
    Examples:
      distill run quick pipelines=[kd] kd.tau=2
      distill run tiny --seeds 3
      distill run mine.yaml --resume
    """
    from energyd_pipelines.config import load

    source, words = ("tiny", what) if not what or "=" in what[0] else (what[0], what[1:])
    if source == "h100":  # measures windows of true shapes; trains no student to its end
        if minutes is not None or seeds is not None or resume or regenerate is not None:
            raise DistillError(
                "h100 measures windows and goes on by itself", code=2,
                cure="distill run h100 part=students minutes=9",
            )  # fmt: skip
        from energyd_pipelines import h100

        sys.exit(h100.run(words))
    extra = [] if seeds is None else [f"seeds={list(range(seeds))}"]
    if regenerate is not None:
        extra.append(f"reuse.regenerate={regenerate!r}")
    config = load(source, [*words, *extra])

    from energyd_pipelines.grid import n_cells, run_grid
    from energyd_pipelines.study_folder import new_folder, newest_folder

    folder = newest_folder(config) if resume else new_folder(config)
    preset = source if "." not in source else Path(source).stem
    try:
        results = run_grid(config, preset, folder, minutes=minutes)
    except KeyboardInterrupt:
        begun = any(folder.glob("*/state.json"))
        raise DistillError(
            "interrupted", where=str(folder) if begun else "",
            cure="the same command with --resume goes on" if begun else "", code=INTERRUPTED,
        ) from None  # fmt: skip
    if len(results) < n_cells(config):
        ctx.exit(AGAIN)


@cli.command("presets")
def presets_command() -> None:
    """Name the configurations that are shipped.

    \b
    Example:
      distill presets
    """
    from energyd_pipelines.config import presets

    for name in presets():
        click.echo(name)


@cli.command("config")
@click.argument("what", metavar="[PRESET|CONFIG.yaml] [KEY=VALUE]…", nargs=-1)
def config_command(what: Sequence[str]) -> None:
    """Print a configuration as it would run, every default spelled out.

    \b
    Example:
      distill config tiny train.steps=300
    """
    import yaml

    from energyd_pipelines.config import load

    source, words = ("tiny", what) if not what or "=" in what[0] else (what[0], what[1:])
    click.echo(yaml.safe_dump(load(source, words).as_dict(), sort_keys=False), nl=False)


@cli.command("metrics")
@click.argument("run", metavar="RUN")
@click.argument("results", type=click.Path(path_type=Path))
def metrics_command(run: str, results: Path) -> None:
    """Add what lm-eval found to a run: its id, or the folder of a finished cell.

    \b
    Example:
      distill metrics 20261124-090303-ed59057e results.json
    """
    from energyd_pipelines.metrics import add_metrics
    from energyd_pipelines.study_folder import read_result

    cell = read_result(Path(run) / "result.json")
    run_id = run if cell is None else cell["run_ids"][-1]
    click.echo(f"{add_metrics(run_id, results)} metrics of {run_id}")


@cli.command("train-teacher")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: the package's own]")
@click.option("--steps", type=click.IntRange(1), default=None, help="Fewer, for a test.")
def train_teacher_command(out: Path | None, steps: int | None) -> None:
    """Make the shipped teacher of the string task anew, with what it costs here.

    \b
    Example:
      distill train-teacher --out teachers
    """
    from energyd_pipelines.train_teacher import train_teacher

    said = train_teacher(out, steps)
    click.echo(said)


cli.add_command(artifacts)


def main() -> None:
    """The command `distill`."""
    sys.exit(cli(prog_name="distill"))


if __name__ == "__main__":
    main()
