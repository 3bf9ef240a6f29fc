"""How far is a tool from the reference? Counts and percentiles, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.plan import FREE, TICK
from bench.accuracy.raw import Load

MAX_DOUBT_NS: Final = 16_000_000
"""Tick windows whose two edges together are known less well are left out, for all tools alike."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """One tool's windows, of any number of loads. Energies in J."""

    load: NDArray[Any]
    length_s: NDArray[np.float64]
    kind: NDArray[np.int8]
    seconds: NDArray[np.float64]
    reference_j: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    doubt_ns: NDArray[np.float64]

    def where(self, mask: Mask) -> Rows:
        """Those for which the mask holds."""
        return Rows(**{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})

    def pick(
        self, length_s: float | None = None, kind: int = TICK, loads: Iterable[str] | None = None
    ) -> Rows:
        """Those of one length, kind and some loads."""
        mask = self.kind == kind
        if length_s is not None:
            mask &= self.length_s == length_s
        if loads is not None:
            mask &= np.isin(self.load, list(loads))
        return self.where(mask)

    @property
    def missing(self) -> Mask:
        """No answer, or 0 J, which no GPU ever takes."""
        return ~(self.energy_j > 0)

    @property
    def errors(self) -> NDArray[np.float64]:
        """(tool - reference) / reference of the windows that have an answer."""
        has = ~self.missing
        return self.energy_j[has] / self.reference_j[has] - 1

    def __len__(self) -> int:
        return len(self.load)


@dataclass(frozen=True)
class Summary:
    """What is said of one tool's windows. Shares, not per cent; None where nothing answered."""

    n: int
    missing: float | None
    p50: float | None
    p95: float | None
    worst: float | None
    mean: float | None  # of all repeats: sum of the tool over sum of the reference, less 1
    mean_se: float | None  # its standard error


def rows_of(loads: list[Load], tool: str, max_doubt_ns: float = MAX_DOUBT_NS) -> Rows:
    """Every window that a tool was asked for and that has a sound reference."""
    parts: list[Rows] = []
    for load in loads:
        if tool not in load.tools():
            continue
        w = load.tool(tool, "w")
        rows = Rows(
            load=np.full(len(w), load.name, dtype=object),
            length_s=load["win_length_s"][w].astype(float),
            kind=load["win_kind"][w],
            seconds=(load["win_t1_ns"][w] - load["win_t0_ns"][w]) / 1e9,
            reference_j=load.reference_j(tool).astype(float),
            energy_j=load.tool(tool, "energy_j").astype(float),
            doubt_ns=load.doubt_ns(w).astype(float),
        )
        parts.append(rows.where((rows.doubt_ns <= max_doubt_ns) & (rows.reference_j > 0)))
    if not parts:
        return Rows(np.array([], dtype=object), *(np.array([]) for _ in range(6)))
    return Rows(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in Rows.__dataclass_fields__}
    )


def summarise(rows: Rows) -> Summary:
    """Count, rate of missing results, percentiles of the rest, and the mean of repeats."""
    if not len(rows):
        return Summary(0, None, None, None, None, None, None)
    errors = rows.errors
    missing = float(rows.missing.mean())
    if not len(errors):
        return Summary(len(rows), missing, None, None, None, None, None)
    has = ~rows.missing
    reference = rows.reference_j[has]
    differences = rows.energy_j[has] - reference
    return Summary(
        n=len(rows),
        missing=missing,
        p50=float(np.median(errors)),
        p95=p95(errors),
        worst=float(np.max(np.abs(errors))),
        mean=float(differences.sum() / reference.sum()),
        mean_se=float(differences.std() / np.sqrt(len(differences)) / reference.mean()),
    )


def p95(errors: NDArray[np.float64]) -> float:
    """95th percentile of the absolute values."""
    return float(np.percentile(np.abs(errors), 95))


def by_load(rows: Rows, what: Callable[[Rows], float | None]) -> dict[str, float | None]:
    """A figure for each load."""
    return {str(name): what(rows.where(rows.load == name)) for name in dict.fromkeys(rows.load)}


__all__ = ["FREE", "TICK", "Rows", "Summary", "by_load", "p95", "rows_of", "summarise"]
