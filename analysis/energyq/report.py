"""What does a study's report hold? The paper's three figures with their numbers, verdicts and doubts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from energyq import figure_breakdown, figure_breakeven, figure_frontier
from energyq.advise import advise
from energyq.breakdown import Piece, breakdown, side_by_side, starved_lines
from energyq.breakeven import AT_N, NOISE, BreakEven, break_even
from energyq.breakeven_text import bounds_head, bounds_note, sentence
from energyq.checks import checks
from energyq.drawing import Drawing
from energyq.find import Refused
from energyq.frontier import Point, frontier
from energyq.frontier_text import NO_QUALITY, rankings
from energyq.likeness import LABELS, MUST_BE_ALIKE
from energyq.numbers import NONE, energy_unit, figures, in_unit
from energyq.page import figure, folded, heading, items, page, paragraph, section, table
from energyq.report_run import devices_table, script, trace
from energyq.study import Study, variant_name
from energyq.svg import svg
from energyq.verdict import verdict

METHOD = (
    "E_total = E_prerun + E_preprocess + E_teacher + E_student + E_evaluate, each the energy of GPU and CPU "
    "between the two instants of a stage. N* = E_teacher / (E_student of the baseline − E_student of the "
    "pipeline). A sensor's systematic error scales all energies of one board alike and cancels in N*; what "
    "remains is random doubt and the spread between repetitions; intervals are of 95 %. A dash is what is "
    "not known; it is never 0."
)
REUSED = "Energy of one execution when n share the teacher's artifact; it meets the baseline at N*, the mark."


@dataclass(frozen=True)
class Findings:
    """All that a study's page, and each of its figures, is made of."""

    study: Study
    reuse: float | None
    repeatability: float | None
    pieces: list[Piece]
    points: list[Point]
    answers: list[BreakEven]
    unanswered: str = ""  # why there is no break-even


def find(study: Study, *, reuse: float | None = None, repeatability: float | None = None) -> Findings:
    """Ask the study everything, once. Without a baseline there is no break-even; the rest is told.

    Raises Refused where no run is there to tell of.
    """
    answers, why = [], ""
    try:
        answers = break_even(study, reuse=reuse, repeatability=repeatability)
    except Refused as error:
        why = str(error)
    points = frontier(study, reuse=reuse, repeatability=repeatability)
    return Findings(study, reuse, repeatability, breakdown(study), points, answers, why)


def drawings(found: Findings) -> dict[str, Drawing]:
    """The figures that this study has, by name: of each way in which trainings stopped its own."""
    drawn: dict[str, Drawing] = {}
    variants = found.study.variants()
    for variant in variants:
        stop, suffix = variant.executions[0].stop, ""
        if len(variants) > 1:
            suffix = f"-{re.sub(r'[^A-Za-z0-9_]', '_', stop or 'no_label')}"
            variant = replace(variant, name=f"{variant.name}, {variant_name(stop) or 'no label stop'}")  # noqa: PLW2901
        answers = [a for a in found.answers if a.stop == stop]
        mine = {
            "breakdown": figure_breakdown.draw(variant, [p for p in found.pieces if p.stop == stop]),
            "breakeven": figure_breakeven.draw(variant, answers) if answers else None,
            "frontier": figure_frontier.draw(
                variant, [p for p in found.points if p.stop == stop], found.reuse
            ),
        }
        for name, drawing in mine.items():
            if drawing is not None:
                drawing.name = drawn_as = name + suffix
                drawn[drawn_as] = drawing
    return drawn


def study_report(found: Findings, traces: Sequence[Drawing] = ()) -> str:
    """The page as HTML; `traces`: power of runs that stand for the others."""
    study, answers, reuse = found.study, found.answers, found.reuse
    drawn = drawings(found)
    runs = (
        f"{len(study.executions)} executions, {', '.join(study.pipelines())}; {', '.join(study.students())}"
    )
    advice = advise(study, reuse=reuse, quality=None, repeatability=found.repeatability) if reuse else []
    parts = [
        heading(f"Energy of distillation: {study.name}", runs),
        paragraph(verdict(study, answers)),
        section(
            "Where the energy goes",
            *_figures(drawn, "breakdown", "Energy by stage; the teacher's share is hatched."),
            items(starved_lines(found.pieces)),
            folded("The numbers", _pieces(found)),
        ),
        section("What quality costs", *_frontier(found.points, drawn)),
        section(
            "When distilling pays",
            *_figures(drawn, "breakeven", REUSED),
            _answers(answers) if answers else paragraph(f"No break-even: {_first_line(found)}."),
            items(sentence(a) for a in answers),
            folded("How the ranking turns", items(rankings(study))),
        ),
        section("Power of one run each", *map(trace, traces)),
        section(f"Advice at {reuse or 0:g} uses", items(s.text for s in advice if s.about != "check")),
        section("What a reader may ask for", items(c.text for c in checks(study, reuse))),
        section(
            "Measured with",
            devices_table(study.devices) if study.devices else "",
            items([*study.about, *_alike(study)]),
        ),
        section("Method and doubt", paragraph(METHOD), items(_notes(study, answers))),
    ]  # fmt: skip
    return page(f"energyd: {study.name}", [part for part in parts if part], script() if traces else "")


