"""How does the watcher want it: stages in which order, joules told in which other coin?

gCO2e and money need a factor that only the watcher knows; none is assumed. `energyq carbon` has those of
countries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from energyd.top_cost import cost_of
from energyd.top_state import Stage, TopState

J_PER_KWH: Final = 3.6e6
ORDERS: Final = ("begin", "energy", "power", "J/token")
"""By what stages are sorted, each after its siblings; all but the first: the most expensive first."""


@dataclass(frozen=True)
class Rates:
    """What a kWh costs the world, in gCO2e, and its payer, in `currency`; None: not told."""

    carbon_g: float | None = None
    price: float | None = None
    currency: str = ""

    def co2e_g(self, energy_j: float | None) -> float | None:
        """gCO2e of so many joules; None where either is unknown."""
        return None if energy_j is None or self.carbon_g is None else energy_j / J_PER_KWH * self.carbon_g

    def cost(self, energy_j: float | None) -> float | None:
        """Money for so many joules, in `currency`; None where either is unknown."""
        return None if energy_j is None or self.price is None else energy_j / J_PER_KWH * self.price


UNPRICED: Final = Rates()


@dataclass(frozen=True)
class Look:
    """The watcher's wishes."""

    order: str = ORDERS[0]
    rates: Rates = UNPRICED

    def next_order(self) -> Look:
        """The same, sorted by the next thing."""
        return Look(ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)], self.rates)


PLAIN: Final = Look()


def rates(carbon: float | None, price: str | None) -> Rates:
    """From options: gCO2e a kWh, and a price as `0.30`, `0.30/kWh` or `0.30EUR/kWh`. Raises ValueError."""
    if price is None:
        return Rates(carbon)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([^\s\d/]{0,3})\s*(?:/\s*kWh)?\s*", price, re.IGNORECASE)
    if found is None:
        raise ValueError(f"not a price: {price!r}\n  cure: --price 0.30/kWh, or 0.30EUR/kWh")
    return Rates(carbon, float(found[1]), found[2])


def rank(look: Look, state: TopState, local_ns: int) -> Callable[[Stage], Any] | None:
    """What stages are sorted by, the first lowest; unknown comes last. None: by their begin."""
    if look.order == ORDERS[0]:
        return None

    def key(stage: Stage) -> float:
        cost = cost_of(state, stage, local_ns)
        unit = cost.unit()
        found = {"energy": cost.total_j, "power": cost.mean_w()}
        found["J/token"] = cost.j_per(unit) if unit else None
        value = found[look.order]
        return float("inf") if value is None else -value

    return key
