"""What does a study's report hold? The paper's three figures with their numbers, verdicts and doubts."""

from __future__ import annotations

from collections.abc import Iterator

from energyq import figure_breakdown, figure_breakeven, figure_frontier
from energyq.advise import advise, checks
from energyq.breakdown import Piece, breakdown
from energyq.breakeven import AT_N, NOISE, BreakEven, break_even
from energyq.breakeven_text import energy_unit, sentence
from energyq.frontier import Point, frontier, turns
from energyq.frontier_text import NO_QUALITY
from energyq.numbers import NONE, figures, percent
from energyq.page import figure, folded, heading, items, page, paragraph, section, table
from energyq.study import PARTS, Study, cells, part_of
from energyq.svg import Drawing
from energyq.verdict import verdict

METHOD = (
    "E_total = E_prerun + E_preprocess + E_teacher + E_student + E_evaluate, each the energy of GPU and CPU "
    "between the two instants of a stage. N* = E_teacher / (E_student of the baseline − E_student of the "
    "pipeline). A sensor's systematic error scales all energies of one board alike and cancels in N*; what "
    "remains is random doubt and the spread between repetitions; intervals are of 95 %. A dash is what is "
    "not known; it is never 0."
)
REUSED = "Energy of one execution when n share the teacher's artifact; it meets the baseline at N*, the mark."


def drawings(study: Study, *, reuse: float | None, repeatability: float | None) -> dict[str, Drawing]:
    """The figures that this study has, by name."""
    found = {"breakdown": figure_breakdown.draw(study, breakdown(study))}
    points = frontier(study, reuse=reuse, repeatability=repeatability)
    if (drawn := figure_frontier.draw(study, points)) is not None:
        found["frontier"] = drawn
    answers = break_even(study, repeatability=repeatability, reuse=reuse)
    found["breakeven"] = figure_breakeven.draw(study, answers)
    return found


def study_report(study: Study, *, reuse: float | None = None, repeatability: float | None = None) -> str:
    """The page as HTML. Raises Refused where the study cannot be compared."""
    pieces = breakdown(study)
    points = frontier(study, reuse=reuse, repeatability=repeatability)
    answers = break_even(study, repeatability=repeatability, reuse=reuse)
    drawn = drawings(study, reuse=reuse, repeatability=repeatability)
    runs = (
        f"{len(study.executions)} executions, {', '.join(study.pipelines())}; {', '.join(study.students())}"
    )
    advice = advise(study, reuse=reuse, quality=None, repeatability=repeatability) if reuse else []
    parts = [
        heading(f"Energy of distillation: {study.name}", runs),
        paragraph(verdict(study, answers)),
        section(
            "Where the energy goes",
            figure(drawn["breakdown"].svg(), "Energy by stage; the teacher's share is hatched."),
            folded("The numbers", _pieces(study, pieces)),
        ),
        section("What quality costs", *_frontier(study, points, drawn)),
        section(
            "When distilling pays",
            figure(drawn["breakeven"].svg(), REUSED),
            _answers(answers), items(sentence(a) for a in answers),
            folded("How the ranking turns", items(_turns(study))),
        ),
        section(f"Advice at {reuse or 0:g} uses", items(s.text for s in advice if s.about != "check")),
        section("What a reader may ask for", items(s.text for s in checks(study, reuse))),
        section("Method and doubt", paragraph(METHOD), items(_notes(study, answers))),
    ]  # fmt: skip
    return page(f"energyd: {study.name}", [part for part in parts if part])


def _pieces(study: Study, pieces: list[Piece]) -> str:
    unit, scale = energy_unit([p.energy_j for p in pieces])
    stages = sorted(dict.fromkeys(p.stage for p in pieces if p.stage), key=lambda s: PARTS.index(part_of(s)))
    rows = []
    for pipeline, student, _ in cells(study):
        mine: dict[str | None, Piece] = {
            p.stage: p for p in pieces if (p.pipeline, p.student) == (pipeline, student)
        }
        shares = [p.share for p in mine.values() if p.part == "teacher"]
        share = sum(s for s in shares if s is not None) if shares and None not in shares else None
        rows.append([
            pipeline, student, *(_in(scale, mine[s].energy_j) if s in mine else "" for s in stages),
            _in(scale, mine[None].energy_j), _in(scale, mine[None].u_energy_j),
            percent(share) if shares else "",
        ])  # fmt: skip
    columns = ["pipeline", "student", *stages, f"total / {unit}", "±", "teacher / %"]
    return table(columns, rows, words=2)


def _frontier(study: Study, points: list[Point], drawn: dict[str, Drawing]) -> Iterator[str]:
    if "frontier" not in drawn:
        yield paragraph(f"{NO_QUALITY[0].upper()}{NO_QUALITY[1:]}.")
        return
    yield figure(
        drawn["frontier"].svg(), "Bars are 95 % intervals. A point above and left of another beats it."
    )
    unit, scale = energy_unit([p.full.energy_j for p in points])
    views = [("student only", "student_only"), ("one-off", "full")]
    views += [("shared", "at_reuse")] if points[0].at_reuse else []
    rows = [
        [p.pipeline, p.student, figures(p.quality, 3), figures(p.u_quality, 2),
         *(cell for _, key in views for cell in _view(getattr(p, key), scale)), str(p.repetitions)]
        for p in points
    ]  # fmt: skip
    columns = ["pipeline", "student", "quality", "±"]
    columns += [name for title, _ in views for name in (f"{title} / {unit}", "±", "beaten by")]
    yield folded("The numbers", table([*columns, "repetitions"], rows, words=2))


def _view(view: object, scale: float) -> list[str]:
    energy, u, by = (getattr(view, k) for k in ("energy_j", "u_energy_j", "beaten_by"))
    unsure = " (inside noise)" if by and getattr(view, "surely", None) is False else ""
    return [_in(scale, energy), _in(scale, u), f"{by}{unsure}" if by else ""]


def _answers(answers: list[BreakEven]) -> str:
    unit, scale = energy_unit([a.teacher_j for a in answers] + [a.baseline_student_j for a in answers])
    rows = [
        [a.pipeline, a.student, _in(scale, a.teacher_j), _in(scale, a.saving_j), _in(scale, a.u_saving_j),
         figures(a.n_star, 3) if a.state in (AT_N, NOISE) else NONE,
         _bounds(a),
         a.state, figures(a.ratio, 3)]
        for a in answers
    ]  # fmt: skip
    columns = [
        "pipeline",
        "student",
        f"teacher / {unit}",
        f"saving / {unit}",
        "±",
        "N*",
        "95 %",
        "state",
        "one-off ×",
    ]
    return table(columns, rows, words=2)


def _bounds(answer: BreakEven) -> str:
    if answer.n_low is None:
        return NONE
    high = "∞" if answer.n_high is None else figures(answer.n_high, 3)
    return f"{figures(answer.n_low, 3)} to {high}"


def _turns(study: Study) -> Iterator[str]:
    for student in study.students():
        for n, order in turns(study, student):
            yield f"{student}, {'one-off' if n == 1 else f'from {figures(n, 3)} uses on'}: {', '.join(order)}"


def _notes(study: Study, answers: list[BreakEven]) -> Iterator[str]:
    yield from study.notes
    yield from dict.fromkeys(note for a in answers for note in a.notes)


def _in(scale: float, energy_j: float | None) -> str:
    return figures(None if energy_j is None else energy_j / scale)
