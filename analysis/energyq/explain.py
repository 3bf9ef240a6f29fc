"""How did one stage's energy come about, step by step, so that a person can redo it by hand?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyq.find import find_stage, question
from energyq.formats import jsonable, opened
from energyq.notes import FLAGS, WHY
from energyq.numbers import figures, percent, whole

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
METHODS = {"integral": "integral of power", "counter": "hardware counter"}


def explain_stage(reader: Reader, word: str, format_: str | None, output: Path | None) -> None:
    """Write the whole derivation as text, or as one JSON object."""
    facts = gather(reader, word)
    with opened(output) as out:
        if format_ == "json":
            out.write(json.dumps(jsonable(facts), ensure_ascii=False, indent=1) + "\n")
        else:
            out.writelines(line + "\n" for line in lines(facts))


def gather(reader: Reader, word: str) -> Row:
    """Everything the store knows about one stage's energy. Raises NotFound."""
    stage = find_stage(reader, word)
    key = {"run_id": stage["run_id"], "stage_id": stage["stage_id"]}
    devices = reader.sql(question("explain_devices"), key).dicts()
    edges = reader.sql(question("explain_edges"), key).dicts()
    gaps = reader.sql(question("explain_gaps"), key).dicts()
    counters = reader.sql(question("explain_counters"), key).dicts()
    for device in devices:
        number = device["device"]
        mine = {e["t_ns"]: e for e in edges if e["device"] == number}
        device["begin"], device["end"] = mine.get(stage["t0_ns"]), mine.get(stage["t1_ns"])
        device["gaps"] = [g for g in gaps if g["device"] == number]
        device["counter"] = next((c for c in counters if c["device"] == number), None)
    return {**stage, "devices": devices}


def lines(facts: Row) -> Iterator[str]:
    """The derivation as text."""
    yield f"stage {facts['stage']} ({facts['stage_id']}) of run {facts['run']} ({facts['run_id']})"
    yield f"  path    {facts['path']}, {facts['status']}; flags: {_flags(facts['flags'])}"
    yield f"  begin   t0 = {facts['t0_ns']} ns  {_clock(facts['t0_ns'])}"
    if facts["t1_ns"] is None:
        yield "  end     still open: no energy yet"
        return
    yield f"  end     t1 = {facts['t1_ns']} ns  {_clock(facts['t1_ns'])}"
    yield f"  length  {whole(facts['t1_ns'] - facts['t0_ns'])} ns"
    for device in facts["devices"]:
        yield ""
        yield from _device(device)
    if not facts["devices"]:
        yield "no device is charged to it"


def _device(d: Row) -> Iterator[str]:
    yield f"device {d['device']}: {d['name']} ({d['uuid']}), {d['domain']}, {d['origin']} by {d['source']}"
    if d["period_ns"] is not None:
        yield f"  a sample every {d['period_ns'] / 1e6:g} ms; over {d['max_step_ns'] / 1e6:g} ms is a gap"
    yield "  between samples a and b, u ns into D:  E = a.cum + (b.cum − a.cum)·s(u)/s(D),"
    yield "                                         s(x) = a.mW·x + (b.mW − a.mW)·x²/2D"
    yield from _edge("begin", "t0", d["begin"])
    yield from _edge("end", "t1", d["end"])
    if d["energy_j"] is None:
        yield f"  energy  unknown: {WHY.get(d['reason'], d['reason'])}"
    else:
        mean = "" if d["mean_w"] is None else f", mean {d['mean_w']:.3f} W"
        doubt = "" if d["u_random_j"] is None else f" ± {figures(d['u_random_j'], 2)} J"
        yield f"  energy  {d['energy_j']:.6f} J{doubt} stored{_by(d)}; {_inside(d)}{mean}"
    if d["recomputed_j"] is not None:
        again = f"{whole(d['end']['e_uj'] - d['begin']['e_uj'])} µJ = {d['recomputed_j']:.6f} J"
        yield f"  again   E(t1) − E(t0) = {again} from raw samples{_same(d)}"
    else:
        hole = any(gap["bridged_uj"] is None for gap in d["gaps"])
        yield f"  again   no: {'nothing bridges a gap inside' if hole else 'an edge lacks its samples'}"
    yield f"  covered {percent(d['coverage'])} % of the window"
    for gap in d["gaps"]:
        bridged = gap["bridged_uj"]
        bridge = (
            "nothing bridges it"
            if bridged is None
            else f"the counter gives {bridged / 1e6:.6f} J for all of it"
        )
        yield f"  gap     {gap['reason']}, {gap['inside_ns'] / 1e9:.3f} s of it inside; {bridge}"
    yield from _counter(d)
    yield from _doubt(d)
    if d["note"]:
        yield f"  note    {d['note']}"
    yield f"  flags   {_flags(d['flags'])}"
    for flag in d["flags"] or ():
        if flag in FLAGS:
            yield f"          {flag}: {FLAGS[flag]}"


