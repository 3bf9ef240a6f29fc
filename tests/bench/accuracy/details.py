"""Is the stated doubt true, how did the sensors behave, and what went wrong?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from bench.accuracy import words
from bench.accuracy.plan import TICK
from bench.accuracy.raw import Load
from bench.accuracy.sections import LENGTHS, TOOLS
from bench.accuracy.stats import MAX_DOUBT_NS
from bench.accuracy.variants import origin_ns, trapezoid

FIGURES: Final = {"energy_j": "u_random_j", "integral_j": "u_integral_j"}
"""What a stage states, and its doubt. Where `energy_j` is the counter's, only `integral_j` is independent."""


def doubt(loads: list[Load]) -> list[str]:
    """Share of stages whose error lies within the stated doubt."""
    heads = ("figure", "window", "stages", "stated", "within", "median u / p95 of the error")
    lines = [words.DOUBT, "", "| " + " | ".join(heads) + " | median u of the energy |", "|---" * 7 + "|"]
    stated = [load for load in loads if "stage:u_random_j" in load.arrays]
    for figure in FIGURES:
        for length_s in LENGTHS:
            parts = [_stated(load, figure, length_s) for load in stated]
            if sum(len(part) for part in parts):
                lines.append(
                    f"| `{figure}` | {length_s:g} s | " + " | ".join(_coverage(np.concatenate(parts)))
                )
    flags = [flag for load in stated for flag in _flags(load)]
    return [*lines, "", f"Flags of these stages: {_count(flags)}. Methods: {_count(_methods(stated))}."]


def _coverage(rows: Any) -> list[str]:
    u, error, slack, energy = rows.T
    has = ~np.isnan(u) & ~np.isnan(error)
    cells = [str(len(u)), str(int(has.sum()))]
    if not has.any():
        return [*cells, "not stated", "–", "– |"]
    u, error, slack, energy = u[has], error[has], slack[has], energy[has]
    within, allowed = np.mean(error <= u), np.mean(error <= np.hypot(u, slack))
    cells.append(f"{100 * within:.1f} % ({100 * allowed:.1f} %)")
    cells.append(f"{np.median(u) / max(np.percentile(error, 95), 1e-9):.2f}")
    return [*cells, f"{100 * np.median(u / energy):.2f} % |"]


def _of_length(load: Load, length_s: float) -> Any:
    w = load.tool("energyd-stage", "w")
    return (load["win_kind"][w] == TICK) & (load["win_length_s"][w] == length_s)


def _stated(load: Load, figure: str, length_s: float) -> Any:
    """Rows of (stated u, absolute error, the reference's own doubt, energy), J."""
    w = load.tool("energyd-stage", "w")
    reference = load.reference_j("energyd-stage")
    seconds = np.maximum((load["win_t1_ns"][w] - load["win_t0_ns"][w]) / 1e9, 1e-9)
    # The client is called a few ms after the step that it is compared at: the ring's own power over these
    # moments carries its figure back to the steps.
    late = [
        trapezoid(load, (load.tool("energyd-stage", t) - origin_ns(load)).astype(float), _lag_ns(load))
        - trapezoid(load, (load[edge][w] - origin_ns(load)).astype(float), _lag_ns(load))
        for t, edge in (("begin_ns", "win_t0_ns"), ("end_ns", "win_t1_ns"))
    ]
    slack = load.doubt_ns(w) / 1e9 * reference / seconds
    error = np.abs(load[f"stage:{figure}"] + late[0] - late[1] - reference)
    rows = np.column_stack((load[f"stage:{FIGURES[figure]}"], error, slack, reference))
    return rows[_of_length(load, length_s)]


def _lag_ns(load: Load) -> float:
    return float(load.meta.get("lag_ns", 0))


def _flags(load: Load) -> list[str]:
    return [flag for word in load.meta.get("stage_words", []) for flag in word.get("flags", [])]


def _methods(loads: list[Load]) -> list[str]:
    said = [word for load in loads for word in load.meta.get("stage_words", [])]
    return [word["method"] for word in said if "method" in word]


def _count(flags: list[str]) -> str:
    return ", ".join(f"{flag} {flags.count(flag)}" for flag in dict.fromkeys(flags)) or "–"


