"""How much CO2e, and money, did a run's energy cost?

gCO2e = kWh × PUE × factor of the region's electricity; money = kWh × PUE × price. ± is the doubt of the
energy (u_total_j, k = 2) carried through: the factor is a yearly mean of a whole country, its doubt unknown.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyq.factors import Factor
from energyq.find import Refused, question
from energyq.formats import chosen, opened, print_table, write
from energyq.notes import few, is_whole, spoken
from energyq.numbers import NONE, figures

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]
ENV_REGION: Final = "ENERGYQ_REGION"
J_PER_KWH: Final = 3.6e6


def region_of(option: str | None) -> str:
    """The region asked for, by option or environment. Raises Refused: a guess could be wrong by ten times."""
    region = option or os.environ.get(ENV_REGION)
    if not region:
        raise Refused(
            "no region: factors differ more than tenfold between countries, so none is assumed\n"
            f"  cure: --region FRA (a country's three letters), or {ENV_REGION}=FRA in the environment"
        )
    return region


def price_of(text: str) -> tuple[float, str]:
    """(price of a kWh, currency or "") from `0.30`, `0.30/kWh` or `0.30 EUR/kWh`. Raises Refused."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([^\s\d/]{0,3})\s*(?:/\s*kWh)?\s*", text, re.IGNORECASE)
    if found is None:
        raise Refused(f"not a price: {text!r}\n  cure: --price 0.30/kWh, or 0.30EUR/kWh")
    return float(found[1]), found[2]


def show_carbon(
    reader: Reader, run_id: str | None, factor: Factor, pue: float, price: str | None, format_: str | None,
    output: Path | None,
) -> bool:  # fmt: skip
    """One row per run. False where an energy that should be there is unknown."""
    money = None if price is None else price_of(price)
    found = reader.sql(question("carbon"), {"run_id": run_id}).dicts()
    rows = [_row(r, factor, pue, money) for r in found]
    if chosen(format_, output) == "table":
        _table(rows, factor, pue, money, output)
    else:
        write(_as_result(rows), format_, output)
    return all(is_whole(r) for r in found)


def _row(r: Row, factor: Factor, pue: float, money: tuple[float, str] | None) -> Row:
    def scaled(joules: float | None, by: float) -> float | None:
        return None if joules is None else joules / J_PER_KWH * pue * by

    row = {
        "run_id": r["run_id"], "run": r["run"], "total_j": r["total_j"], "u_total_j": r["u_total_j"],
        "pue": pue, "energy_kwh": scaled(r["total_j"], 1), "co2e_g": scaled(r["total_j"], factor.g_per_kwh),
        "u_co2e_g": scaled(r["u_total_j"], factor.g_per_kwh), "estimated_share": r["estimated_share"],
        "region": factor.region, "factor_g_per_kwh": factor.g_per_kwh, "factor_year": factor.year,
        "factor_source": factor.source,
    }  # fmt: skip
    if money is not None:
        row |= {
            "price_per_kwh": money[0], "currency": money[1] or None,
            "cost": scaled(r["total_j"], money[0]), "u_cost": scaled(r["u_total_j"], money[0]),
        }  # fmt: skip
    return row | {"reason": r["reason"]}


def _as_result(rows: list[Row]) -> Any:
    from energyd.store.read import Result

    columns = list(rows[0]) if rows else ["run_id", "run", "co2e_g"]
    kinds = ["VARCHAR" if any(isinstance(r[c], str) for r in rows) else "DOUBLE" for c in columns]
    return Result(columns, kinds, iter(tuple(r.values()) for r in rows))


def _table(
    rows: list[Row], factor: Factor, pue: float, money: tuple[float, str] | None, output: Path | None
) -> None:
    cost = [f"cost {money[1]}".strip(), "± cost"] if money else []
    columns = ["run id", "run", "kWh", "gCO2e", "± g", *cost]
    cells = [
        [
            r["run_id"],
            r["run"] or "?",
            figures(r["energy_kwh"]),
            figures(r["co2e_g"]),
            figures(r["u_co2e_g"], 2),
        ]
        + ([figures(r["cost"]), figures(r["u_cost"], 2)] if money else [])
        for r in rows
    ]
    with opened(output) as out:
        print_table(columns, [False, False] + [True] * (len(columns) - 2), cells, out, ["± cost", "run"])
        for line in _below(rows, factor, pue, money):
            out.write(line + "\n")


def _below(rows: list[Row], factor: Factor, pue: float, money: tuple[float, str] | None) -> list[str]:
    where = f"{factor.country} {factor.year}, a yearly mean, {factor.source}, offline"
    lines = [
        f"factor: {factor.g_per_kwh:g} gCO2e/kWh ({where})",
        f"PUE: {pue:g}" + (" (none was given: the data centre's own use is left out)" if pue == 1 else ""),
    ]
    if money:
        lines.append(f"price: {money[0]:g} {money[1]}".rstrip() + " per kWh, PUE included in the energy")
    lines.append("±: doubt of the energy, k = 2 (95 %); the factor's own doubt is not known and not in it")
    if any(r["total_j"] is not None and r["u_total_j"] is None for r in rows):
        lines.append(f"{NONE} under ±: the store states no doubt for that energy")
    shares = [r["estimated_share"] for r in rows if r["estimated_share"]]
    if shares:
        lines.append(f"up to {100 * max(shares):.3g} % of the energy is an estimate, not a measurement")
    lines.append("energy: GPUs and CPUs alone; memory, fans, network and making the hardware are not in it")
    reasons: dict[str, list[str]] = {}
    for r in rows:
        if r["reason"]:
            reasons.setdefault(r["reason"], []).append(r["run"] or "?")
    return lines + [f"unknown for {few(names)}: {spoken(reason)}" for reason, names in reasons.items()]
