"""What did one stage cost, domain by domain, as the daemon's own answers say it?

Pure: the answers to `ask_status` and `ask_stage` go in, numbers and lines come out. It adds up as
`stage_totals` does (store/totals.sql): total = gpu + cpu, dram apart; what the machine lacks is left out and
named, what is unknown makes the total None. Random doubts add as a root of squares, and so do the common ones
of several GPUs; those of CPU packages add linearly.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

DOMAINS: Final = ("gpu", "cpu", "dram")
IN_TOTAL: Final = ("gpu", "cpu")


@dataclass(frozen=True)
class Part:
    """One domain. `energy_j` None: not measured, or not charged; `reason` says why. Doubts: k = 2."""

    domain: str
    energy_j: float | None
    u_random_j: float | None = None
    u_total_j: float | None = None
    coverage: float | None = None
    source: str | None = None
    origin: str | None = None
    idle_w: float | None = None  # mean power of the same devices before, while nothing ran
    reason: str | None = None
    needed: bool = False  # it is there and unknown: no total without it
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bill:
    """One stage, whole. Joules and seconds; None where unknown, with `reason`."""

    seconds: float
    parts: tuple[Part, ...]
    total_j: float | None
    u_random_j: float | None
    u_total_j: float | None
    estimated_share: float | None
    coverage: float | None
    idle_j: float | None  # what idling would have taken in the same seconds
    reason: str | None

    @property
    def mean_w(self) -> float | None:
        """Mean power of the total, W."""
        return None if self.total_j is None or self.seconds <= 0 else self.total_j / self.seconds

    def as_json(self) -> dict[str, Any]:
        """The whole bill as numbers, the unit in the key."""
        net_j = None if self.total_j is None or self.idle_j is None else self.total_j - self.idle_j
        return {**asdict(self), "mean_w": self.mean_w, "net_j": net_j}


def bill(
    seconds: float, status: dict[str, Any] | None, cost: dict[str, Any] | None, idle: dict[str, Any] | None
) -> Bill:
    """The bill of a stage of `seconds`: `cost` answers `ask_stage` of it, `idle` that of a stage before."""
    parts = tuple(_part(domain, status, cost, idle) for domain in DOMAINS)
    counted = [p for p in parts if p.domain in IN_TOTAL and p.energy_j is not None]
    unknown = [p for p in parts if p.domain in IN_TOTAL and p.needed]
    reason = "; ".join(f"{p.domain}: {p.reason}" for p in unknown) or None
    if not counted or unknown:
        reason = reason or "nothing to add up: " + "; ".join(f"{p.domain} {p.reason}" for p in parts[:2])
        return Bill(seconds, parts, None, None, None, None, None, None, reason)
    total_j = sum(p.energy_j or 0.0 for p in counted)
    estimated_j = sum(p.energy_j or 0.0 for p in counted if p.origin == "estimated")
    idle_w = _all([p.idle_w for p in counted])
    return Bill(
        seconds=seconds,
        parts=parts,
        total_j=total_j,
        u_random_j=_root([p.u_random_j for p in counted]),
        u_total_j=_root([p.u_total_j for p in counted]),
        estimated_share=estimated_j / total_j if total_j else None,
        coverage=min((p.coverage for p in counted if p.coverage is not None), default=None),
        idle_j=None if idle_w is None else sum(idle_w) * seconds,
        reason=None,
    )


def _part(
    domain: str, status: dict[str, Any] | None, cost: dict[str, Any] | None, idle: dict[str, Any] | None
) -> Part:
    if status is None:
        return Part(domain, None, reason="no daemon answered", needed=True)
    devices = {d["device"]: d for d in status["devices"] if d["domain"] == domain}
    said = next((d for d in status["domains"] if d["domain"] == domain), None)
    if cost is None or cost["state"] != "final":
        if not devices and (said is None or said["state"] == "absent"):
            return Part(domain, None, reason=_missing(said))
        return Part(domain, None, reason="the daemon had no figure in time", needed=True)
    rows = [e for e in cost["energies"] if e["device"] in devices]
    if not rows:
        unreadable = said is not None and said["state"] == "unreadable"
        reason = "not charged: no such device was named" if devices else _missing(said)
        return Part(domain, None, reason=reason, needed=unreadable)
    mine = [devices[e["device"]] for e in rows]
    origins = {d["origin"] for d in mine}
    known = _all([e["energy_uj"] for e in rows])
    random_j = _root([_j(e["u_random_uj"]) for e in rows])
    common_j = _together(domain, [_common(e) for e in rows])
    return Part(
        domain=domain,
        energy_j=None if known is None else sum(known) / 1e6,
        u_random_j=random_j,
        u_total_j=None if random_j is None or common_j is None else math.hypot(random_j, common_j),
        coverage=min((e["coverage"] for e in rows if e["coverage"] is not None), default=None),
        source="+".join(sorted({str(e["source"]) for e in rows})),
        origin="estimated" if "estimated" in origins else min(origins),
        idle_w=_idle_w(rows, idle),
        reason=None if known is not None else _why(rows),
        needed=known is None,
        flags=tuple(sorted({flag for e in rows for flag in e["flags"]})),
    )


def _why(rows: list[dict[str, Any]]) -> str:
    return ", ".join(sorted({e["reason"] or "unknown" for e in rows if e["energy_uj"] is None}))


def _missing(said: dict[str, Any] | None) -> str:
    if said is None:
        return "absent"
    return f"{said['state']}: {said['reason']}" if said["reason"] else str(said["state"])


def _idle_w(rows: list[dict[str, Any]], idle: dict[str, Any] | None) -> float | None:
    """Mean power of the same devices in the stage before, W; None unless it can serve (store/net.sql)."""
    before = {e["device"]: e for e in (idle or {}).get("energies", [])}
    total_w = 0.0
    for row in rows:
        one = before.get(row["device"])
        if one is None or one["energy_uj"] is None or one["overlap_ns"] or "too_short" in one["flags"]:
            return None
        total_w += one["energy_uj"] * 1e3 / (one["t1_ns"] - one["t0_ns"])
    return total_w


def _j(uj: int | None) -> float | None:
    return None if uj is None else uj / 1e6


def _common(energy: dict[str, Any]) -> float | None:
    """The part of an energy's doubt that every energy of its device shares, J."""
    total, random = energy["u_total_uj"], energy["u_random_uj"]
    return None if total is None or random is None else math.sqrt(max(0, total**2 - random**2)) / 1e6


def _together(domain: str, commons: list[float | None]) -> float | None:
    known = _all(commons)
    if known is None or domain == "gpu":
        return _root(commons)
    return math.fsum(known)


def _root(values: list[float | None]) -> float | None:
    known = _all(values)
    return None if known is None else math.sqrt(sum(v * v for v in known))


def _all(values: list[Any]) -> list[Any] | None:
    return None if any(v is None for v in values) else values
