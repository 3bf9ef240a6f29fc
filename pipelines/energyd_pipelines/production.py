"""What did making this cost, as the daemon measured it, failed attempts included?

Asked through the client once a stage has ended; a bounded wait, and None with a reason where there is no
figure. Joules by domain add up as `energyd_client.bill` says; attempts add up here.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from energyd_client.bill import DOMAINS, Bill, bill
from energyd_client.endpoints import default_endpoint, is_disabled
from energyd_client.errors import EnergydError
from energyd_client.protocol import AskStatus

WAIT_S: Final = 35.0
"""Longest wait for a figure. A daemon has one about a second after the end; later when its disk is slow, or
when it has just started and one of its sources takes that long to be up."""

REPORTED: Final = "reported"
"""Origin of joules that somebody else measured: never silently mixed with those measured here."""


FIGURES: Final = (
    "total_j", "u_random_j", "u_total_j", "coverage", "duration_s", "grid_g_per_kwh", "pue",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the machine stands: what turns joules into grams. None: not known, and never guessed."""

    region: str | None = None  # as ISO 3166 has it, such as CA or CA-QC
    grid_g_per_kwh: float | None = None  # g CO2eq per kWh of the grid there
    pue: float | None = None  # the building's energy over the machines'


@dataclass(frozen=True, kw_only=True)
class Production:
    """What one or several attempts cost. Joules; doubts at k = 2; None where not known, `reason` says why."""

    energy_j: dict[str, float | None]  # by domain: gpu, cpu, dram
    reason: dict[str, str] = field(default_factory=dict)  # by domain that has none, and `total`
    total_j: float | None = None  # gpu + cpu
    u_random_j: float | None = None
    u_total_j: float | None = None
    method: str | None = None  # integral, counter, or both: which figure of the daemon's was told
    origin: str | None = None  # measured, estimated, simulated, replayed; `reported`: measured elsewhere
    coverage: float | None = None
    duration_s: float | None = None
    hardware: tuple[str, ...] = ()
    driver: str | None = None
    host: str | None = None
    region: str | None = None
    grid_g_per_kwh: float | None = None
    pue: float | None = None
    run_id: str | None = None
    stage_id: str | None = None
    attempts: tuple[dict[str, Any], ...] = ()  # each of them, the last one made it

    def as_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {**asdict(self), "hardware": list(self.hardware), "attempts": list(self.attempts)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Production:
        """From a manifest; keys that this release does not know are passed over.

        Raises TypeError and ValueError: a figure below 0 or not finite was measured by nobody.
        """
        known = {f.name: plain[f.name] for f in fields(cls) if f.name in plain}
        for name in FIGURES:
            must_be_figure(name, known.get(name))
        for name in ("energy_j", "reason"):
            if not isinstance(known.get(name, {}), dict):
                raise TypeError(f"{name} is {known[name]!r:.40}")
        for domain, joules in known["energy_j"].items():
            must_be_figure(f"energy_j of {domain}", joules)
        for attempt in known.get("attempts", ()):
            must_be_figure("total_j of an attempt", attempt.get("total_j"))
        lists = {name: tuple(known.get(name, ())) for name in ("hardware", "attempts")}
        return cls(**{**known, **lists})

    def attempt(self, status: str) -> dict[str, Any]:
        """This one as a line among attempts."""
        names = ("run_id", "stage_id", "energy_j", "reason", "total_j", "u_random_j", "u_total_j")
        return {"status": status, **{n: getattr(self, n) for n in names}, "duration_s": self.duration_s}


def must_be_figure(name: str, value: Any) -> None:
    """Raises ValueError for what is neither None nor a finite number from 0 on."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value < math.inf):
        raise ValueError(f"{name} is {value!r:.40}")


def energy_of(
    stage_id: str, timeout_s: float = WAIT_S, *, run_id: str | None = None, site: Site | None = None
) -> Production:
    """What the ended stage `stage_id` cost; waits until the daemon knows, at most `timeout_s`."""
    site = site or Site()
    about: dict[str, Any] = {**asdict(site), "run_id": run_id, "stage_id": stage_id, "host": platform.node()}
    if is_disabled():
        return unknown("not measured: ENERGYD_DISABLE is set", **about)
    from energyd_client.request import ask, stage_result  # imports zmq

    try:
        ask(default_endpoint(), AskStatus(0), timeout_s)  # is one there? Else the reason would be lost
        cost = stage_result(stage_id, timeout_s, power=False)
        # Asked again: a daemon that has only just started names its devices while the stage is waited for.
        status = ask(default_endpoint(), AskStatus(0), timeout_s)
    except EnergydError as error:
        return unknown(f"not measured: {str(error).splitlines()[0]}", **about)
    if cost is None:
        return unknown(f"the daemon does not know stage {stage_id}, or not any more", **about)
    if cost["state"] != "final":
        return unknown(f"stage {stage_id} was still {cost['state']} after {timeout_s:g} s", **about)
    duration_s = (cost["t1_ns"] - cost["t0_ns"]) / 1e9
    found = bill(duration_s, status, cost, None)
    charged = {e["device"] for e in cost["energies"]}
    devices = [d for d in status["devices"] if d["device"] in charged]
    return Production(
        energy_j={p.domain: p.energy_j for p in found.parts},
        reason=_reasons(found),
        total_j=found.total_j, u_random_j=found.u_random_j, u_total_j=found.u_total_j,
        method="+".join(sorted({e["method"] for e in cost["energies"] if e["method"]})) or None,
        origin=_worst({d["origin"] for d in devices}),
        coverage=found.coverage, duration_s=duration_s, hardware=_hardware(devices),
        driver=", ".join(sorted({d["driver"] for d in devices if d.get("driver")})) or None,
        **about,
    )  # fmt: skip


def unknown(why: str, **about: Any) -> Production:
    """A production without figures."""
    return Production(
        energy_j=dict.fromkeys(DOMAINS), reason=dict.fromkeys((*DOMAINS, "total"), why), **about
    )


def with_attempts(last: Production, failed: Sequence[dict[str, Any]]) -> Production:
    """`last`, which made it, and the failed attempts before it as one sum; one unknown makes it unknown."""
    attempts = (*failed, last.attempt("ok"))
    if not failed:
        return replace(last, attempts=attempts)
    reason = dict(last.reason)
    energy_j: dict[str, float | None] = {}
    for domain in last.energy_j:
        energy_j[domain] = _sum(a["energy_j"].get(domain) for a in attempts)
        if energy_j[domain] is None:
            reason.setdefault(domain, _why(attempts, domain))
    total_j = _sum(a["total_j"] for a in attempts)
    if total_j is None:
        reason.setdefault("total", _why(attempts, "total"))
    random_j = _root(a["u_random_j"] for a in attempts)
    # The same sensors measured all of them: what they are off by together adds up linearly.
    common_j = _sum(_common(a["u_random_j"], a["u_total_j"]) for a in attempts)
    return replace(
        last,
        energy_j=energy_j, reason=reason, total_j=total_j, u_random_j=random_j,
        u_total_j=None if random_j is None or common_j is None else math.hypot(random_j, common_j),
        duration_s=_sum(a["duration_s"] for a in attempts), attempts=attempts,
    )  # fmt: skip


def _reasons(found: Bill) -> dict[str, str]:
    reasons = {p.domain: p.reason for p in found.parts if p.energy_j is None and p.reason}
    return {**reasons, "total": found.reason} if found.reason else reasons


def _why(attempts: Iterable[dict[str, Any]], domain: str) -> str:
    said = {a["reason"].get(domain, "unknown") for a in attempts if domain in a["reason"]}
    return "of an attempt: " + "; ".join(sorted(said))


def _worst(origins: set[str]) -> str | None:
    """How measured a sum is: as little as the least of its parts."""
    order = ("simulated", "replayed", "estimated", "measured")
    return next((o for o in order if o in origins), None)


def _hardware(devices: list[dict[str, Any]]) -> tuple[str, ...]:
    names = [str(d["name"]) for d in devices if d["domain"] != "dram"]
    return tuple(f"{names.count(n)} × {n}" for n in dict.fromkeys(names))


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(v is None for v in known) else math.fsum(v for v in known if v is not None)


def _root(values: Iterable[float | None]) -> float | None:
    squares = _sum(None if v is None else v * v for v in values)
    return None if squares is None else math.sqrt(squares)


def _common(random_j: float | None, total_j: float | None) -> float | None:
    return None if random_j is None or total_j is None else math.sqrt(max(0.0, total_j**2 - random_j**2))
