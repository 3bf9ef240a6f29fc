"""What did the benchmarks find? One page from their JSON files: machine, figure, target, met or not, peers.

    python tests/bench/report.py FOLDER > docs/results/performance.md

Every verdict is computed here from a figure and its target. A file that says `quick` is refused. A benchmark
that failed, or of which there is no file, is a row that says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Row, cells, met

FIELDS = set(Row.__dataclass_fields__)
ORDER = (
    "client_cost", "daemon_cost", "hours", "intake", "storage", "everyday", "query", "query_10m",
    "query_year", "query_billion",
)  # fmt: skip
HEAD = ("what", "measured", "target", "met", "beside it in the same run", "note")


def rows_of(found: dict[str, Any]) -> list[Row]:
    """A file's rows; what this page does not know of them is left out."""
    return [Row(**{k: v for k, v in row.items() if k in FIELDS}) for row in found["rows"]]


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every benchmark's file, in the page's order. Raises ValueError for a quick one."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [f for f in found if isinstance(f, dict) and "rows" in f]
    for each in found:
        if each.get("quick"):
            raise ValueError(f"{each['name']} was a --quick run: it shows that it runs, not how fast")
    return sorted(found, key=lambda f: ORDER.index(f["name"]) if f["name"] in ORDER else len(ORDER))


def broken(found: list[dict[str, Any]]) -> dict[str, str]:
    """{benchmark: why all or some of it is missing}."""
    failed = {each["name"]: each["failed"] for each in found if each.get("failed")}
    there = {each["name"] for each in found}
    return failed | {name: f"no result: `make bench BENCHES={name}`" for name in ORDER if name not in there}


def page(found: list[dict[str, Any]]) -> str:
    """The whole page."""
    verdicts = [met(row) for each in found for row in rows_of(each)]
    judged = [v for v in verdicts if v is not None]
    out = [
        "# Performance",
        "",
        "Written by `make bench` (`tests/bench/report.py`) from the files in `performance/`, not by hand.",
        "",
        f"**{sum(judged)} of {len(judged)} targets met.**"
        + (" Those that are not, say **no** below." if sum(judged) < len(judged) else ""),
        "",
        *_machines(found),
        *[f"- **{name} is incomplete:** {why}" for name, why in broken(found).items()],
    ]
    for each in found:
        out += ["", f"## {each['name']}: {each.get('question', '')}".rstrip(": "), ""]
        out += [f"`tests/bench/{each['name']}.py`, {each['began']}, {each['seconds']:g} s.", ""]
        out += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        out += ["| " + " | ".join(c.replace("|", "\\|") for c in cells(row)) + " |" for row in rows_of(each)]
        if each.get("failed"):
            out.append(
                f"| **the rest of it failed** | – | | **no** | | {each['failed']} |".replace("\n", " ")
            )
        out += floors(rows_of(each))
    return "\n".join(out) + "\n"


FLOOR = "… the least that is a marker"


def floors(rows: list[Row]) -> list[str]:
    """What says that a target is out of Python's reach: rows that miss it, as the floor beside each does."""
    missed = beyond = 0
    found: list[float] = []
    for k, row in enumerate(rows):
        which = row.what.partition(", over")[0].rpartition(", ")[2]  # p50 or p99
        beside = next((r for r in rows[k + 1 : k + 3] if r.what == f"{FLOOR}, {which}"), None)
        if beside is None or beside.figure is None or row.target is None or met(row):
            continue
        missed += 1
        if beside.figure > row.target:
            beyond += 1
            found.append(beside.figure)
    if not beyond:
        return []
    return [
        "",
        f"**Out of Python's reach:** in {beyond} of the {missed} rows above that miss their target beside two"
        " bare writes, the least that is a marker (locked, numbered, checked, written, queued; no name, no"
        f" parent, no error handled) misses it too, at {min(found):.1f} to {max(found):.1f} times. What the"
        " client adds to that floor is the rest.",
    ]


def _machines(found: list[dict[str, Any]]) -> list[str]:
    """Where it was measured; one paragraph if all is of one machine and commit."""
    lines: dict[str, list[str]] = {}
    for each in found:
        m = each.get("machine", {})
        versions = ", ".join(f"{name} {v}" for name, v in m.get("versions", {}).items())
        text = (
            f"{m.get('cpu')}, {m.get('cores')} cores, {m.get('memory_gib')} GiB, Linux {m.get('kernel')}, "
            f"Python {m.get('python')}; commit {m.get('commit')}; {versions}."
        )
        lines.setdefault(text, []).append(f"{each['name']} (load {m.get('load')} at its end)")
    return [f"- Machine: {text} Of: {', '.join(names)}." for text, names in lines.items()]


def main() -> None:
    """Print the page."""
    try:
        found = read_all(Path(sys.argv[1]))
    except (IndexError, ValueError) as error:
        raise SystemExit(f"report: {error}\nusage: report.py FOLDER") from error
    if not found:
        raise SystemExit(f"report: no results in {sys.argv[1]}; run make bench first")
    print(page(found), end="")


if __name__ == "__main__":
    main()
