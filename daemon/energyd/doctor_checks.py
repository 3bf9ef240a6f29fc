"""What does the doctor look at? One function a check: from the case to rows.

To add one, write it here and name it in CHECKS.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from energyd import timeline
from energyd.doctor_case import Case, Hung, Row, State
from energyd.doctor_places import PLACE_CHECKS
from energyd.sources.rapl_zones import look
from energyd_client import clock

_TOLERATED: Final = 0.03
"""By which integral and counter may part before it is called a fault, beyond one and a half times the doubt
(k = 2) of the comparison: tools that poll power agree with the counter within 1 % as a rule."""

_CURES: Final = {
    3: "another driver, or a bare machine instead of a vGPU; where MIG is on, nothing can be done",
    4: "let the user of energyd open /dev/nvidia* (in a container: run it with its GPUs)",
    9: "load the driver: nvidia-smi says why it is not",
    15: "see the kernel's log for Xid; reset the GPU or restart the machine",
    16: "reset the GPU: nvidia-smi --gpu-reset, or restart the machine",
    17: "allow the device in the container or its cgroup",
    18: "restart energyd, or the machine, after a driver upgrade",
}
_CODE: Final = r"\(NVML (\d+) from"  # how NvmlError ends
_SOME_CURE: Final = "see nvidia-smi and the kernel's log"


def check_daemon(case: Case) -> list[Row]:
    """Does a daemon run, and is it well?"""
    body = case.daemon
    if case.daemon_error is not None:
        what, *rest = case.daemon_error.splitlines()
        return [Row("daemon", "daemon", "degraded", what, " ".join(line.strip() for line in rest))]
    if body is None:
        return [Row("daemon", "daemon", "absent", "none runs", "energyd start")]
    case.facts["daemon"] = {k: body[k] for k in ("pid", "version", "store", "endpoint", "state", "reason")}
    what = f"pid {body['pid']}, release {body['version']}, store {body['store']}"
    if body["state"] != "ok":
        return [Row("daemon", "daemon", "degraded", f"{what}: {body['reason']}", "see its log")]
    return [Row("daemon", "daemon", "ok", what)]


def check_domains(case: Case) -> list[Row]:
    """What does the machine offer for gpu, cpu and dram? In the daemon's words where one runs."""
    found: list[dict[str, Any]] = []
    rows = []
    if case.daemon is not None:
        found = list(case.daemon["domains"])
    for which in [which for which in case.probes if which in ("gpu", "cpu")]:
        try:
            probed = case.probed(which)
        except (Hung, RuntimeError) as error:
            who = "the NVIDIA driver" if which == "gpu" else "the CPU's sensors"
            rows.append(Row("domains", which, "degraded", f"{who}: {error}", _hung_cure(which, error)))
            found = [d for d in found if d["domain"] != which]
            continue
        if case.daemon is None:
            found += probed["domains"]
        if which == "gpu":
            case.facts["devices"] = probed["devices"]
    case.facts["domains"] = found
    return rows + [_domain_row(info) for info in found]


def _hung_cure(which: str, error: Exception) -> str:
    if which == "gpu" and isinstance(error, Hung):
        return "see whether nvidia-smi hangs too; if so, the machine needs a restart"
    return "energyd doctor --timeout with more seconds, or see the reason"


def _domain_row(info: dict[str, Any]) -> Row:
    domain, state, reason = info["domain"], info["state"], info["reason"]
    what = state + (f" by {info['source']}" if info["source"] else "") + (f": {reason}" if reason else "")
    if state == "unreadable":
        return Row("domains", domain, "degraded", what, _cure(reason or "", domain))
    if state == "estimated" and (denied := look().denied.get(domain)):
        return Row("domains", domain, "degraded", what, denied)
    if state == "measured" and re.search(_CODE, reason or ""):
        return Row("domains", domain, "degraded", what, _cure(reason or "", domain))  # some of it is missing
    well: dict[str, State] = {"measured": "ok", "absent": "absent"}
    return Row("domains", domain, well.get(state, "note"), what)


def _cure(reason: str, domain: str = "gpu") -> str:
    """The cure for a refusal, by the NVML code in its text."""
    if domain != "gpu":
        hidden = "permission" in reason or "denied" in reason
        return "run energyd as a service, or let its group read the counters" if hidden else _SOME_CURE
    code = re.search(_CODE, reason)
    return _CURES.get(int(code[1]), _SOME_CURE) if code else _SOME_CURE


def check_sensors(case: Case) -> list[Row]:
    """Which source does each GPU's power come from, why, and does every other sensor do what it should?"""
    rows = []
    for device in case.facts.get("devices", []):
        sensors = {s["sensor"]: s for s in device["sensors"]}
        name = f"gpu {device['index']}"
        device["why"] = why(device["source"], sensors)
        what = f"{device['name']}: {device['source']}, {device['why']}"
        rows.append(Row("sensors", name, "ok", what))
        for sensor, s in sensors.items():
            if s["state"] == "refused":
                told = f"{sensor} should answer and does not: {s['reason']}"
                rows.append(Row("sensors", f"{name} {sensor}", "degraded", told, _cure(s["reason"] or "")))
        if sensors and sensors["counter"]["state"] == "absent":
            told = f"none ({sensors['counter']['reason']}): gaps cannot be bridged, nothing to compare with"
            rows.append(Row("sensors", f"{name} counter", "note", told))
        if device["mig"]:
            rows.append(Row("sensors", f"{name} mig", "note", "MIG is on: power is the whole GPU's"))
    return rows


