"""Is everything here fit to measure with, and what is to be done where it is not?

Runs the checks of `doctor_checks` over one case, with or without a daemon, and puts their answer into JSON or
a table.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from energyd.doctor_case import Row, close_case, open_case
from energyd.doctor_checks import CHECKS
from energyd_client.version import __version__

TIMEOUT_S: Final = 20.0
"""How long a driver may take to answer. A probe takes 1.5 s, CodeCarbon's start 4 s."""

_MARKS: Final = {"ok": "ok", "note": "note", "absent": "absent", "degraded": "DEGRADED"}


def examine(store: Path | None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The whole report: `state` (ok or degraded), `checks` (rows), and what they found.

    Keys carry their units; `agreement` is a share. `store`: whose daemon and whose counters; None: those of
    the environment.
    """
    case = open_case(store, timeout_s)
    try:
        rows = [row for check in CHECKS for row in check(case)]
    finally:
        close_case(case)
    degraded = any(row.state == "degraded" for row in rows)
    return {
        "state": "degraded" if degraded else "ok",
        "version": __version__,
        "checks": [asdict(row) for row in rows],
        **{
            key: case.facts.get(key)
            for key in ("daemon", "devices", "domains", "agreement", "clock", "places")
        },
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for a person: a table of sensors, then one line a row, with its cure below it."""
    out = [f"energyd {report['version']} doctor: {_MARKS[report['state']]}"]
    for device in report["devices"] or []:
        out += ["", *_device(device)]
    out.append("")
    rows = [Row(**row) for row in report["checks"]]
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        out.append(f"{row.check:<10} {row.name:<{width}}  {_MARKS[row.state]:<8}  {row.what}")
        if row.cure:
            out.append(f"{'':<{width + 23}}cure: {row.cure}")
    return out


def _device(device: dict[str, Any]) -> list[str]:
    """One GPU's sensors, the one in use marked."""
    facts = [f"{device['source']} is used", f"driver {device['driver']}"]
    if device["power_limit_mw"] is not None:
        facts.append(f"limit {device['power_limit_mw'] / 1000:g} W")
    facts += ["MIG"] if device["mig"] else []
    heads = ("sensor", "state", "period", "lag", "depth", "call", "dearest", "agreement")
    table = [heads]
    for s in device["sensors"]:
        mark = "*" if s["sensor"] == device["source"] else " "
        table.append(
            (
                mark + s["sensor"], s["state"], _ms(s["period_ns"]), _ms(s["lag_ns"]),
                "–" if s["depth"] is None else str(s["depth"]), _us(s["call_us"]), _us(s["call_max_us"]),
                "–" if s["agreement"] is None else f"{100 * s['agreement']:+.1f} %",
            )
        )  # fmt: skip
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    drawn = [
        "  "
        + "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    notes = [""] + [f"  {s['reason']}" if s["reason"] else "" for s in device["sensors"]]
    return [
        f"gpu {device['index']}  {device['name']}  {device['uuid']}: {', '.join(facts)}",
        *(line + note for line, note in zip(drawn, notes, strict=True)),
    ]


def _ms(value_ns: int | None) -> str:
    return "–" if value_ns is None else f"{value_ns / 1e6:.1f} ms"


def _us(value_us: float | None) -> str:
    return "–" if value_us is None else f"{value_us:.0f} µs"
