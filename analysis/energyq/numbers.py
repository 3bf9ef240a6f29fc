"""How many figures does a person want to see?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NONE: Final = "–"
"""What stands where nothing is known. Never 0."""


def figures(value: float | None, digits: int = 4) -> str:
    """A number with that many significant figures; all of those before the point."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def energy_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """(unit, J in it) in which the largest of these energies, J, reads well."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return ("kWh", 3.6e6) if largest >= 3.6e5 else ("kJ", 1e3) if largest >= 1e4 else ("J", 1.0)


def in_unit(scale: float, energy_j: float | None) -> str:
    """An energy, J, in a unit of `scale` J."""
    return figures(None if energy_j is None else energy_j / scale)


def whole(value: int | None) -> str:
    """An integer with thousands marked."""
    return NONE if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """A share in percent; 100 only where nothing is missing."""
    if share is None:
        return NONE
    return "100" if share >= 1 else f"{min(100 * share, 99.9):.1f}"


def share_percent(share: float | None) -> str:
    """A share in percent with three figures; what is not there stays away."""
    return NONE if share is None else figures(100 * share, 3)
