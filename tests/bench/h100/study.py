"""What is made of a folder of pieces? Its page, a table for energyq, and figures, from stores alone.

DIR.md               the page                          DIR.csv    the same energies, for energyq --study
DIR.html             energyq's report of that table, with the power of some windows
DIR-frontier.html    energyq's report of the newest frontier archive, where there is one
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from bench.h100 import budgets, learnt, page
from bench.h100.figures import BOARD, Kind, ask, read
from bench.h100.piece import FRONTIER, unpack
from energyd.store.read import open_reader
from energyq.drawing import Drawing
from energyq.find import question
from energyq.report import find, study_report
from energyq.report_run import drawing_of_run
from energyq.study_csv import read_csv

SHOWN: Final = ("1b sft", "1b starved", "32b graph 8", "32b graph 128")
"""Windows whose power tells something: steady, starved on purpose, at a small batch and at a large one."""


def written(folder: Path) -> dict[str, str]:
    """What stands in each file, by its name's end after `folder`. Raises RuntimeError without pieces."""
    with tempfile.TemporaryDirectory(prefix="h1r") as scratch:
        pieces = unpack(folder, Path(scratch))
        frontiers = sorted(folder.glob(f"{FRONTIER}-*.tar.gz"))
        if not pieces:
            raise RuntimeError(f"no archive of a piece in {folder}: run one first")
        kinds = read(pieces)
        found: dict[str, str] = {}
        section = ""
        if frontiers:
            section, found["-frontier.html"] = learnt.told(folder, frontiers[-1], Path(scratch) / "frontier")
        boards = {u["uuid"] for store, _, _ in pieces for u in ask(store, BOARD)}
        found[".md"] = page.page(folder, pieces, kinds, len(boards), section) + "\n"
        found[".csv"] = budgets.table(kinds)
        if found[".csv"].count("\n") > 1:
            found[".html"] = _report(folder.name, found[".csv"], kinds, Path(scratch))
    return found


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
    return study_report(find(study, reuse=learnt.REUSE), traces)