def sensors(loads: list[Load]) -> list[str]:
    """Update periods and costs, by our own look and by the daemon's probe."""
    heads = ("load", "counter steps every", "instant changes every", "average changes every")
    lines = ["| " + " | ".join(heads) + " | ring: step p50, p95, max |", "|---|---|---|---|---|"]
    for load in loads:
        cells = [_every(load.tick_ns())]
        cells += [_every(load.arrays.get(f"{what}_t_ns", np.array([]))) for what in ("instant", "average")]
        steps = np.diff(load.arrays.get("ring_t_ns", np.array([]))) / 1e6
        cells.append("–" if len(steps) < 3 else ", ".join(
            f"{x:.1f} ms" for x in (np.median(steps), np.percentile(steps, 95), np.max(steps))))  # fmt: skip
        lines.append(f"| {load.name} | " + " | ".join(cells) + " |")
    for load in loads[-1:]:
        lines += [
            "",
            f"energyd's probe at its start ({load.meta.get('lag_ns', 0) / 1e6:g} ms are off its stamps):",
        ]
        for sensor in load.meta.get("sensors", []):
            lines.append(
                "- " + ", ".join(f"{k} {v}" for k, v in sensor.items() if v is not None and k != "t_ns")
            )
    about = "How late tools were called after a tick, and how long their calls took (median, p95):"
    return [*lines, "", about, "", *_calls(loads)]


def _every(t_ns: Any) -> str:
    steps = np.diff(t_ns) / 1e6
    if len(steps) < 3:
        return "–"
    low, middle, high = np.percentile(steps, [5, 50, 95])
    return f"{middle:.0f} ms (p5 {low:.0f}, p95 {high:.0f})"


def _calls(loads: list[Load]) -> list[str]:
    lines = ["| tool | called after the tick, ms | begin, ms | end, ms |", "|---|---|---|---|"]
    for tool in TOOLS:
        late, begin, end = [], [], []
        for load in (one for one in loads if tool in one.tools()):
            w = load.tool(tool, "w")
            tick = load["win_kind"][w] == TICK
            late.append((load.tool(tool, "begin_ns") - load["win_t0_ns"][w])[tick] / 1e6)
            begin.append((load.tool(tool, "begun_ns") - load.tool(tool, "begin_ns")) / 1e6)
            end.append((load.tool(tool, "ended_ns") - load.tool(tool, "end_ns")) / 1e6)
        if begin and np.concatenate(begin).any():
            cells = [
                f"{np.median(x):.2f}, {np.percentile(x, 95):.2f}"
                for x in map(np.concatenate, (late, begin, end))
            ]
            lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    return lines


def failures(loads: list[Load], held: list[dict[str, Any]]) -> list[str]:
    """Every tool or load that failed, and windows left out."""
    lines = [
        f"- {tool}: {said['failed']}"
        for s in held
        for tool, said in s.get("tools", {}).items()
        if said.get("failed")
    ]
    lines += [
        f"- {load.name}, {t}: {n}"
        for load in loads
        for t, ns in load.meta.get("tools", {}).items()
        for n in ns
    ]
    lines += [
        f"- load {name}: {n}"
        for s in held
        for name, n in s.get("loads", {}).items()
        if not n.startswith("kept")
    ]
    for load in loads:
        asked = len(load["win_k0"])
        doubtful = int((load.doubt_ns(np.arange(asked)) > MAX_DOUBT_NS).sum())
        unseen = load.meta.get("windows_without_step", 0)
        if doubtful or unseen or load.meta.get("gaps"):
            lines.append(
                f"- {load.name}: {doubtful} of {asked} windows left out because their two steps together "
                f"were not known to {MAX_DOUBT_NS / 1e6:.0f} ms, {unseen} because one was not seen; "
                f"{len(load.meta.get('gaps', []))} gaps in the samples"
            )
        reasons = [word["reason"] for word in load.meta.get("stage_words", []) if "reason" in word]
        if reasons:
            lines.append(f"- {load.name}: stages without energy: {_count(reasons)}")
    return lines or ["Nothing."]