def _first_line(found: Findings) -> str:
    """Why there is no break-even; the cure is for the terminal."""
    return found.unanswered.partition("\n")[0]


def _figures(drawn: dict[str, Drawing], name: str, caption: str) -> Iterator[str]:
    """The figures of one kind, one below the other where trainings stopped in several ways."""
    for key, drawing in drawn.items():
        if key.partition("-")[0] == name:
            which = "" if key == name else f" {drawing.title.rpartition(', ')[2].capitalize()}."
            yield figure(svg(drawing), caption + which)


def _alike(study: Study) -> Iterator[str]:
    """What all runs have in common, or not."""
    for key in MUST_BE_ALIKE:
        if key not in LABELS and (
            values := sorted({e.facts[key] for e in study.executions if key in e.facts})
        ):
            yield f"{key}: {' / '.join(values)}"


def _pieces(found: Findings) -> str:
    _, columns, rows = side_by_side(found.study, found.pieces)
    return table(columns, rows, words=2 + ("training" in columns))


def _frontier(points: list[Point], drawn: dict[str, Drawing]) -> Iterator[str]:
    if not any(key.startswith("frontier") for key in drawn):
        yield paragraph(f"{NO_QUALITY[0].upper()}{NO_QUALITY[1:]}.")
        return
    yield from _figures(
        drawn, "frontier", "Bars are 95 % intervals. A point above and left of another beats it."
    )
    unit, scale = energy_unit([p.full.energy_j for p in points])
    several = any(p.variant for p in points)
    views = [("student only", "student_only"), ("one-off", "full")]
    views += [("shared", "at_reuse")] if points[0].at_reuse else []
    rows = [
        [p.pipeline, p.student, *([p.variant or ""] if several else []),
         figures(p.quality, 3), figures(p.u_quality, 2),
         *(cell for _, key in views for cell in _view(getattr(p, key), scale)), str(p.repetitions)]
        for p in points
    ]  # fmt: skip
    columns = ["pipeline", "student", *(["training"] if several else []), "quality", "±"]
    columns += [name for title, _ in views for name in (f"{title} / {unit}", "±", "beaten by")]
    yield folded("The numbers", table([*columns, "repetitions"], rows, words=2 + several))


def _view(view: object, scale: float) -> list[str]:
    energy, u, by = (getattr(view, k) for k in ("energy_j", "u_energy_j", "beaten_by"))
    unsure = " (inside noise)" if by and getattr(view, "surely", None) is False else ""
    return [in_unit(scale, energy), in_unit(scale, u), f"{by}{unsure}" if by else ""]


def _answers(answers: list[BreakEven]) -> str:
    several = any(a.variant for a in answers)
    unit, scale = energy_unit([a.teacher_j for a in answers] + [a.baseline_student_j for a in answers])
    rows = [
        [a.pipeline, a.student, *([a.variant or ""] if several else []),
         *(in_unit(scale, j) for j in (a.teacher_j, a.saving_j, a.u_saving_j)),
         figures(a.n_star, 3) if a.state in (AT_N, NOISE) else NONE,
         _bounds(a),
         a.state, figures(a.ratio, 3)]
        for a in answers
    ]  # fmt: skip
    columns = [
        "pipeline", "student", *(["training"] if several else []), f"teacher / {unit}", f"saving / {unit}",
        "±", "N*", f"{bounds_head(answers)}, to", "state", "one-off ×",
    ]  # fmt: skip
    return table(columns, rows, words=2 + several)


def _bounds(answer: BreakEven) -> str:
    if answer.n_low is None:
        return NONE
    high = "∞" if answer.n_high is None else figures(answer.n_high, 3)
    return f"{figures(answer.n_low, 3)} to {high}"


def _notes(study: Study, answers: list[BreakEven]) -> Iterator[str]:
    yield from study.notes
    yield from bounds_note(answers)
    yield from dict.fromkeys(note for a in answers for note in a.notes)
