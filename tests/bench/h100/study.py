"""What is made of a folder of pieces? Its page, a table for energyq, and figures, from stores alone.

DIR.md               the page                          DIR.csv    the same energies, for energyq --study
DIR.html             energyq's report of that table, with the power of some windows
DIR-frontier.html    energyq's report of the newest frontier archive, where there is one
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.h100 import budgets, frontier, page
from bench.h100.figures import Kind, ask, read
from bench.h100.markdown import table
from bench.h100.piece import FRONTIER, unpack
from energyd.store.read import open_reader
from energyq.breakeven import POOLED
from energyq.drawing import Drawing
from energyq.find import question
from energyq.report import find, study_report
from energyq.report_run import drawing_of_run
from energyq.study_csv import read_csv

REUSE: Final = 3
"""Three sizes learn from one artifact."""
SHARED_BY: Final = (1, 2, 3, 5, 10, 20)
SHOWN: Final = ("1b sft", "1b starved", "32b graph 8", "32b graph 128")
"""Windows whose power tells something: steady, starved on purpose, at a small batch and at a large one."""


def written(folder: Path) -> dict[str, str]:
    """What stands in each file, by its name's end after `folder`. Raises RuntimeError without pieces."""
    with tempfile.TemporaryDirectory(prefix="h1r") as scratch:
        pieces = unpack(folder, Path(scratch))
        learnt = sorted(folder.glob(f"{FRONTIER}-*.tar.gz"))
        if not pieces:
            raise RuntimeError(f"no archive of a piece in {folder}: run one first")
        kinds = read(pieces)
        found: dict[str, str] = {}
        section = ""
        if learnt:
            section, found["-frontier.html"] = _frontier(folder, learnt[-1], Path(scratch) / "frontier")
        boards = {u["uuid"] for store, _, _ in pieces for u in ask(store, _BOARDS)}
        found[".md"] = page.page(folder, pieces, kinds, len(boards), section) + "\n"
        found[".csv"] = budgets.table(kinds)
        if found[".csv"].count("\n") > 1:
            found[".html"] = _report(folder.name, found[".csv"], kinds, Path(scratch))
    return found


_BOARDS: Final = "SELECT DISTINCT uuid FROM devices WHERE domain = 'gpu'"


def _report(name: str, text: str, kinds: dict[str, Kind], scratch: Path) -> str:
    """The table as energyq shows studies, and what measured it."""
    path = scratch / f"{name}.csv"
    path.write_text(text)
    study = read_csv(str(path))
    traces: list[Drawing] = []
    shown = [each for each in SHOWN if each in kinds and kinds[each].windows]
    for number, window in enumerate((kinds[each].windows[0] for each in shown), 1):
        with open_reader(Path(window["store"])) as reader:
            drawing = drawing_of_run(reader, window["run_id"], f"power-{number}")
            if not study.devices:
                study.devices = reader.sql(question("environment"), {"runs": [window["run_id"]]}).dicts()
        if drawing is not None:
            traces.append(drawing)
    study.about += [
        f"power above, from top to bottom: {', '.join(shown)}",
        "synthetic and SFT students do the same work here, so they share a doubt, which no table tells: "
        f"{name}.md has the narrower interval of their N*",
        "energies are of windows of about 20 s with random weights, extrapolated to the poster's token "
        f"budgets: {name}.md says how, and what was measured how often",
        "`as logged`: SFT and synthetic at the poster's budgets, KD one pass; `equal budget`: all see as "
        "many positions as SFT",
    ]
    return study_report(find(study, reuse=REUSE), traces)


def _frontier(folder: Path, archive: Path, place: Path) -> tuple[str, str]:
    """(the page's section, energyq's report) of students that learnt for real."""
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    out = place / "report.html"
    command = [sys.executable, "-m", "energyq", "--store", str(place / "store"), "report"]
    done = subprocess.run(
        [*command, "--reuse", str(REUSE), "-o", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{archive}: {done.stderr.strip()}")
    results: list[dict[str, Any]] = json.loads((place / "results.json").read_text())
    said = json.loads((place / "machine.json").read_text())
    lines = [
        "## A frontier that was learnt for real",
        "",
        f"From `{archive.name}` ({said['gpu']}): words of up to 12 letters, {len(results)} students trained;",
        f"as figures, with break-even and intervals: `{folder.name}-frontier.html`.",
        "",
        *_teacher(place / "teacher-store"),
        "",
        *_qualities(results),
        "",
        "```",
        *_said(place / "store", "frontier"),
        "",
        *_said(place / "store", "breakeven"),
        "```",
        "",
        *_shared(place / "store"),
    ]
    return "\n".join(lines), out.read_text(encoding="utf-8")


def _qualities(results: list[dict[str, Any]]) -> list[str]:
    """Exact match and steps by study, size and pipeline: each seed's."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in sorted(results, key=lambda r: (r["study"], -len(r["student"]), r["student"], r["seed"])):
        cells.setdefault((r["study"], r["student"], r["pipeline"]), []).append(r)
    rows = []
    for (study, student, pipeline), each in cells.items():
        learnt = [r["training"] for r in each if r["training"]]
        reached = f"{sum(t['reached'] for t in learnt)} of {len(learnt)}" if study == frontier.TARGET else "–"
        rows.append([
            "equal budget" if study == frontier.BUDGET else "to target", student, pipeline,
            ", ".join(f"{r['exact_match']:.3f}" for r in each), ", ".join(str(t["steps"]) for t in learnt),
            reached,
        ])  # fmt: skip
    return table(["training", "size", "pipeline", "exact match", "steps", "reached the target"], rows)


def _teacher(store: Path) -> list[str]:
    question = "SELECT sum(total_j) AS j FROM stage_totals WHERE depth = 0 AND stage = 'student.train'"
    (row,) = ask(store, question)
    took = "an energy that is not known" if row["j"] is None else f"{row['j']:,.0f} J"
    return [f"Training the teacher itself took {took}; as in the poster, that is in no pipeline's bill."]


def _shared(store: Path) -> list[str]:
    """One execution's energy when n share the teacher's artifact, as a multiple of the baseline's."""
    rows = []
    for a in json.loads(_answer(store, "breakeven", "json")):
        if a["student"] != POOLED and None not in (a["total_j"], a["teacher_j"], a["baseline_total_j"]):
            rest, base = a["total_j"] - a["teacher_j"], a["baseline_total_j"]
            at_n = [f"{(rest + a['teacher_j'] / n) / base:.3f}" for n in SHARED_BY]
            rows.append([a["variant"] or "", a["student"], a["pipeline"], *at_n])
    about = "One execution's energy as a multiple of SFT's, when n share the teacher's artifact:"
    return [about, "", *table(["training", "size", "pipeline", *(f"n = {n}" for n in SHARED_BY)], rows)]


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
