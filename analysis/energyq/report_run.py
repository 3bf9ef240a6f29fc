"""What does the report of one run hold? Its stages, its power, what it was measured with, and every doubt."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from energyq import figure_power
from energyq.figure_power import Span, Trace
from energyq.find import Refused, question
from energyq.notes import FLAGS
from energyq.numbers import NONE, energy_unit, figures, percent, share_percent, whole
from energyq.page import figure, heading, items, page, paragraph, section, table

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


def run_report(reader: Reader, run_id: str) -> str:
    """The page as HTML. Raises Refused for a run without stages."""
    stages = reader.sql(question("stages"), {"run_id": run_id}).dicts()
    if not stages:
        raise Refused(f"run {run_id} has no stages\n  cure: `energyq runs` lists others")
    (total,) = [r for r in reader.sql(question("runs")).dicts() if r["run_id"] == run_id] or [{}]
    about = reader.sql("SELECT * FROM runs WHERE run_id = $run_id", {"run_id": run_id}).dicts()
    devices = reader.sql(question("environment"), {"run_id": run_id}).dicts()
    name = total.get("run") or run_id
    parts = [
        heading(
            f"Energy of run {name}", f"{run_id}, {total.get('status')}, {figures(total.get('seconds'))} s"
        ),
        paragraph(_verdict(total)),
        section("Power", _power(reader, devices, stages)),
        section("Stages", _stages(stages), items(_flags(stages))),
        section("Measured with", _devices(devices), items(_environment(about[0] if about else {}))),
        section("Method and doubt", paragraph(METHOD)),
    ]
    return page(f"energyd: {name}", [part for part in parts if part], script())


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


def _power(reader: Reader, charged: list[Row], stages: list[Row]) -> str:
    """The trace of the devices charged to the run, and its stages."""
    newest = reader.newest_t_ns
    ends = [newest if s["t1_ns"] is None else s["t1_ns"] for s in stages]  # an open one goes on until now
    t0, t1 = min(s["t0_ns"] for s in stages), max((e for e in ends if e is not None), default=None)
    if t1 is None or t1 <= t0:
        return ""
    seconds = (t1 - t0) / 1e9
    devices = {d["device"]: d for d in charged}
    pieces = max(min(_PIECES // max(len(devices), 1), 4_000), 200)
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
    drawn = figure_power.draw(f"Power of run {stages[0]['run']}", traces, spans, seconds, pieces)
    return figure(drawn.svg(), TRACE).replace("<figure>", '<figure class="power">', 1)


def _stages(stages: list[Row]) -> str:
    rows = [
        ["\u2003" * s["depth"] + s["stage"], figures(s["seconds"]), figures(s["gpu_j"]), figures(s["cpu_j"]),
         figures(s["total_j"]), figures(s["u_random_j"], 2), figures(s["u_total_j"], 2), figures(s["mean_w"]),
         whole(s["tokens"]), s["token_unit"] or NONE, figures(s["j_per_token"]), percent(s["coverage"]),
         s["reason"] or ""]
        for s in stages
    ]  # fmt: skip
    energies = ["GPU / J", "CPU / J", "total / J", "±", "± all", "mean / W"]
    columns = ["stage", "s", *energies, "tokens", "unit", "J/token", "coverage / %", "why not"]
    return table(columns, rows)


def _flags(stages: list[Row]) -> list[str]:
    flags = sorted({f for s in stages for f in s["flags"] or () if f in FLAGS})
    return [f"{flag}: {FLAGS[flag]}" for flag in flags]


def _devices(devices: list[Row]) -> str:
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