def why(source: str, sensors: dict[str, dict[str, Any]]) -> str:
    """Why that source, of all that were tried."""
    if source == "ring":
        return "the driver keeps every sample, with its own stamp"
    passed = ("ring",) if source == "instant" else ("ring", "instant")
    lacks = "; ".join(f"no {name}: {sensors[name]['reason']}" for name in passed if name in sensors)
    return f"the best that answers ({lacks})"


def check_agreement(case: Case) -> list[Row]:
    """Do power integral and counter agree, by what the store holds, else by the probe?"""
    stored = _stored_agreement(case)
    rows = []
    if isinstance(stored, Row):
        rows.append(stored)
        stored = []
    case.facts["agreement"] = stored
    told = {row["uuid"] for row in stored if row["agreement"] is not None}
    indices = {device["uuid"]: device["index"] for device in case.facts.get("devices", [])}
    for row in stored:
        name = f"gpu {indices[row['uuid']]}" if row["uuid"] in indices else f"device {row['device']}"
        if row["agreement"] is None:
            rows.append(Row("agreement", name, "note", row["reason"]))
            continue
        doubt = row["u_agreement"]
        within = f"± {100 * doubt:.2f} %" if doubt is not None else f"({row['reason']})"
        share = f"{100 * row['agreement']:+.2f} % {within}"
        what = f"integral against counter: {share}, over {row['seconds']:.0f} s"
        rows.append(_agreement_row(name, row["agreement"], doubt or 0.0, what))
    for device in case.facts.get("devices", []):
        counter = next((s for s in device["sensors"] if s["sensor"] == "counter"), None)
        if counter is None or device["uuid"] in told or counter["agreement"] is None:
            continue
        what = f"in the probe: {100 * counter['agreement']:+.1f} %, {counter['reason']}"
        # The probe's doubt has no column of its own: it is told in the reason.
        doubt = re.search(r"to within ([\d.]+) %", counter["reason"] or "")
        bound = float(doubt[1]) / 100 if doubt else 0.0
        rows.append(_agreement_row(f"gpu {device['index']}", counter["agreement"], bound, what))
    return rows


def _agreement_row(name: str, agreement: float, doubt: float, what: str) -> Row:
    if abs(agreement) <= max(_TOLERATED, 1.5 * doubt):
        return Row("agreement", name, "ok", what)
    cure = "trust neither alone: stages are flagged `disagree` or `aliased`, with a note of which was kept"
    return Row("agreement", name, "degraded", what, cure)


def _stored_agreement(case: Case) -> list[dict[str, Any]] | Row:
    """Rows of `sensor_agreement`; a row that says why there are none."""
    from energyd.store.read import ReadError, StoreNotFound, open_reader

    try:
        with open_reader(case.store) as reader:
            return reader.sql("FROM sensor_agreement ORDER BY device").dicts()
    except StoreNotFound:
        return Row("agreement", "store", "absent", f"no store at {case.store}")
    except ReadError as error:
        what, *rest = str(error).splitlines()
        cure = " ".join(line.strip().removeprefix("cure: ") for line in rest)
        return Row("agreement", "store", "degraded", what, cure or None)


def check_clock(case: Case) -> list[Row]:
    """Which clock do samples and markers share here?"""
    boottime, realtime = timeline.pair()
    offset_ns = timens_offset_ns()
    case.facts["clock"] = {
        "boot_id": clock.boot_id(),
        "timens_inode": clock.timens_inode(),
        "timens_boottime_offset_ns": offset_ns,
        "realtime_less_boottime_ns": realtime - boottime,
    }
    what = f"boot {clock.boot_id()[:8]}, REALTIME − BOOTTIME {(realtime - boottime) / 1e9:.3f} s"
    told = "no time namespaces" if offset_ns is None else f"time namespace offset {offset_ns / 1e9:g} s"
    if case.daemon is not None and (theirs := _timens_of(case.daemon["pid"])) not in (
        None,
        clock.timens_inode(),
    ):
        what = f"{what}, {told}, not the daemon's time namespace (its inode is {theirs})"
        cure = "start programs in the daemon's time namespace: markers from here count by their arrival"
        return [Row("clock", "clock", "degraded", what, cure)]
    return [Row("clock", "clock", "ok", f"{what}, {told}")]


def timens_offset_ns(path: Path = Path("/proc/self/timens_offsets")) -> int | None:
    """By how much CLOCK_BOOTTIME is shifted in this time namespace; None where the kernel has none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, seconds, nanoseconds = line.split()
        if name in ("boottime", "7"):
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def _timens_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/time").stat().st_ino
    except OSError:
        return None  # another user's process, or another pid namespace


CHECKS: Final[tuple[Callable[[Case], list[Row]], ...]] = (
    check_daemon,
    check_domains,
    check_sensors,  # after the domains: those collect the probes
    check_agreement,
    check_clock,
    *PLACE_CHECKS,
)
