"""What does a watcher know, having heard what the daemon publishes?

Pure: messages and instants go in, numbers come out; no socket, no clock, no screen. Instants named
`local_ns` are the watcher's CLOCK_BOOTTIME, all others store time. A watcher may come late or miss
messages, so whatever it cannot know is None, or marked as incomplete; nothing is filled up with 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from energyd.top_history import PowerHistory
from energyd_client.protocol import DeviceList, Health, Message, Samples, StageState

S_NS: Final = 1_000_000_000
IN_TOTAL: Final = ("gpu", "cpu")
"""Domains of a stage's total; dram is shown apart, since package energy holds it on some machines."""

STALE_NS: Final = 3 * S_NS
"""A device is silent when nothing new came for this long beyond its allowed gap (drains: 0.5 s)."""

KEEP_FINISHED: Final = 200


@dataclass
class Device:
    """One device as last heard of. `power_mw` and `cum_uj` are None until a sample came."""

    device: int
    label: str  # gpu0, cpu …
    domain: str
    name: str
    source: str
    origin: str
    max_step_ns: int = S_NS
    power_limit_mw: int | None = None
    power_mw: int | None = None
    last_t_ns: int | None = None
    cum_uj: int | None = None
    heard_local_ns: int = 0
    history: PowerHistory = field(default_factory=PowerHistory)

    def silent_s(self, local_ns: int) -> float | None:
        """Seconds of silence once that is longer than a healthy device's; None while it speaks."""
        quiet_ns = local_ns - self.heard_local_ns
        return quiet_ns / S_NS if quiet_ns > self.max_step_ns + STALE_NS else None


@dataclass
class Stage:
    """One stage: the daemon's last word on it, and what finished children that we forgot had counted."""

    word: StageState
    heard_local_ns: int
    forgotten_counts: dict[str, int] = field(default_factory=dict)
    had_children: bool = False


