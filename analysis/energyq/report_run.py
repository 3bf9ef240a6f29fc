"""What does the report of a run hold? Its stages, its power, what it was measured with, and every doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from energyq import figure_power
from energyq.drawing import Drawing
from energyq.figure_power import Span, Trace
from energyq.find import Refused, question
from energyq.hosts import clock_notes, host_cells
from energyq.notes import FLAGS
from energyq.numbers import NONE, energy_unit, figures, percent, share_percent, whole
from energyq.page import figure, heading, items, page, paragraph, section, table
from energyq.starved import add_starved, flags_of
from energyq.svg import svg

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
_PIECES: Final = 12_000  # of all devices together: 16 bytes each keep the page below 500 kB
_SPANS: Final = 400  # stages drawn; the table has all
METHOD: Final = (
    "Energy is the integral of power between a stage's two instants, edges interpolated, with the hardware's "
    "own counter beside it. ± is the random doubt, 95 % (k = 2); ± all adds what is common to all of "
    "a board. A dash is what is not known, never 0."
)
TRACE: Final = "Line: mean; band: lowest to highest; bars: stages. The wheel zooms, a double click shows all."


def run_report(reader: Reader, run_ids: Sequence[str]) -> tuple[str, dict[str, Drawing]]:
    """(the page as HTML, its figures by name) of runs. Raises Refused for one without stages."""
    parts: list[str] = []
    drawn: dict[str, Drawing] = {}
    totals = {r["run_id"]: r for r in reader.sql(question("runs")).dicts()}
    for run_id in run_ids:
        total = totals.get(run_id, {})
        name = "power" if len(run_ids) == 1 else f"power-{len(drawn) + 1}"
        about, drawing = _about_run(reader, run_id, total, name, _PIECES // len(run_ids))
        parts += about
        drawn |= {name: drawing} if drawing is not None else {}
    named = ", ".join(str(totals.get(run_id, {}).get("run") or run_id) for run_id in run_ids)
    parts.append(section("Method and doubt", paragraph(METHOD)))
    return page(f"energyd: {named}", parts, script()), drawn


def _about_run(
    reader: Reader, run_id: str, total: Row, figure_name: str, pieces: int
) -> tuple[list[str], Drawing | None]:
    """(parts of the page, the trace that is among them)."""
    stages = reader.sql(question("stages"), {"run_id": run_id}).dicts()
    add_starved(reader, stages)
    if not stages:
        raise Refused(f"run {run_id} has no stages\n  cure: `energyq runs` lists others")
    about = reader.sql("SELECT * FROM runs WHERE run_id = $run_id", {"run_id": run_id}).dicts()
    devices = reader.sql(question("environment"), {"runs": [run_id]}).dicts()
    name = total.get("run") or run_id
    drawing = power_drawing(reader, devices, stages, figure_name, pieces)
    parts = [
        heading(
            f"Energy of run {name}", f"{run_id}, {total.get('status')}, {figures(total.get('seconds'))} s"
        ),
        paragraph(_verdict(total)),
        section("Power", trace(drawing) if drawing is not None else ""),
        section("Stages", _stages(stages), items(_flags(stages))),
        _hosts(reader, run_id) if reader.source == "lake" else "",
        section("Measured with", devices_table(devices), items(_environment(about[0] if about else {}))),
    ]
    return [part for part in parts if part], drawing


def script() -> str:
    """The JavaScript of the trace's zoom."""
    return files("energyq").joinpath("zoom.js").read_text(encoding="utf-8")


def _verdict(total: Row) -> str:
    joules = total.get("total_j")
    if joules is None:
        return f"Its energy is not known: {total.get('reason') or 'no reason given'}."
    unit, scale = energy_unit([joules])
    text = f"It took {figures(joules / scale)} {unit}"
    if total.get("u_random_j") is not None:
        text += f" ± {figures(total['u_random_j'] / scale, 2)}"
    parts = [f"{k.upper()} {figures(total[c] / scale)}" for k, c in (("gpu", "gpu_j"), ("cpu", "cpu_j"))
             if total.get(c) is not None]  # fmt: skip
    text += f" ({', '.join(parts)})" if parts else ""
    if total.get("estimated_share"):
        text += f"; {share_percent(total['estimated_share'])} % of it is estimated, not measured"
    if total.get("j_per_token") is not None:
        text += f"; {figures(total['j_per_token'])} J per {total['token_unit']} token"
    return text + "."


def trace(drawing: Drawing) -> str:
    """The power of a run as a figure that the page's script zooms."""
    return figure(svg(drawing), TRACE).replace("<figure>", '<figure class="power">', 1)


