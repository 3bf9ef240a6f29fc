"""What do the daemon's published words come to, as counters and gauges with a bounded number of labels?

Pure: messages go in, families come out. What is not known is left out, never 0. A run is no label: each
execution would be a new series for ever; who asks about one run asks SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from energyd_client.protocol import DeviceList, Health, Message, StageState

MAX_STAGES: Final = 200
MAX_UNITS: Final = 20
OTHER: Final = "(other)"
"""Names of stages and units are the programs' own: those beyond the bound share this one."""

SILENT_NS: Final = 3_000_000_000
"""Power is left out once a device said nothing for this long beyond its allowed gap, as in `energyd top`."""

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric, and its value for each set of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    values: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        """Add a value; None is not known and adds nothing."""
        if value is not None:
            self.values.append((tuple(labels.items()), float(value)))


class Figures:
    """Everything heard so far, as figures."""

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = None
        self.devices: dict[int, dict[str, Any]] = {}
        self.energy_uj: Counter[tuple[str, str]] = Counter()  # (stage, domain)
        self.unknown: Counter[tuple[str, str]] = Counter()  # (stage, domain): energy is NULL
        self.ended: Counter[tuple[str, str]] = Counter()  # (stage, status)
        self.took_ns: Counter[str] = Counter()
        self.units: Counter[tuple[str, str]] = Counter()  # (stage, unit)
        self.lost = 0  # messages published that did not arrive here
        self._stages: set[str] = set()
        self._units: set[str] = set()

    def take(self, message: Message) -> None:
        """One published message; other kinds are ignored."""
        if isinstance(message, Health):
            self.status = message.status
            self.devices = {d["device"]: d for d in message.status["devices"]}
        elif isinstance(message, DeviceList):
            for device in message.devices:  # said again to late comers: older than a health word
                self.devices.setdefault(device["device"], device)
        elif isinstance(message, StageState) and message.state == "final":
            self._take_final(message)

    def _take_final(self, word: StageState) -> None:
        stage = _bounded(word.stage, self._stages, MAX_STAGES)
        self.ended[stage, word.status or "aborted"] += 1
        self.took_ns[stage] += max(0, (word.t1_ns or word.t0_ns) - word.t0_ns)
        for unit, n in word.counts.items():
            self.units[stage, _bounded(unit, self._units, MAX_UNITS)] += n
        for device, energy_uj in word.energy_uj.items():
            domain = self.devices.get(device, {}).get("domain")
            if domain is None or energy_uj is None:
                self.unknown[stage, domain or "unknown"] += 1
            else:
                self.energy_uj[stage, domain] += energy_uj

    def families(self) -> list[Family]:
        """Every metric that has a value; none before the first health word."""
        if self.status is None:
            return []
        every = [*self._of_devices(), *self._of_stages(), *self._of_daemon(self.status)]
        return [family for family in every if family.values]

    def silent(self, device: dict[str, Any]) -> bool:
        """Whether a device's newest power is too old to be told as its power now."""
        if device["last_t_ns"] is None or self.status is None:
            return True
        if device["origin"] == "replayed":
            return False  # its time is the trace's
        age_ns = self.status["now_ns"] - device["last_t_ns"]
        return bool(age_ns > (device["max_step_ns"] or 0) + SILENT_NS)

    def named(self) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
        """Each device with the labels that say which it is: GPUs as `energyd top` numbers them."""
        numbers: Counter[str] = Counter()
        for _, device in sorted(self.devices.items()):
            nth = numbers[device["domain"]]
            numbers[device["domain"]] += 1
            if device["domain"] == "gpu":
                labels = {"gpu": str(nth), "uuid": device["uuid"], "model": device["name"]}
            else:
                labels = {"zone": device["uuid"], "model": device["name"]}
            yield device, {**labels, "origin": device["origin"]}

    def _of_devices(self) -> list[Family]:
        found: dict[str, Family] = {}

        def family(name: str, kind: Literal["counter", "gauge"], text: str) -> Family:
            return found.setdefault(name, Family(name, kind, text))

        for device, labels in self.named():
            start = f"energyd_{device['domain']}"
            what = f"{start}_energy_joules_total"
            text = "Energy since the store began. Grows by nothing over holes: then a lower bound."
            joules = None if device["cum_uj"] is None else device["cum_uj"] / 1e6
            family(what, "counter", text).add(joules, **labels)
            power = None if self.silent(device) or device["power_mw"] is None else device["power_mw"] / 1e3
            text = "Newest power; left out while the device is silent."
            family(f"{start}_power_watts", "gauge", text).add(power, **labels)
            limit = None if device["power_limit_mw"] is None else device["power_limit_mw"] / 1e3
            family(f"{start}_power_limit_watts", "gauge", "Power limit as enforced.").add(limit, **labels)
        return list(found.values())

    def _of_stages(self) -> list[Family]:
        energy = Family(
            "energyd_stage_energy_joules_total", "counter",
            "Energy of ended stages by name, their children's included: do not sum over stages.",
        )  # fmt: skip
        for (stage, domain), uj in self.energy_uj.items():
            energy.add(uj / 1e6, stage=stage, domain=domain)
        unknown = Family(
            "energyd_stage_energy_unknown_total", "counter",
            "Ended stages whose energy on a device is not known; they are missing in the joules.",
        )  # fmt: skip
        for (stage, domain), n in self.unknown.items():
            unknown.add(n, stage=stage, domain=domain)
        took = Family("energyd_stage_seconds_total", "counter", "Duration of ended stages by name.")
        for stage, ns in self.took_ns.items():
            took.add(ns / 1e9, stage=stage)
        ended = Family("energyd_stages_total", "counter", "Stages that ended, by name and status.")
        for (stage, status), n in self.ended.items():
            ended.add(n, stage=stage, status=status)
        units = Family(
            "energyd_stage_units_total", "counter", "Work counted in ended stages, their own alone, by unit."
        )
        for (stage, unit), n in self.units.items():
            units.add(n, stage=stage, unit=unit)
        return [energy, unknown, took, ended, units]

    def _of_daemon(self, status: dict[str, Any]) -> list[Family]:
        build = Family("energyd_build_info", "gauge", "Release of the daemon.")
        build.add(1, version=status["version"])
        up = Family(
            "energyd_source_up", "gauge",
            "1: a domain's devices all speak; 0: unreadable, or one is silent. Absent domains are left out.",
        )  # fmt: skip
        for domain in status["domains"]:
            if domain["state"] != "absent":
                ours = [d for d in self.devices.values() if d["domain"] == domain["domain"]]
                speaks = bool(ours) and not any(self.silent(d) for d in ours)
                good = domain["state"] != "unreadable" and speaks
                up.add(int(good), domain=domain["domain"], source=domain["source"] or "none")
        gaps = Family("energyd_sample_gaps_total", "counter", "Gaps in samples since the daemon began.")
        for reason, n in status["gap_reasons"].items():
            gaps.add(n, reason=reason)
        markers = Family("energyd_markers_total", "counter", "Markers since the daemon began, by result.")
        for result, key in (("taken", "markers"), ("refused", "refused"), ("turned_away", "turned_away")):
            markers.add(status[key], result=result)
        late, commit = status["late_ms_p99"], status["commit_ms"]
        return [
            build,
            up,
            _one("energyd_samples_total", "counter", "Samples since the daemon began.", status["samples"]),
            gaps,
            markers,
            _one(
                "energyd_store_errors_total", "counter", "Commits that the disk refused; their rows wait.",
                status["store_errors"],
            ),
            _one("energyd_degraded", "gauge", "1 while something does not work.", status["state"] != "ok"),
            _one("energyd_open_stages", "gauge", "Stages open now.", status["open_stages"]),
            _one("energyd_clients", "gauge", "Programs connected now.", status["clients"]),
            _one("energyd_start_time_seconds", "gauge", "When the daemon began.", status["started_ns"] / 1e9),
            _one(
                "energyd_read_late_seconds", "gauge", "Lateness of reads, 99th percentile of the last ones.",
                None if late is None else late / 1e3,
            ),
            _one(
                "energyd_commit_seconds", "gauge", "Duration of the last commit.",
                None if commit is None else commit / 1e3,
            ),
            _one("energyd_export_lost_total", "counter", "News this page did not hear.", self.lost),
        ]  # fmt: skip


def _one(name: str, kind: Literal["counter", "gauge"], text: str, value: float | None) -> Family:
    family = Family(name, kind, text)
    family.add(value)
    return family


def _bounded(name: str, known: set[str], most: int) -> str:
    if name not in known:
        if len(known) >= most:
            return OTHER
        known.add(name)
    return name