class TopState:
    """Everything heard so far. `take` is the only way in."""

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        self.stages: dict[str, Stage] = {}
        self.status: dict[str, Any] | None = None
        self.health_local_ns: int | None = None
        self.lost = 0  # messages; the subscriber counts them
        self.first_local_ns: int | None = None

    # ---- in ------------------------------------------------------------------------------------

    def take(self, message: Message, local_ns: int) -> None:
        """One published message, heard at `local_ns`. Other messages are none of ours and ignored."""
        if self.first_local_ns is None:
            self.first_local_ns = local_ns
        match message:
            case Samples():
                self._take_samples(message, local_ns)
            case StageState():
                self._take_stage(message, local_ns)
            case DeviceList():
                self._take_devices(message.devices, local_ns)
            case Health():
                self._take_status(message.status, local_ns)

    def _take_samples(self, message: Samples, local_ns: int) -> None:
        device = self.devices.get(message.device)
        if device is None or not message.t_ns:
            return  # its name comes with the next device list or health, within a second
        device.history.add(message.t_ns, message.power_mw)
        if device.last_t_ns is None or message.t_ns[-1] > device.last_t_ns:
            device.heard_local_ns = local_ns
            device.last_t_ns = message.t_ns[-1]
            device.power_mw = message.power_mw[-1]
            device.cum_uj = message.cum_uj

    def _take_stage(self, word: StageState, local_ns: int) -> None:
        stage = self.stages.get(word.stage_id)
        if stage is None:
            # Last values for a late subscriber come in any order: the children may be here already.
            parent = any(s.word.parent_id == word.stage_id for s in self.stages.values())
            self.stages[word.stage_id] = Stage(word, local_ns, had_children=parent)
        else:
            stage.word, stage.heard_local_ns = word, local_ns
        if word.parent_id in self.stages:
            self.stages[word.parent_id].had_children = True
        if word.state != "open":
            self._forget_old()

    def _forget_old(self) -> None:
        """Keep memory bounded: a forgotten stage leaves its counts to its parent."""
        finished = [i for i, s in self.stages.items() if s.word.state != "open"]
        if len(finished) <= KEEP_FINISHED:
            return
        oldest = min(finished, key=lambda i: self.stages[i].word.t1_ns or 0)
        gone = self.stages.pop(oldest)
        parent = self.stages.get(gone.word.parent_id or "")
        if parent is not None:
            for counts in (gone.word.counts, gone.forgotten_counts):
                add_counts(parent.forgotten_counts, counts)

    def _take_devices(self, rows: list[dict[str, Any]], local_ns: int) -> None:
        of_domain: dict[str, int] = {}
        for row in rows:
            of_domain[row["domain"]] = of_domain.get(row["domain"], 0) + 1
        seen: dict[str, int] = {}
        for row in sorted(rows, key=lambda r: int(r["device"])):
            domain = row["domain"]
            nth = seen.get(domain, 0)
            seen[domain] = nth + 1
            device = self.devices.setdefault(
                row["device"], Device(row["device"], "", domain, "", "", "", heard_local_ns=local_ns)
            )
            numbered = domain == "gpu" or of_domain[domain] > 1
            device.domain, device.label = domain, f"{domain}{nth}" if numbered else domain
            device.name, device.source, device.origin = row["name"], row["source"], row["origin"]
            device.max_step_ns = row.get("max_step_ns") or S_NS
            device.power_limit_mw = row.get("power_limit_mw")
            t_ns = row.get("last_t_ns")
            if t_ns is not None and (device.last_t_ns is None or t_ns > device.last_t_ns):
                device.last_t_ns, device.heard_local_ns = t_ns, local_ns
                device.power_mw, device.cum_uj = row.get("power_mw"), row.get("cum_uj")
        for number in set(self.devices) - {row["device"] for row in rows}:
            del self.devices[number]

    def _take_status(self, status: dict[str, Any], local_ns: int) -> None:
        before = self.status
        if before is not None and before.get("started_ns") != status.get("started_ns"):
            # Another daemon answers. What it knows it says again; the rest was the old one's.
            boundary = self.health_local_ns or 0
            self.stages = {i: s for i, s in self.stages.items() if s.heard_local_ns > boundary}
        self.status, self.health_local_ns = status, local_ns
        self._take_devices(status.get("devices", []), local_ns)

    # ---- out -----------------------------------------------------------------------------------

    def is_whole(self) -> bool:
        """Whether all has been heard that the daemon's last health word speaks of."""
        if self.status is None:
            return False
        opened = sum(s.word.state == "open" for s in self.stages.values())
        powered = all(d.power_mw is not None for d in self.devices.values())
        return powered and opened >= self.status.get("open_stages", 0)

    def now_ns(self, local_ns: int) -> int:
        """Store time at `local_ns`. A replay's time is its trace's: the newest sample's."""
        newest = max((d.last_t_ns for d in self.devices.values() if d.last_t_ns is not None), default=0)
        replayed = bool(self.devices) and all(d.origin == "replayed" for d in self.devices.values())
        if self.status is None or self.health_local_ns is None or replayed:
            return newest
        return max(newest, int(self.status["now_ns"]) + local_ns - self.health_local_ns)

    def silent_s(self, local_ns: int) -> float | None:
        """Seconds since the daemon's last health word, once they are more than 3; None before."""
        heard = self.health_local_ns if self.health_local_ns is not None else self.first_local_ns
        if heard is None or local_ns - heard <= STALE_NS:
            return None
        return (local_ns - heard) / S_NS

    def domains(self) -> list[dict[str, Any]]:
        """What the daemon says of each domain; empty before its first health word."""
        return list(self.status.get("domains", [])) if self.status else []

    def unreadable(self) -> bool:
        """Is there a domain here that belongs in every total and cannot be read?"""
        return any(d["domain"] in IN_TOTAL and d["state"] == "unreadable" for d in self.domains())

    def power_w(self, local_ns: int) -> float | None:
        """Power of GPU and CPU together now, in watts; None if one of their devices is silent."""
        ours = [d for d in self.devices.values() if d.domain in IN_TOTAL]
        if not ours or self.unreadable():
            return None
        total_mw = 0
        for device in ours:
            if device.power_mw is None or device.silent_s(local_ns) is not None:
                return None
            total_mw += device.power_mw
        return total_mw / 1000

    def open_tree(self) -> Iterator[tuple[Stage, tuple[bool, ...]]]:
        """Open stages depth first, with, for each level, whether it is the last of its siblings."""
        opened = sorted(
            (s for s in self.stages.values() if s.word.state == "open"),
            key=lambda s: (s.word.run_id, s.word.t0_ns),
        )
        ids = {s.word.stage_id for s in opened}
        runs: dict[str, int] = {}
        for stage in opened:
            runs[stage.word.run_id] = min(stage.word.t0_ns, runs.get(stage.word.run_id, stage.word.t0_ns))
        children: dict[str | None, list[Stage]] = {}
        for stage in opened:
            parent = stage.word.parent_id if stage.word.parent_id in ids else None
            children.setdefault(parent, []).append(stage)

        def walk(stages: list[Stage], above: tuple[bool, ...]) -> Iterator[tuple[Stage, tuple[bool, ...]]]:
            for i, stage in enumerate(stages):
                place = (*above, i == len(stages) - 1)
                yield stage, place
                yield from walk(children.get(stage.word.stage_id, []), place)

        for run_id in sorted(runs, key=lambda r: runs[r]):
            yield from walk([s for s in children.get(None, []) if s.word.run_id == run_id], ())

    def finished(self) -> list[Stage]:
        """Stages that ended, newest first."""
        ended = [s for s in self.stages.values() if s.word.state != "open"]
        return sorted(ended, key=lambda s: s.word.t1_ns or 0, reverse=True)

    def path(self, stage: Stage) -> str:
        """Names from the top of the run down to this stage, as far as known: `train/epoch 3`."""
        names = [stage.word.stage]
        parent = self.stages.get(stage.word.parent_id or "")
        while parent is not None and len(names) < 32:
            names.append(parent.word.stage)
            parent = self.stages.get(parent.word.parent_id or "")
        return "/".join(reversed(names))


def add_counts(total: dict[str, int], counts: dict[str, int]) -> None:
    """Add `counts` to `total`, unit by unit."""
    for unit, n in counts.items():
        total[unit] = total.get(unit, 0) + n
