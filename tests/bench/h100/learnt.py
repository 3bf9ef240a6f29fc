"""What does the archive of the students that learnt say? A section of the page, and energyq's report.

Energies, qualities, fronts and break-even are energyq's answers over the archive's store; how long each cell
trained is in its results; how large the models are follows from the words that the store keeps of each run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from bench.h100 import frontier
from bench.h100.figures import Value, ask
from bench.h100.markdown import table
from energyq.breakeven import POOLED

REUSE: Final = 3
"""Three sizes learn from one artifact."""
SHARED_BY: Final = (1, 2, 3, 5, 10, 20)
BASELINE: Final = "sft"


def told(folder: Path, archive: Path, place: Path) -> tuple[str, str]:
    """(the page's section, energyq's report). `place`: an empty folder for the archive's files."""
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    store, out = place / "store", place / "report.html"
    command = [sys.executable, "-m", "energyq", "--store", str(store), "report"]
    done = subprocess.run(
        [*command, "--reuse", str(REUSE), "-o", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{archive}: {done.stderr.strip()}")
    results: list[dict[str, Any]] = json.loads((place / "results.json").read_text())
    said = json.loads((place / "machine.json").read_text())
    cells = json.loads(_answer(store, "frontier", "json"))
    lines = [
        "## A frontier that was learnt for real",
        "",
        f"From `{archive.name}` ({said['gpu']}): words of up to 12 letters, {len(results)} students trained;",
        f"as figures, with break-even and intervals: `{folder.name}-frontier.html`. `±`: half a 95 %",
        "interval over the seeds. Energies are of GPU and CPU; `used once`: with prerun, preprocessing,",
        "evaluation and all of the teacher's artifact.",
        "",
        *_models(store, place / "teacher-store"),
        "",
        *_cells(cells, results),
        "",
        *_dominance(cells),
        "",
        "```",
        *_said(store, "frontier"),
        "",
        *_said(store, "breakeven"),
        "```",
        "",
        *_shared(store),
    ]
    return "\n".join(lines), out.read_text(encoding="utf-8").replace(str(store), archive.name)


def _models(store: Path, teacher_store: Path) -> list[str]:
    """How large the models are, and what the teacher's own training took."""
    sizes = dict(sorted(_parameters(store).items(), key=lambda item: item[1]))
    smallest, largest = min(sizes.values()), max(sizes.values())
    named = ", ".join(f"{name} {n / 1e6:.3g} M" for name, n in sizes.items())
    (teacher,) = _parameters(teacher_store).values()
    question = "SELECT sum(total_j) AS j FROM stage_totals WHERE depth = 0 AND stage = 'student.train'"
    (row,) = ask(teacher_store, question)
    took = "an energy that is not known" if row["j"] is None else f"{row['j']:,.0f} J"
    return [
        f"Parameters: {named}, so the largest student has {largest / smallest:,.0f} times those of the",
        f"smallest; the teacher {teacher / 1e6:.3g} M. Training the teacher itself took {took}; as in the",
        "poster, that is in no pipeline's bill.",
    ]


def _parameters(store: Path) -> dict[str, int]:
    """By student, as the runs' own words ask for them."""
    import torch

    from energyd_pipelines import models
    from energyd_pipelines.config import load
    from energyd_pipelines.strings_task import CharTokenizer

    found: dict[str, int] = {}
    for row in ask(store, "SELECT DISTINCT env ->> 'argv' AS argv FROM runs"):
        # Words stand beside each other as they were given, blanks within a value among them.
        preset, *words = re.split(r" (?=[\w.]+=|--)", row["argv"].partition(" run ")[2])
        config = load(preset, [word for word in words if not word.startswith("--")])
        for wanted in config.students:
            model = models.build(
                wanted, vocab_size=CharTokenizer.vocab_size, pad_id=0, eos_id=1, seed=0,
                device=torch.device("cpu"), max_len=config.data.max_len,
            )  # fmt: skip
            found[wanted.name] = models.n_params(model)
    return found


def _cells(cells: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[str]:
    """Quality, steps, energy by study, size and pipeline."""
    by_cell: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        stop = "to_target" if r["study"] == frontier.TARGET else "budget"
        by_cell.setdefault((stop, r["student"], r["pipeline"]), []).append(r)
    rows = []
    for c in cells:
        each = by_cell[c["stop"], c["student"], c["pipeline"]]
        learnt = [r["training"] for r in each if r["training"]]
        near = [r["starved_share"] for r in each if r["starved_share"] is not None]
        rows.append([
            c["variant"], c["student"], c["pipeline"], str(_quality(c)),
            ", ".join(f"{r['exact_match']:.3f}" for r in each), ", ".join(str(t["steps"]) for t in learnt),
            f"{sum(t['reached'] for t in learnt)} of {len(learnt)}" if c["stop"] == "to_target" else "–",
            str(_energy(c, "student_only")), str(_energy(c, "full")),
            f"{100 * fmean(near):.0f} %" if near else "–",
        ])  # fmt: skip
    columns = ["training", "size", "pipeline", "exact match", "of each seed", "steps", "reached the target",
               "student's J", "J, used once", "near the floor"]  # fmt: skip
    return table(columns, rows)


def _dominance(cells: list[dict[str, Any]]) -> list[str]:
    """Does the baseline dominate, as the poster says: less energy, and no worse? Used once, by intervals."""
    at = {(c["variant"], c["student"], c["pipeline"]): c for c in cells}
    rows = []
    for (variant, student, pipeline), other in at.items():
        base = at.get((variant, student, BASELINE))
        if pipeline == BASELINE or base is None:
            continue
        energy = _energy(other, "full").over(_energy(base, "full"))
        better = _quality(other).less(_quality(base))
        lead = "–" if better.mean is None else f"{better.mean:+.3f}"
        if better.half is not None:
            lead += f" ± {better.half:.3f}"
        rows.append([variant, student, pipeline, str(energy), lead, dominates(energy, better)])
    columns = ["training", "size", "beside SFT", "energy, times SFT's", "exact match more than SFT's",
               "does SFT dominate?"]  # fmt: skip
    return [
        "The poster: SFT strictly dominates on its frontier, at 7B and 13B. Here, the artifact used once:",
        "", *table(columns, rows),
    ]  # fmt: skip


def dominates(energy: Value, better: Value) -> str:
    """Of SFT beside another: `energy` is the other's as a multiple of SFT's, `better` its lead in quality."""
    if None in (energy.mean, energy.half, better.mean, better.half):
        return "not known: not repeated"
    assert energy.mean is not None
    assert energy.half is not None
    assert better.mean is not None
    assert better.half is not None
    if energy.mean + energy.half < 1 or better.mean - better.half > 0:
        return "no"
    return "yes" if energy.mean - energy.half > 1 and better.mean + better.half < 0 else "inside noise"


def _quality(cell: dict[str, Any]) -> Value:
    return Value(cell["quality"], cell["u_quality"])


def _energy(cell: dict[str, Any], view: str) -> Value:
    return Value(cell[view]["energy_j"], cell[view]["u_energy_j"])


def _shared(store: Path) -> list[str]:
    """One execution's energy when n share the teacher's artifact, as a multiple of the baseline's."""
    about = "One execution's energy as a multiple of SFT's, when n share the teacher's artifact:"
    columns = ["training", "size", "pipeline", *(f"n = {n}" for n in SHARED_BY)]
    return [about, "", *table(columns, _multiples(json.loads(_answer(store, "breakeven", "json"))))]


def _multiples(answers: list[dict[str, Any]]) -> Iterator[list[str]]:
    for a in answers:
        if a["student"] != POOLED and None not in (a["total_j"], a["teacher_j"], a["baseline_total_j"]):
            rest, base = a["total_j"] - a["teacher_j"], a["baseline_total_j"]
            at_n = [f"{(rest + a['teacher_j'] / n) / base:.3f}" for n in SHARED_BY]
            yield [a["variant"] or "", a["student"], a["pipeline"], *at_n]


def _said(store: Path, command: str) -> list[str]:
    """The table that a person sees of an answer; the report holds the sentences below it."""
    whole = _answer(store, command, "table").partition("\n\n")[0]
    return [line.rstrip().replace(str(store), "frontier") for line in whole.splitlines()]


def _answer(store: Path, command: str, as_format: str) -> str:
    """What energyq says. Raises RuntimeError with what it said instead."""
    words = [sys.executable, "-m", "energyq", "--store", str(store), command, "--format", as_format]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{store}: {done.stderr.strip()}")
    return done.stdout
