"""What did the poster's runs take, for how many tokens, and what would ours take for as many?

Energies of the published table (kWh); tokens of its public logs (StellarLuminosity/Energy, off_logs at
26fb1011), where they hold both. Where only the energy is published, the tokens are inferred from it at the
joules a position named here, so a ratio there says how ours compares with that assumption, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.h100.figures import Kind, Value
from energyq.breakeven import fieller

KWH: Final = 3.6e6
SIZES: Final = ("1b", "7b", "13b")
PASS_POSITIONS, PASS_LABELS = 199e6, 70e6
"""One pass over the 194,769 examples of Tulu, each padded to 1,024; 35 % are labels."""


@dataclass(frozen=True)
class Logged:
    """One stage of which the logs hold energy and tokens."""

    what: str
    variant: str  # ours that does the same work
    unit: str
    tokens: float
    kwh: float
    why: str


J_POSITION: Final = {"1b": 0.026, "7b": 0.0995, "13b": 0.19}
"""Of their SFT, inferred from the logs: 1B and 13B by the sequences of their runs (the token counts of those
logs hold padding that became labels); 7B as 13B, less by the shapes' arithmetic."""

LOGGED: Final = (
    Logged("SFT on synthetic, 1B", "1b sft", "positions", 0.143 * KWH / J_POSITION["1b"], 0.143, "same work; "
           "positions are inferred"),
    Logged("SFT on synthetic, 13B", "13b sft", "positions", 0.706 * KWH / J_POSITION["13b"], 0.706,
           "same work; positions are inferred"),
    Logged("KD student, 1B", "1b kd", "label", 72.6e6, 5.210, "starved there: 194 W median, nested lists, "
           "evaluation at batch 1 inside the stage"),
    Logged("KD student, 13B", "13b kd", "label", 31.7e6, 11.03, "starved there: 436 W median"),
    Logged("logit caching", "32b logits", "positions", 199e6, 5.266, "all positions are kept there"),
    Logged("generation (Tulu, max 1,024)", "32b graph 64", "generated", 5.38e6, 5.74, "batch 4 to 8 there"),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One row of the published table: kWh by size, and the tokens that it stands for."""

    what: str
    kwh: tuple[float, float, float]
    mode: str  # of ours; of the size in question
    unit: str
    tokens: tuple[float | None, ...]
    source: str
    why: tuple[str, str, str]  # the ratio is not 1


def _positions(kwh: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(energy * KWH / J_POSITION[size] for size, energy in zip(SIZES, kwh, strict=True))


_SFT, _SYNTHETIC = (6.30, 18.45, 33.15), (5.35, 16.60, 28.65)
_AT: Final = "inferred: kWh at 0.026, 0.0995, 0.19 J a position"
_SAME: Final = "same work: how our joules a position compare with the inferred ones"
_STARVED: Final = "starved there, nested lists, evaluation at batch 1 inside the stage"
STUDENTS: Final = {
    "sft": Stage("Student training (SFT)", _SFT, "sft", "positions", _positions(_SFT), _AT, (_SAME,) * 3),
    "kd": Stage("Student training (KD)", (5.20, 16.35, 30.05), "kd", "label",
                (72.6e6, None, 86e6), "1B logged, 13B inferred: kWh at the logged 1.25 J a label",
                (_STARVED + ": 194 W median", "in no log: no token count", _STARVED + ": 436 W median")),
    "synthetic": Stage("Student training (synthetic)", _SYNTHETIC, "sft", "positions",
                       _positions(_SYNTHETIC), _AT, (_SAME,) * 3),
}  # fmt: skip
TEACHER: Final = {"kd": ("Logit caching", 11.00, "positions", 417e6, "inferred: kWh at the logged 0.095 J"),
                  "synthetic": ("Synthetic data generation", 10.60, "generated", 9.94e6,
                                "inferred: kWh at the logged 3.84 J")}  # fmt: skip
TEACHER_WHY: Final = {"kd": "same work, two passes there", "synthetic": "batch 4 to 8 there, 409 W"}
REST: Final = {"Prerun": (0.12, 0.12, 0.12), "Data preprocess": (0.37, 0.37, 0.37),
               "Evaluation": (0.33, 0.68, 1.08)}  # fmt: skip
REST_WHY: Final = {
    "Prerun": "a time of their choice, not work: see what idling, a context and burning draw here",
    "Data preprocess": "not measured: examples are random tokens, nothing is tokenised; their log says 0.006",
}
TEST_POSITIONS: Final = 1_960 * 1_024
"""One evaluation: the test split of Tulu, padded as they padded it."""


def kwh(kind: Kind | None, unit: str, tokens: float | None) -> Value:
    """What so many tokens take at a measured rate."""
    if kind is None or tokens is None:
        return Value(None)
    return kind.j_per(unit).times(tokens / KWH)


def best_generation(kinds: dict[str, Kind]) -> Kind | None:
    """The variant with the fewest joules a generated token."""
    found = [
        k for k in kinds.values() if k.facts["stage"] == "teacher.generate" and k.j_per("generated").mean
    ]
    return min(found, key=lambda k: k.j_per("generated").mean or 0.0, default=None)


def break_even(teacher: Value, saving: Value) -> str:
    """N* = teacher / saving with an interval from both, or why there is none."""
    if teacher.mean is None or saving.mean is None:
        return "–"
    half, half_t = saving.half or 0.0, teacher.half or 0.0
    if saving.mean + half <= 0:
        return "never"
    if saving.mean <= 0:
        return "never, or inside noise"
    common = sum(s * saving.shared.get(board, 0.0) for board, s in teacher.shared.items())
    low, high = fieller(teacher.mean, half_t, saving.mean, half, common)
    if high is None:
        return f"{teacher.mean / saving.mean:.2g}, inside noise (from {low:.2g}, no upper bound)"
    return f"{teacher.mean / saving.mean:.2g} ({low:.2g} to {high:.2g})"
