"""What can be asked of a study: break-even, frontier, advice, its stages? Parse, then hand over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from energyq.options import Finite, open_store, options, settings_of

if TYPE_CHECKING:
    from energyq.study import Study


STORE: Final = "store"
"""The word for the labelled runs of the store, where a study must be named."""


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that asks of a study."""
    for option in (
        click.option(
            "--repeatability", metavar="SHARE", type=Finite(min=0, max=1),
            help="Spread (k = 1) between repetitions, where there is only one. [default: none is assumed]",
        ),
        click.option("--allow-mixed", is_flag=True, help="Compare unlike set-ups all the same, and say so."),
        click.option("--metric", metavar="NAME", help="Quality metric. [default: exact_match]"),
        click.option("--study", metavar="NAME|FILE.csv", help="A table, not the store; `poster` is shipped."),
    ):  # fmt: skip
        command = option(command)
    return command


def load(settings: dict[str, Any]) -> Study:
    """The study asked for: a table, or the labelled runs of the store."""
    from energyq.study_csv import read_csv
    from energyq.study_store import must_be_alike, read_store

    if settings["study"] not in (None, STORE):
        return read_csv(settings["study"])
    with open_store(settings) as reader:
        study = read_store(reader, metric=settings["metric"])
    must_be_alike(study, allow_mixed=settings["allow_mixed"])
    return study


def show_stages_of(word: str, settings: dict[str, Any]) -> bool:
    """The stages of a study side by side; False if an energy is not known."""
    from energyq.breakdown import breakdown, is_whole, show

    found = load({**settings, "study": word, "metric": None, "allow_mixed": True})
    pieces = breakdown(found)
    show(found, pieces, settings["format_"], settings["output"])
    return is_whole(pieces)


@click.command("breakeven")
@study_options
@click.option("--reuse", metavar="N", type=Finite(min=1), help="Uses assumed. [default: those counted]")
@options
@click.pass_context
def breakeven_command(
    ctx: click.Context, /, reuse: float | None, repeatability: float | None, **own: Any
) -> None:
    """From how many uses of a teacher's artifact on does each pipeline take less than the baseline?

    Exits 4 if some answer is unknown.

    \b
    Example:
      energyq breakeven --study poster --repeatability 0.02
    """
    from energyq.breakeven import UNKNOWN, break_even
    from energyq.breakeven_text import show

    settings = settings_of(ctx, **own)
    study = load(settings)
    answers = break_even(study, repeatability=repeatability, reuse=reuse)
    show(study, answers, settings["format_"], settings["output"])
    ctx.exit(4 if any(a.state == UNKNOWN for a in answers) else 0)


@click.command("frontier")
@study_options
@click.option("--reuse", metavar="N", type=Finite(min=1), help="Also with the artifact shared by N uses.")
@options
@click.pass_context
def frontier_command(
    ctx: click.Context, /, reuse: float | None, repeatability: float | None, **own: Any
) -> None:
    """Which pipelines and sizes give the most quality for their energy, and what is beaten by what?

    Exits 4 if some quality or energy is unknown.

    \b
    Example:
      energyq frontier --metric exact_match --reuse 5
    """
    from energyq.frontier import frontier
    from energyq.frontier_text import show

    settings = settings_of(ctx, **own)
    study = load(settings)
    points = frontier(study, reuse=reuse, repeatability=repeatability)
    show(study, points, reuse, settings["format_"], settings["output"])
    ctx.exit(4 if any(p.quality is None or p.full.energy_j is None for p in points) else 0)


@click.command("advise")
@study_options
@click.option(
    "--reuse",
    metavar="N",
    type=Finite(min=1),
    help="Uses of the teacher's artifact. [default: those counted]",
)
@click.option("--quality", metavar="Q", type=Finite(), help="The least quality that will do.")
@click.option("--student", metavar="SIZE", help="Only this size.")
@options
@click.pass_context
def advise_command(
    ctx: click.Context, /, reuse: float | None, quality: float | None, student: str | None,
    repeatability: float | None, **own: Any,
) -> None:  # fmt: skip
    """Which pipeline takes least at this reuse and quality, what to attack first, what would flip the answer?

    Exits 4 if the question cannot be answered.

    \b
    Example:
      energyq advise --study poster --reuse 6
    """
    from dataclasses import asdict

    from energyq.advise import advise
    from energyq.formats import opened
    from energyq.rows import write_rows

    settings = settings_of(ctx, **own)
    said = advise(load(settings), reuse=reuse, quality=quality, student=student, repeatability=repeatability)
    if not write_rows([asdict(s) for s in said], settings["format_"], settings["output"]):
        with opened(settings["output"]) as out:
            out.writelines(s.text + "\n" for s in said)
    ctx.exit(4 if any(s.about == "choice" and s.passed is False for s in said) else 0)


STUDY_COMMANDS = (breakeven_command, frontier_command, advise_command)
