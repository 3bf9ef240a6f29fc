"""What can be asked of a study: break-even, frontier, advice, its stages? Parse, then hand over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from energyq.options import Finite, open_store, options, settings_of

if TYPE_CHECKING:
    from energyd.store.read import Reader
    from energyq.drawing import Drawing
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


@click.command("report")
@click.argument("run_names", metavar="[RUN]...", nargs=-1)
@study_options
@click.option(
    "--reuse", metavar="N", type=Finite(min=1), help="Uses of the teacher's artifact, for the advice."
)
@click.option("--figures", "folder", type=click.Path(path_type=Path), help="Also each figure into DIR.")
@click.option(
    "--figure-format", "figure_formats", multiple=True, type=click.Choice(("svg", "png")), default=("svg",),
    show_default=True, help="Once or twice; png needs matplotlib, the extra `figures`.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="No page: does the study keep docs/protocol.md? Exits 4 if not.")
@options
@click.pass_context
def report_command(
    ctx: click.Context, /, run_names: tuple[str, ...], reuse: float | None, repeatability: float | None,
    folder: Path | None, figure_formats: tuple[str, ...], check: bool, **own: Any,
) -> None:  # fmt: skip
    """Write each RUN, or without one the study of all labelled runs, as one page that needs no network.

    \b
    Examples:
      energyq report --study poster --reuse 6 -o report.html
      energyq report kd-1b -o kd.html --figures paper --figure-format png
      energyq report --check
    """
    from energyq.formats import opened

    settings = settings_of(ctx, **own)
    if check:
        if run_names or folder:
            raise click.UsageError("--check is of a study: neither RUN nor --figures goes with it", ctx)
        ctx.exit(0 if _keeps_protocol(settings, reuse) else 4)
    if settings["format_"] is not None:
        raise click.UsageError("a report is a page of HTML: no --format", ctx)
    if run_names and settings["study"]:
        raise click.UsageError("a report is of RUN or of a study: RUN goes with no --study", ctx)
    if run_names:
        from energyq.report_run import run_report

        with open_store(settings) as reader:
            text, drawn = run_report(reader, _runs_meant(ctx, reader, run_names))
    else:
        from energyq.report import drawings, find, study_report

        found = find(load(settings), reuse=reuse, repeatability=repeatability)
        traces = _traces(settings, found.study) if found.study.from_store else []
        text, drawn = study_report(found, traces), drawings(found) | {d.name: d for d in traces}
    if folder is not None:
        write_figures(drawn, folder, figure_formats)
    with opened(settings["output"]) as out:
        out.write(text)


def _keeps_protocol(settings: dict[str, Any], reuse: float | None) -> bool:
    """Show the checklist; False if something of it fails. Mixed set-ups are a failed check there."""
    from energyq.checks import checks, shown
    from energyq.formats import opened
    from energyq.rows import write_rows

    study = load({**settings, "allow_mixed": True})
    done = checks(study, reuse)
    if not write_rows([vars(c) for c in done], settings["format_"], settings["output"]):
        with opened(settings["output"]) as out:
            out.writelines(line + "\n" for line in shown(study, done))
    return all(c.passed for c in done)


def _traces(settings: dict[str, Any], study: Study) -> list[Drawing]:
    """The power of one run a pipeline, of the largest size."""
    from energyq.report_run import drawing_of_run

    largest = study.students()[-1]
    first = {p: cell[0].run_id for p in study.pipelines() if (cell := study.cell(p, largest))}
    with open_store(settings) as reader:
        drawn = [drawing_of_run(reader, r, f"power-{i}") for i, r in enumerate(first.values(), 1) if r]
    return [d for d in drawn if d is not None]


def _runs_meant(ctx: click.Context, reader: Reader, words: tuple[str, ...]) -> list[str]:
    """The ids of the runs that words mean, each once."""
    from energyq.find import find_run

    found: dict[str, None] = {}
    for word in words:
        run_id = find_run(reader, word)
        if run_id is None:
            raise click.UsageError("all is no run; without RUN the report is of all labelled runs", ctx)
        found[run_id] = None
    return list(found)


def write_figures(drawn: dict[str, Drawing], folder: Path, formats: tuple[str, ...]) -> None:
    """Each figure as a file of its own. Raises FiguresMissing, before anything is written, OSError."""
    from energyq.png import need_matplotlib, write_png
    from energyq.svg import svg

    if "png" in formats:
        need_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawn.items():
        if "svg" in formats:
            (folder / f"{name}.svg").write_text(svg(drawing, alone=True), encoding="utf-8")
        if "png" in formats:
            write_png(drawing, folder / f"{name}.png")


STUDY_COMMANDS = (breakeven_command, frontier_command, advise_command, report_command)
