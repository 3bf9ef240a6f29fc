"""How wrong is each tool? Makes the whole report from the raw data in DIR.

python3 tests/bench/accuracy/report.py DIR > docs/results/accuracy-h100.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.accuracy import details, sections, variants, words
from bench.accuracy.raw import Load, read_all, sessions
from bench.accuracy.sections import FREE_LENGTHS, LENGTHS, TOOLS, cell, percent
from bench.accuracy.stats import FREE, TICK, rows_of, summarise


def report(folder: Path) -> str:
    """Markdown."""
    loads, held = read_all(folder), sessions(folder)
    parts = [
        ["# How wrong is each tool? Energy of windows on one GPU, against its own counter", ""],
        sections.head(loads, held, folder),
        ["## What was asked, and whether it is met", "", *sections.acceptance(loads), ""],
        ["## All loads together", "", *pooled(loads)],
        ["## Bursty loads, 5 and 10 s", "", *sections.bursty(loads), ""],
        ["## Real language-model loads, windows of 12 s and more", "", *sections.llm(loads), ""],
        ["## Where a peer is as good", "", *sections.as_good(loads), ""],
        ["## Does the doubt that energyd states hold?", "", *details.doubt(loads), ""],
        ["## What helped: other ways to use the same samples", "", *what_helped(loads), ""],
        ["## Each load", "", *each_load(loads)],
        ["## The sensors, as they were found", "", *details.sensors(loads), ""],
        ["## What went wrong", "", *details.failures(loads, held), ""],
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def pooled(loads: list[Load]) -> list[str]:
    """A table for each window length."""
    lines = [
        words.POOLED,
        "",
    ]
    for length_s in LENGTHS:
        lines += [
            f"### Windows of {length_s:g} s", "",
            "| tool | n | missing | error p50 | abs. error p95 | n, any phase | missing | mean of repeats "
            "| abs. error p95 |", "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for tool, called in TOOLS.items():
            rows = rows_of(loads, tool)
            if not len(rows):
                lines.append(f"| {called} | no result: {sections.why_absent(loads, tool)} |||||||| ")
                continue
            tick = summarise(rows.pick(length_s, TICK))
            free = summarise(rows.pick(length_s, FREE))
            mean = "–" if free.mean is None else f"{percent(free.mean)} ± {100 * (free.mean_se or 0):.2f}"
            lines.append(
                f"| {called} | {tick.n} | {cell(tick.missing, False)} | {cell(tick.p50)} "
                f"| {cell(tick.p95, False)} "
                f"| {free.n} | {cell(free.missing, False)} | {mean} | {cell(free.p95, False)} |"
            )
        lines.append("")
    return lines


def each_load(loads: list[Load]) -> list[str]:
    """For each load: tool by window length."""
    lines = [
        words.EACH,
        "",
    ]
    for name in dict.fromkeys(load.name for load in loads):
        some = [load for load in loads if load.name == name]
        mean_w = np.mean([_mean_w(load) for load in some])
        lines += [f"### {name} (mean {mean_w:.0f} W)", "", *[_did(load) for load in some], ""]
        heads = [f"{s:g} s" for s in LENGTHS] + [f"mean, {s:g} s" for s in FREE_LENGTHS]
        lines += ["| tool | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for tool, called in TOOLS.items():
            rows = rows_of(some, tool)
            if not len(rows):
                continue
            cells = [_short(summarise(rows.pick(s, TICK))) for s in LENGTHS]
            cells += [cell(summarise(rows.pick(s, FREE)).mean) for s in FREE_LENGTHS]
            lines.append(f"| {called} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def what_helped(loads: list[Load]) -> list[str]:
    """The variants' table with what it means."""
    return [
        words.HELPED,
        "",
        *variants.table(loads),
    ]


def short(folder: Path) -> str:
    """A few lines for the terminal."""
    loads = read_all(folder)
    if not loads:
        return "no load was kept"
    lines = [f"{len(loads)} loads: {', '.join(load.name for load in loads)}"]
    lines.append(
        f"{'':24s}" + "".join(f"{f'{s:g} s p95':>12s}" for s in LENGTHS) + f"{'missing':>9s}{'n':>7s}"
    )
    for tool in TOOLS:
        rows = rows_of(loads, tool)
        if not len(rows):
            lines.append(f"{tool:24s}  none: {sections.why_absent(loads, tool)[:70]}")
            continue
        found = [summarise(rows.pick(s, TICK)).p95 for s in LENGTHS]
        text = "".join(f"{'–' if p is None else f'{100 * p:.2f} %':>12s}" for p in found)
        lines.append(f"{tool:24s}{text}{100 * rows.missing.mean():8.1f}%{len(rows):7d}")
    return "\n".join(lines + sections.acceptance(loads) + variants.table(loads))


def _short(summary: Any) -> str:
    if not summary.n:
        return "–"
    missing = f" ({100 * summary.missing:.0f} % missing)" if summary.missing else ""
    return f"{cell(summary.p50)} / {cell(summary.p95, False)}{missing}"


def _mean_w(load: Load) -> float:
    seconds = (load.tick_ns()[-1] - load.tick_ns()[0]) / 1e9
    return float((load["tick_mj"][-1] - load["tick_mj"][0]) / 1000.0 / seconds)


def _did(load: Load) -> str:
    did = {k: v for k, v in load.meta.get("did", {}).items() if k != "stopped"}
    return f"{load.meta.get('seconds', 0):g} s steady; " + (
        ", ".join(f"{k} {v}" for k, v in did.items()) or "nothing"
    )


if __name__ == "__main__":
    print(report(Path(sys.argv[1])), end="")
