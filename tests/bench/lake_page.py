"""What did the benchmark of a fleet's lake find? Its JSON as a page.

python tests/bench/lake_page.py > docs/results/lake.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import ROOT, cells
from bench.report import rows_of


def page() -> str:
    """The page, in Markdown. Raises ValueError for a quick run."""
    found = json.loads((ROOT / "docs/results/lake.json").read_text())
    if found["quick"]:
        raise ValueError("a --quick run shows that it runs, not how fast")
    machine = found["machine"]
    head = ("what", "measured", "target", "met", "note")
    lines = [
        "# Answers over a fleet",
        "",
        "Written by `make bench-lake`. The lake is generated (`tests/bench/make_lake.py`): the joules are",
        "nobody's, the times are this machine's, from opening the lake to the last row of the answer.",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux",
        f"{machine['kernel']}, load {machine['load']}; commit {machine['commit']};",
        f"DuckDB {machine['versions'].get('duckdb')}.",
        *_about_ledger(),
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    ledger = ROOT / "docs/results/lake_ledger.json"
    more = rows_of(json.loads(ledger.read_text()))[2:] if ledger.exists() else []  # the lake is told already
    for row in [*rows_of(found), *more]:
        what, figure, target, verdict, _, note = cells(row)
        lines.append(f"| {what} | {figure} | {target} | {verdict} | {note} |")
    if found["failed"]:
        lines += ["", f"Failed: {found['failed']}"]
    return "\n".join(lines)


def _about_ledger() -> list[str]:
    """Where and by what the ledger's rows came; nothing without any."""
    file = ROOT / "docs/results/lake_ledger.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    machine, asked = found["machine"], [v for v in found["raw"].values() if isinstance(v, dict)]
    by = ", ".join(sorted({each.get("duckdb", "?") for each in asked}))
    return [f"The ledger's rows: {machine['cpu']}, load {machine['load']}; commit {machine['commit']};",
            f"DuckDB {by} with its extensions, PostgreSQL on the same machine."]  # fmt: skip


if __name__ == "__main__":
    print(page())
