"""How do a watcher's numbers read as words: one plain line per interval, or one JSON object?

Text is for people: three digits and a prefix. JSON keeps numbers, with the unit in the key.
"""

from __future__ import annotations

import time
from typing import Any, Final

from energyd.top_cost import Cost, cost_of
from energyd.top_look import UNPRICED, Rates
from energyd.top_state import IN_TOTAL, Device, Stage, TopState

DASH: Final = "–"
_MARKS: Final = {"estimated": "est", "replayed": "replay", "simulated": "sim"}


def scaled(value: float, unit: str) -> str:
    """Three digits with the prefix that fits: `12.9 kJ`, `412 W`, `0.42 mJ`."""
    prefixes = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
    # 0.9995: what three digits would round up to the next prefix belongs there
    fitting = (p for p in prefixes if abs(value) >= 0.9995 * p[0])
    factor, prefix = next(fitting, (1e-6, "µ")) if value else (1.0, "")
    number = value / factor
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{0 if value == 0 else digits}f} {prefix}{unit}"


def watts(power_w: float | None) -> str:
    """`412 W`, `4.2 W`, `1.38 kW`."""
    if power_w is None:
        return DASH
    return f"{power_w:.{0 if power_w >= 9.95 else 1}f} W" if power_w < 9_999.5 else scaled(power_w, "W")


def joules(energy_j: float | None) -> str:
    """`812 J`, `12.9 kJ`."""
    return DASH if energy_j is None else scaled(energy_j, "J")


def amount(value: float | None) -> str:
    """Three digits without a prefix, as money is told: `0.0123`, `4.56`, `1,234`."""
    if value is None:
        return DASH
    if value == 0 or abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 0.000_1 else f"{value:#.3g}".rstrip(".")


def per_token(cost: Cost) -> str:
    """`0.018 J/label`; `≤` where descendants may have counted before we listened."""
    unit = cost.unit()
    value = cost.j_per(unit) if unit else None
    if unit is None or value is None:
        return DASH
    number = f"{value:#.3g}".rstrip(".") + " J" if 0.000_999_5 <= value < 999.5 else scaled(value, "J")
    return f"{'' if cost.complete else '≤'}{number}/{unit}"


def count(n: int) -> str:
    """`812`, `9.81k`, `1.23M`."""
    return str(n) if n < 1000 else scaled(n, "").replace(" ", "")


def counts(cost: Cost) -> str:
    """The shown denominator's count; `≥` where we may have missed some."""
    unit = cost.unit()
    return DASH if unit is None else f"{'' if cost.complete else '≥'}{count(cost.counts[unit])}"


def duration(seconds: float) -> str:
    """`31.2 s`, `12m03s`, `3h04m`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def power_now(device: Device, local_ns: int) -> tuple[float | None, str | None]:
    """Power in watts, or None and why."""
    silent_s = device.silent_s(local_ns)
    if silent_s is not None:
        return None, f"no sample for {duration(silent_s)}"
    if device.power_mw is None:
        return None, "no sample yet"
    return device.power_mw / 1000, None


def mark(device: Device) -> str:
    """`est`, `replay` or `sim` for power that nothing here measured, else nothing."""
    return _MARKS.get(device.origin, "")


def line(state: TopState, local_ns: int, wall_s: float, told: set[str]) -> str:
    """One line for a log: `12:03:10 gpu0 412 W  cpu 61 W (est)  train 31 s 12.9 kJ 0.018 J/label`.

    `told` holds the ids of finished stages that a line has named before; it is added to.
    """
    parts = []
    for device in state.devices.values():
        power_w, reason = power_now(device, local_ns)
        note = mark(device) if reason is None else reason
        parts.append(f"{device.label} {watts(power_w)}{f' ({note})' if note else ''}")
    for domain in state.domains():
        if domain["domain"] in IN_TOTAL and domain["state"] in {"absent", "unreadable"}:
            parts.append(f"{domain['domain']} {DASH} ({domain['state']})")
    silent_s = state.silent_s(local_ns)
    if silent_s is not None:
        parts.append(f"daemon silent for {silent_s:.0f} s")
    elif state.status and state.status.get("state") != "ok":
        parts.append(f"daemon {state.status.get('state')}: {state.status.get('reason')}")
    parts += [
        _stage_words(state, stage, local_ns, "") for stage, place in state.open_tree() if len(place) == 1
    ]
    for stage in reversed(state.finished()):
        if stage.word.state == "final" and stage.word.stage_id not in told:
            told.add(stage.word.stage_id)
            parts.append(_stage_words(state, stage, local_ns, "done "))
    if state.lost:
        parts.append(f"{state.lost} messages lost")
    clock = time.strftime("%H:%M:%S", time.localtime(wall_s))
    return f"{clock} {'  '.join(parts) if parts else 'nothing heard yet'}"


def _stage_words(state: TopState, stage: Stage, local_ns: int, prefix: str) -> str:
    cost = cost_of(state, stage, local_ns)
    words = [f"{prefix}{state.path(stage)}", f"{cost.seconds:.0f} s", joules(cost.total_j)]
    tokens = per_token(cost)
    if tokens != DASH:
        words.append(tokens)
    if stage.word.status in {"error", "aborted"}:
        words.append(stage.word.status)
    return " ".join(words)


def as_json(state: TopState, local_ns: int, rates: Rates = UNPRICED) -> dict[str, Any]:
    """Everything shown, as numbers; None where unknown, with `reason` beside a device's power."""
    status = state.status or {}
    devices = []
    for device in state.devices.values():
        power_w, reason = power_now(device, local_ns)
        limit_w = device.power_limit_mw / 1000 if device.power_limit_mw else None
        devices.append(
            {
                "device": device.device,
                "label": device.label,
                "domain": device.domain,
                "name": device.name,
                "power_w": power_w,
                "reason": reason,
                "limit_w": limit_w,
                "share_of_limit": power_w / limit_w if power_w is not None and limit_w else None,
                "source": device.source,
                "origin": device.origin,
            }
        )
    return {
        "t_ns": state.now_ns(local_ns),
        "daemon": {k: v for k, v in status.items() if k not in {"devices", "domains"}},
        "daemon_silent_s": state.silent_s(local_ns),
        "lost_messages": state.lost,
        "power_w": state.power_w(local_ns),
        "watched_s": state.watched_s(local_ns),
        "watched_j": state.watched_j(),
        "watched_co2e_g": rates.co2e_g(state.watched_j()),
        "watched_cost": rates.cost(state.watched_j()),
        "devices": devices,
        "domains": state.domains(),
        "open_stages": [_stage_json(state, stage, local_ns, rates) for stage, _ in state.open_tree()],
        "finished_stages": [_stage_json(state, stage, local_ns, rates) for stage in state.finished()],
    }


def _stage_json(state: TopState, stage: Stage, local_ns: int, rates: Rates) -> dict[str, Any]:
    cost, word = cost_of(state, stage, local_ns), stage.word
    return {
        "run": word.run,
        "run_id": word.run_id,
        "stage": word.stage,
        "stage_id": word.stage_id,
        "parent_id": word.parent_id,
        "path": state.path(stage),
        "state": word.state,
        "status": word.status,
        "seconds": cost.seconds,
        "energy_j": cost.joules,
        "total_j": cost.total_j,
        "co2e_g": rates.co2e_g(cost.total_j),
        "cost": rates.cost(cost.total_j),
        "mean_w": cost.mean_w(),
        "counts": cost.counts,
        "counts_complete": cost.complete,
        "j_per": {unit: cost.j_per(unit) for unit in cost.counts},
    }
