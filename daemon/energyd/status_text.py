"""How does a status read to a person? The answer to `ask_status` as lines of text."""

from __future__ import annotations

import time
from typing import Any


def lines(body: dict[str, Any]) -> list[str]:
    """One line for the daemon, one a device, one a domain that is not simply measured."""
    up_s = (body["now_ns"] - body["started_ns"]) / 1e9
    state = "ok" if body["state"] == "ok" else f"DEGRADED {body['reason']}"
    out = [
        f"energyd {body['version']} {state}: pid {body['pid']}, up {up_s:.0f} s",
        f"  store    {body['store']}{_extent(body)}",
        f"  socket   {body['endpoint']}",
        f"  sources  {', '.join(body['sources']) or 'none'}",
    ]
    if body.get("lake"):
        out += _lake(body["lake"])
    out += [_device(d, body["now_ns"]) for d in body["devices"]]
    for domain in body["domains"]:
        if domain["state"] != "measured":
            reason = f": {domain['reason']}" if domain["reason"] else ""
            out.append(f"  {domain['domain']:<8} {domain['state']}{reason}")
    late = "–" if body["late_ms_p99"] is None else f"{body['late_ms_p99']:.1f} ms"
    busy = f", turned away {body['turned_away']}" if body.get("turned_away") else ""
    out += [
        f"  samples  {body['samples']}, gaps {body['gaps']}{_reasons(body)}, reads late p99 {late}",
        f"  markers  {body['markers']}, refused {body['refused']}{busy}, clients {body['clients']}",
        f"  stages   {body['open_stages']} open, {body['pending_stages']} pending",
    ]
    return out


def _extent(body: dict[str, Any]) -> str:
    """Size, room and age; nothing of what an older daemon does not say."""
    told = ""
    if body.get("store_bytes") is not None:
        told += f", {body['store_bytes'] / 1e6:.1f} MB"
    if body.get("free_bytes") is not None:
        told += f", {body['free_bytes'] / 1e9:.1f} GB free"
    if body.get("oldest_t_ns") is not None:
        told += (
            f", samples since {time.strftime('%Y-%m-%d %H:%M', time.localtime(body['oldest_t_ns'] / 1e9))}"
        )
    if body.get("keep") is not None:
        told += f", kept {_days(body['keep']['raw_s'])} whole, {_days(body['keep']['all_s'])} thinned"
    return told


def _lake(lake: dict[str, Any]) -> list[str]:
    """What is shipped, what waits and why."""
    told = f"  lake     {lake['url']}: {lake['files']} segments shipped"
    if lake["waiting_files"]:
        since = time.strftime("%Y-%m-%d %Hh UTC", time.gmtime(lake["waiting_since_hour"] * 3600))
        told += f", {lake['waiting_files']} wait since {since} ({lake['waiting_bytes'] / 1e6:.1f} MB)"
    if lake["owed_days"]:
        told += f", {lake['owed_days']} days to come from the store"
    if lake["refused_files"]:
        told += f", {lake['refused_files']} refused (outbox/refused)"
    if lake["clock_s"] is not None:
        told += f"; wall clock {lake['clock_s']:+.2f} ± {lake['clock_doubt_s']:.2f} s by the lake's"
    return [told, *(f"           {line.strip()}" for line in (lake["error"] or "").splitlines())]


def _days(value_s: float | None) -> str:
    return "for ever" if value_s is None else f"{value_s / 86_400:g} d"


def _reasons(body: dict[str, Any]) -> str:
    """Why there were gaps, the commonest first."""
    found = sorted(body.get("gap_reasons", {}).items(), key=lambda item: -item[1])
    return f" ({', '.join(f'{reason} {n}' for reason, n in found)})" if found else ""


def _device(device: dict[str, Any], now_ns: int) -> str:
    power = "no sample yet"
    if device["power_mw"] is not None:
        age_s = max(0.0, (now_ns - device["last_t_ns"]) / 1e9)
        power = f"{device['power_mw'] / 1000:.1f} W, {age_s:.1f} s ago"
    mark = "" if device["origin"] == "measured" else f" ({device['origin']})"
    return f"  {device['domain']:<8} {device['name']}, {device['source']}{mark}: {power}"