def drawing_of_run(reader: Reader, run_id: str, name: str) -> Drawing | None:
    """The power of one run among others on a page, drawn more coarsely."""
    stages = reader.sql(question("stages"), {"run_id": run_id}).dicts()
    devices = reader.sql(question("environment"), {"runs": [run_id]}).dicts()
    return power_drawing(reader, devices, stages, name, _PIECES // 8) if stages else None


def power_drawing(
    reader: Reader, charged: list[Row], stages: list[Row], name: str, most: int
) -> Drawing | None:
    """The trace of the devices charged to a run, and its stages; `most`: pieces of all devices together."""
    # Of a lake, the newest sample is in any of thousands of files.
    newest = reader.newest_t_ns if any(s["t1_ns"] is None for s in stages) else None
    ends = [newest if s["t1_ns"] is None else s["t1_ns"] for s in stages]  # an open one goes on until now
    t0, t1 = min(s["t0_ns"] for s in stages), max((e for e in ends if e is not None), default=None)
    if t1 is None or t1 <= t0:
        return None
    seconds = (t1 - t0) / 1e9
    devices = {d["device"]: d for d in charged}
    pieces = max(min(most // max(len(devices), 1), 4_000), 200)
    rows = reader.sql(question("power"), {"t0_ns": t0, "t1_ns": t1, "pieces": pieces}).dicts()
    found: dict[int, list[tuple[int, float, float, float]]] = {}
    for r in rows:
        found.setdefault(r["device"], []).append((r["piece"], r["low_w"], r["high_w"], r["mean_w"]))
    traces = [
        Trace(f"{d['domain']} {number}", d["max_step_ns"] / 1e9 / seconds * pieces + 2, found[number])
        for number, d in devices.items()
        if number in found
    ]
    spans = [
        Span(s["stage"], s["depth"], (s["t0_ns"] - t0) / 1e9, ((s["t1_ns"] or t1) - t0) / 1e9)
        for s in sorted(stages, key=lambda s: (s["depth"], s["t0_ns"]))[:_SPANS]
    ]
    title = f"Power of run {stages[0]['run']}"
    return figure_power.draw(title, traces, spans, seconds, pieces, name)


def _hosts(reader: Reader, run_id: str) -> str:
    """What the run took on each host, and how their wall clocks go, which the trace puts on one axis."""
    rows = reader.sql(question("run_hosts"), {"run_id": run_id}).dicts()
    columns, cells = host_cells(rows, of_run=True)
    return section("Hosts", table(columns, cells, words=2), items(clock_notes(rows)))


def _stages(stages: list[Row]) -> str:
    starving = any(s["starved_share"] is not None for s in stages)
    rows = [
        ["\u2003" * s["depth"] + s["stage"], figures(s["seconds"]), figures(s["gpu_j"]), figures(s["cpu_j"]),
         figures(s["total_j"]), figures(s["u_random_j"], 2), figures(s["u_total_j"], 2), figures(s["mean_w"]),
         whole(s["tokens"]), s["token_unit"] or NONE, figures(s["j_per_token"]), percent(s["coverage"]),
         *([percent(s["starved_share"])] if starving else []), s["reason"] or ""]
        for s in stages
    ]  # fmt: skip
    energies = ["GPU / J", "CPU / J", "total / J", "±", "± all", "mean / W"]
    columns = ["stage", "s", *energies, "tokens", "unit", "J/token", "coverage / %"]
    columns += [*(["starved / %"] if starving else []), "why not"]
    return table(columns, rows)


def _flags(stages: list[Row]) -> list[str]:
    flags = sorted({f for s in stages for f in flags_of(s) if f in FLAGS})
    return [f"{flag}: {FLAGS[flag]}" for flag in flags]


def devices_table(devices: list[Row]) -> str:
    """What measured, by which driver and how often."""
    rows = [
        [d["domain"], d["name"] or NONE, d["source"] or NONE, d["origin"] or NONE, d["driver"] or NONE,
         figures(d["period_ms"]), figures(d["limit_w"])]
        for d in devices
    ]  # fmt: skip
    columns = ["domain", "device", "source", "origin", "driver", "period / ms", "limit / W"]
    return table(columns, rows, words=5)


def _environment(about: Row) -> list[str]:
    found = [f"commit: {about['git_commit']}"] if about.get("git_commit") else []
    for what in ("labels", "env"):
        values = json.loads(about.get(what) or "{}")
        found += [
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in values.items()
        ]
    return found
