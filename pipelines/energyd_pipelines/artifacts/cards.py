"""What does a stranger read beside an artifact? A card as model hubs know it, and our manifest in it.

`co2_eq_emissions` has the hubs' fields (grams; source, training_type, geographical_location, hardware_used).
Grams are stated only where the energy is whole and the grid's factor is known: else a sentence says why not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from energyd_client.version import __version__

if TYPE_CHECKING:
    from energyd_pipelines.artifacts.manifest import Manifest
    from energyd_pipelines.production import Production

TRAINING_TYPE: Final = {"student": "fine-tuning", "teacher": "pre-training"}
"""The hubs' two words; what is no training (logits, generated text) has none."""

J_PER_KWH: Final = 3.6e6


def emissions_g(production: Production) -> tuple[float | None, str | None]:
    """Grams of CO2eq of producing it, the building's share in it; or None and why."""
    if production.total_j is None:
        why = production.reason.get("total") or "its energy is not known"
        return None, f"no emissions are stated, since {why}"
    if production.grid_g_per_kwh is None:
        return None, "no emissions are stated, since the grid's g CO2eq per kWh is not known here"
    return production.total_j / J_PER_KWH * (production.pue or 1.0) * production.grid_g_per_kwh, None


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """What a hub reads of the card. Nothing unknown is in it."""
    production, kind = manifest.production, manifest.spec.kind
    grams, _ = emissions_g(production)
    source = f"energyd {__version__}, {production.origin or 'not measured'}"
    block = {
        "emissions": None if grams is None else float(f"{grams:.6g}"),
        "source": source,
        "training_type": TRAINING_TYPE.get(kind),
        "geographical_location": production.region,
        "hardware_used": ", ".join(production.hardware) or None,
    }
    fields = manifest.spec.fields
    teacher = fields.get("teacher")
    matter = {
        "license": manifest.licence,
        "base_model": fields.get("base_model") if kind == "student" else None,
        "tags": [
            "energyd",
            "distillation",
            kind,
            *([f"teacher:{teacher}"] if isinstance(teacher, str) else []),
        ],
        "co2_eq_emissions": {k: v for k, v in block.items() if v is not None},
    }
    return {k: v for k, v in matter.items() if v is not None}


def card(manifest: Manifest) -> str:
    """The whole README.md."""
    import yaml

    matter = yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True)
    production = manifest.production
    grams, why_not = emissions_g(production)
    said = why_not if grams is None else _grams_line(production, grams)
    told = f" {said[:1].upper()}{said[1:]}." if said else ""
    lines = [
        f"---\n{matter}---\n",
        f"# {manifest.spec.kind} {manifest.id[:12]}\n",
        "What making it took, attempts that failed included, as [energyd](https://github.com/energyd/energyd)\n"
        f"measured it: {_energy_line(production)}.{told}\n",
        _table(production),
        _made_of(manifest),
        "`distill artifacts import` checks every byte of an archive against the manifest below, and\n"
        "marks these joules as reported, since they were measured elsewhere.\n",
        f"```json\n{json.dumps(manifest.as_json(), indent=2, ensure_ascii=False)}\n```",
    ]  # fmt: skip
    return "\n".join(line for line in lines if line) + "\n"


def _energy_line(production: Production) -> str:
    if production.total_j is None:
        return "not known"
    doubt = "" if production.u_total_j is None else f" ± {production.u_total_j:.3g} J (k = 2)"
    return f"{production.total_j:.6g} J{doubt}, {production.origin or 'of unknown origin'}"


def _grams_line(production: Production, grams: float) -> str:
    pue = "" if production.pue is None else f" × PUE {production.pue:g}"
    return f"that is {grams:.3g} g CO2eq, at {production.grid_g_per_kwh:g} g per kWh{pue}"


def _table(production: Production) -> str:
    rows = ["| domain | energy | |", "| --- | --- | --- |"]
    for domain, joules in production.energy_j.items():
        told = "not known" if joules is None else f"{joules:.6g} J"
        rows.append(f"| {domain} | {told} | {production.reason.get(domain, '')} |")
    return "\n".join(rows) + "\n"


def _made_of(manifest: Manifest) -> str:
    if not manifest.parents:
        return ""
    lines = ["Made of these, whose energy is not in the figures above:\n"]
    for parent in manifest.parents:
        joules = parent.get("total_j")
        told = "of unknown energy" if joules is None else f"{joules:.6g} J"
        lines.append(f"- {parent.get('kind', 'artifact')} `{parent.get('id')}`, {told}")
    return "\n".join(lines) + "\n"
