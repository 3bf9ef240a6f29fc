"""How much CO2e does a kilowatt-hour carry, by country? CodeCarbon's offline table, read as a file.

CodeCarbon itself is not imported: that would load pandas, look for GPUs and add log handlers, for one number.
Its own answer for a country is the same number (a test holds both together).
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from energyq.find import Refused

_TABLE: Final = ("data", "private_infra", "global_energy_mix.json")


class FactorsMissing(Exception):
    """CodeCarbon, whose table is needed, is not installed or is another than we know."""


@dataclass(frozen=True)
class Factor:
    """Carbon intensity of one country's electricity."""

    region: str  # ISO 3166 alpha-3
    country: str
    g_per_kwh: float  # gCO2e
    year: int
    source: str


def factor_of(region: str) -> Factor:
    """The factor of a country by its three letters or name. Raises Refused (unknown) or FactorsMissing."""
    table, source = _table()
    wanted = region.strip()
    by_name = {row["country_name"].casefold(): code for code, row in table.items()}
    code = wanted.upper() if wanted.upper() in table else by_name.get(wanted.casefold())
    if code is None:
        near = difflib.get_close_matches(wanted.upper(), table, n=4, cutoff=0.5)
        names = difflib.get_close_matches(wanted.casefold(), by_name, n=3)
        near = [by_name[n] for n in names] + [c for c in near if by_name.get(c) not in names]
        shown = ", ".join(f"{c} ({table[c]['country_name']})" for c in dict.fromkeys(near))
        raise Refused(
            f"no carbon factor for region {region!r} among {len(table)} countries of {source}\n"
            f"  cure: a country's three letters{f', such as {shown}' if shown else ', such as FRA or USA'}"
        )
    row = table[code]
    return Factor(code, row["country_name"], float(row["carbon_intensity"]), int(row["year"]), source)


def _table() -> tuple[dict[str, dict[str, Any]], str]:
    """{three letters: row} of the countries with a factor, and whose table it is."""
    spec = find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        raise FactorsMissing(
            "carbon factors come with CodeCarbon, which is not installed\n"
            "  cure: pip install 'energyd[daemon]', or pip install codecarbon"
        )
    path = Path(spec.submodule_search_locations[0], *_TABLE)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = {code: row for code, row in rows.items() if row.get("carbon_intensity") is not None}
        release = version("codecarbon")
    except (OSError, ValueError, AttributeError) as error:
        raise FactorsMissing(
            f"cannot read CodeCarbon's carbon factors at {path}: {error}\n"
            "  cure: pip install 'codecarbon>=3.3.2'"
        ) from error
    return known, f"CodeCarbon {release}"
