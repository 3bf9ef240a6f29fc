"""How does a break-even read: a table, a sentence for each answer, and the same as rows?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from energyq.breakeven import AT_N, NEVER, NOISE, BreakEven, energy_at
from energyq.formats import opened, print_table
from energyq.numbers import NONE, energy_unit, figures, in_unit
from energyq.rows import write_rows
from energyq.study import Study, variant_name

CURVE_N = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of uses at which the curve E_teacher / n + E_rest is told in JSON."""


def show(study: Study, answers: list[BreakEven], format_: str | None, output: Path | None) -> None:
    """Write it as text for people, or as rows with every digit."""
    if write_rows([_row(a, study.mixed) for a in answers], format_, output):
        return
    unit, scale = energy_unit([a.teacher_j for a in answers] + [a.baseline_student_j for a in answers])
    several = any(a.variant for a in answers)
    columns = [
        "pipeline", "student", *(["training"] if several else []), f"teacher {unit}", f"student {unit}",
        f"{study.baseline} {unit}", f"saving {unit}", "± saving", "N*",
        bounds_head(answers), "to", "one-off ×",
    ]  # fmt: skip
    rows = [
        [
            a.pipeline, a.student, *([a.variant or ""] if several else []),
            *(in_unit(scale, j) for j in
              (a.teacher_j, a.student_j, a.baseline_student_j, a.saving_j, a.u_saving_j)),
            figures(a.n_star, 3) if a.state in (AT_N, NOISE) else a.state,
            figures(a.n_low, 3), "∞" if a.n_low is not None and a.n_high is None else figures(a.n_high, 3),
            figures(a.ratio, 3),
        ]
        for a in answers
    ]  # fmt: skip
    with opened(output) as out:
        out.write(f"study {study.name}\n")
        numbers = [i > 1 + several for i in range(len(columns))]
        print_table(columns, numbers, rows, out, ["± saving", "one-off ×"])
        out.write("\n")
        out.writelines(line + "\n" for line in [*map(sentence, answers), *_below(study, answers)])


def bounds_head(answers: list[BreakEven]) -> str:
    """How the column of the lower bounds is called: 95 % is no word for a bound by one repetition."""
    return "N* from" if any(a.lone and a.n_low is not None for a in answers) else "95 % from"


def bounds_note(answers: list[BreakEven]) -> Iterator[str]:
    """What the bounds are bounds of, where some are not of 95 %."""
    bounded = [a for a in answers if a.n_low is not None]
    if lone := [a.name for a in bounded if a.lone]:
        others = "" if len(lone) == len(bounded) else f" for {', '.join(lone)}; else of 95 %"
        yield f"N* from, to: of the measurement alone{others}"


def sentence(answer: BreakEven) -> str:
    """What the answer means, in one sentence."""
    who = answer.name
    # A published table states no doubt at all, and says so below; a measured one must not look sure of more.
    once = ", by one repetition" if answer.lone and answer.u_saving_j is not None else ""
    if answer.state == AT_N:
        bounds = ""
        if answer.n_low is not None:
            high = "no bound" if answer.n_high is None else figures(answer.n_high, 3)
            what = "of the measurement alone" if answer.lone else "95 %"
            bounds = f" ({what}: {figures(answer.n_low, 3)} to {high})"
        text = f"{who}: cheaper than {answer.baseline} from {figures(answer.n_star, 3)} uses on{bounds}{once}"
    elif answer.state == NEVER:
        text = f"{who}: never; its student takes no less than the {answer.baseline}'s{once}"
    elif answer.state == NOISE:
        saving = f"{figures(answer.saving_j)} ± {figures(answer.u_saving_j, 2)} J"
        text = f"{who}: inside noise; the saving is {saving}"
        if answer.n_low is not None:
            text += f", so N* may be anything from {figures(answer.n_low, 3)} up"
    else:
        text = f"{who}: unknown; {answer.notes[-1] if answer.notes else 'an energy is missing'}"
    if (
        answer.total_at_reuse_j is not None
        and answer.baseline_total_j is not None
        and answer.reuse is not None
    ):
        times = answer.total_at_reuse_j / answer.baseline_total_j
        text += (
            f"; at {answer.reuse:g} uses it takes {figures(times, 3)} times the {answer.baseline}'s energy"
        )
        text += "" if times < 1 else ", not less"
    return text


def _below(study: Study, answers: list[BreakEven]) -> Iterator[str]:
    """What holds for several answers is said once."""
    yield f"N* = E_teacher / (E_student of {study.baseline} − E_student of the pipeline); {NONE}: not known"
    yield from bounds_note(answers)
    said: dict[str, list[str]] = {}
    for answer in answers:
        for note in answer.notes:
            said.setdefault(note, []).append(answer.name)
    for note, who in said.items():
        yield f"{note}: {', '.join(who)}" if len(who) < len(answers) else note
    stops = list(dict.fromkeys(variant_name(a.stop) for a in answers if a.stop))
    if stops:
        yield f"training: {', '.join(stops)}"
    yield from study.notes


def _row(answer: BreakEven, mixed: list[str]) -> dict[str, Any]:
    row = asdict(answer)
    row["notes"] = [*mixed, *answer.notes]
    row["curve"] = [{"n": n, "energy_j": energy_at(answer, n)} for n in CURVE_N] if answer.total_j else []
    return row
