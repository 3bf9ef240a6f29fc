"""What is the outcome of a study in two or three sentences?"""

from __future__ import annotations

from energyq.breakeven import AT_N, NEVER, NOISE, POOLED, BreakEven
from energyq.numbers import figures
from energyq.study import Study


def verdict(study: Study, answers: list[BreakEven]) -> str:
    """One-off ratios, then where distilling pays, where never, and where nobody can tell."""
    single = [a for a in answers if a.student != POOLED]
    ratios = [a.ratio for a in single if a.ratio is not None]
    said = []
    if ratios:
        low, high = figures(min(ratios), 3), figures(max(ratios), 3)
        span = f"{low} times" if low == high else f"{low} to {high} times"
        said.append(f"Used once, distilling takes {span} the energy of {study.baseline}.")
    pays = [a for a in single if a.state == AT_N and a.n_star is not None]
    if pays:
        stars = ", ".join(f"{a.name} from {figures(a.n_star, 3)}" for a in pays)
        said.append(f"It pays from a number of uses of the teacher's artifact: {stars}.")
    for state, words in (
        (NEVER, "It never pays for {}."),
        (NOISE, "The saving is inside noise for {}: nobody can tell."),
    ):
        names = [a.name for a in single if a.state == state]
        if names:
            said.append(words.format(", ".join(names)))
    if any(a.lone and a.u_saving_j is not None for a in single if a.state in (AT_N, NEVER)):
        said.append("One repetition decides: another may turn any of it (run more seeds).")
    if any(a.u_saving_j is None for a in pays):
        said.append("No doubt is stated, so these thresholds have no interval.")
    return " ".join(said) or "Too little is known for a verdict."
