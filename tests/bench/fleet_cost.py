"""What does a fleet's lake hold and ask for in a year? On paper: measured bytes times counted files.

    python tests/bench/fleet_cost.py [--hosts 1000] [--devices 8] > the tables of docs/fleet.md

Bytes of a sample are those of docs/results/performance/storage.json (raw, 50 Hz) and docs/results/lake.json
(one a second). A node at work fills eight tables an hour. DuckLake keeps of each file a row, one a partition
value and one a column.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import ROOT
from energyd.store.columns import schema

FILLED: Final = (
    "samples", "counters", "conditions", "clocks", "markers", "runs_log", "stages_log", "energies",
)  # fmt: skip
HERTZ: Final = {"raw": 50, "1s": 1}
DAYS: Final = 365
LISTED: Final = 1_000  # names that S3 tells in one answer
TOLD: Final = 5  # requests for hosts/host=….json at each shipping: put twice, asked for, looked at twice


def bytes_a_sample() -> dict[str, float]:
    """{raw or 1s: bytes}, as measured."""
    storage = json.loads((ROOT / "docs/results/performance/storage.json").read_text())
    raw = next(
        r["figure"] for r in storage["rows"] if r["what"].startswith("bytes a sample sealed, recorded")
    )
    lake = json.loads((ROOT / "docs/results/lake.json").read_text())
    return {"raw": raw, "1s": lake["raw"]["bytes_a_sample"]}


def lines(hosts: int, devices: int) -> list[str]:
    """The table, in Markdown."""
    out = [
        f"| {hosts:,} hosts of {devices} GPUs, a year | `--ship raw --ship-each hour` | `1s`, `hour`"
        " | `1s`, `day` |",
        "|---|---|---|---|",
    ]
    size = bytes_a_sample()
    rows: dict[str, list[str]] = {}
    for ship, each in (("raw", "hour"), ("1s", "hour"), ("1s", "day")):
        times = DAYS * (24 if each == "hour" else 1) * hosts
        files = times * len(FILLED)
        samples = hosts * devices * HERTZ[ship] * 86_400 * DAYS
        columns = sum(len(schema()[table]) + 2 for table in FILLED)
        stored = times * (columns + len(FILLED) * 3)
        cells = {
            "samples": f"{samples * size[ship] / 1e12:,.1f} TB",
            "objects": f"{files / 1e6:,.1f} M",
            "requests that put": f"{(files + 2 * times) / 1e6:,.1f} M",
            "other requests of the hosts": f"{(TOLD - 2) * times / 1e6:,.1f} M",
            "requests of one look through all of it": f"{files / LISTED:,.0f}",
            "rows in PostgreSQL": f"{stored / 1e6:,.0f} M",
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return out + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=8)
    asked = parser.parse_args()
    print("\n".join(lines(asked.hosts, asked.devices)))