def _inside(d: Row) -> str:
    return "samples inside not counted" if d["n_samples"] is None else f"{d['n_samples']} samples inside"


def _by(d: Row) -> str:
    return "" if d["method"] is None else f", by the {METHODS.get(d['method'], d['method'])}"


def _doubt(d: Row) -> Iterator[str]:
    """Both figures with their doubts, then that of the figure kept."""
    if d["energy_j"] is None:
        return
    for name, joules, doubt in (
        ("integral", d["integral_j"], d["u_integral_j"]),
        ("counter", d["counter_j"], d["u_counter_j"]),
    ):
        if joules is not None and doubt is not None:
            kept = "; kept" if name == d["method"] else ""
            yield f"  figure  {name:<8} {joules:.6f} J ± {figures(doubt, 2)} J{kept}"
    if d["u_random_j"] is None or d["u_total_j"] is None:
        yield "  doubt   not stated"
        return
    yield (
        f"  doubt   ± {figures(d['u_random_j'], 2)} J random, ± {figures(d['u_total_j'], 2)} J "
        "with the sensor's own error (k = 2)"
    )


def _edge(name: str, t: str, e: Row | None) -> Iterator[str]:
    """One edge with the samples around it."""
    if e is None or e["a_ns"] is None:
        yield f"  {name:<7} no sample before {t}"
        return
    u_ns = e["t_ns"] - e["a_ns"]
    yield f"  {name:<7} a: {whole(u_ns)} ns before {t}, {whole(e['a_mw'])} mW, cum {e['a_uj']} µJ"
    if u_ns == 0:
        yield f"          E({t}) = a.cum = {e['e_uj']} µJ"
    elif e["b_ns"] is None:
        yield f"          no sample after {t}"
    else:
        after_ns = e["b_ns"] - e["t_ns"]
        yield f"          b: {whole(after_ns)} ns after {t}, {whole(e['b_mw'])} mW, cum {e['b_uj']} µJ"
        yield f"          u = {u_ns}, D = {e['b_ns'] - e['a_ns']};  E({t}) = {e['e_uj']} µJ"


def _counter(d: Row) -> Iterator[str]:
    """The hardware counter's word on the same window."""
    reads = d["counter"]
    if reads is None:
        yield "  counter no read inside"
    else:
        first = f"{reads['first_mj']} mJ at t0 {(reads['first_ns'] - d['t0_ns']) / 1e9:+.3f} s"
        last = f"{reads['last_mj']} mJ at t1 − {(d['t1_ns'] - reads['last_ns']) / 1e9:.3f} s"
        yield f"  counter {reads['n_reads']} reads inside; used: {first} and {last}"
        if reads["first_cum_uj"] is not None and reads["last_cum_uj"] is not None:
            yield f"          the integral at those: {reads['first_cum_uj']} µJ and {reads['last_cum_uj']} µJ"
    integral_j = _integral(d)
    if d["counter_j"] is not None and integral_j is not None:
        share = f" ({100 * (integral_j / d['counter_j'] - 1):+.2f} %)" if d["counter_j"] else ""
        apart = f"{integral_j - d['counter_j']:+.6f} J{share}"
        yield f"          carried to the edges {d['counter_j']:.6f} J; the integral differs by {apart}"


def _integral(d: Row) -> float | None:
    """J of the power integral as stored: the energy itself unless the counter's figure was kept."""
    integral: float | None = d["integral_j"] if d["method"] == "counter" else d["energy_j"]
    return integral


def _same(d: Row) -> str:
    integral_j = _integral(d)
    if integral_j is None:
        return ""
    apart_uj = round((d["recomputed_j"] - integral_j) * 1e6)
    return ": the same" if abs(apart_uj) <= 2 else f": DIFFERS by {apart_uj} µJ"


def _flags(flags: list[str] | None) -> str:
    return ", ".join(flags) if flags else "none"


def _clock(t_ns: int) -> str:
    """Store time as UTC, to the nanosecond."""
    at = datetime.fromtimestamp(t_ns // 1_000_000_000, tz=timezone.utc)
    return f"{at:%Y-%m-%d %H:%M:%S}.{t_ns % 1_000_000_000:09d} UTC"
