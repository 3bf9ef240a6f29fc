"""How is a report asked for: of runs, of a study, its figures as files, its checklist?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyq.options import Finite, open_store, options, settings_of
from energyq.study_commands import load, study_options

if TYPE_CHECKING:
    from energyd.store.read import Reader
    from energyq.drawing import Drawing
    from energyq.study import Study


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

    Break-even needs a baseline among them, runs labelled pipeline=sft; the rest does not.

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
        if found.unanswered:
            click.echo(f"energyq: no break-even: {found.unanswered}", err=True)
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
