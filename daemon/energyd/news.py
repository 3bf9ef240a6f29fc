"""What do subscribers hear? Devices when they are declared, samples and stages once they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from energyd.ledger import Ledger
from energyd.store.write import Batch
from energyd.tracker import Tracker
from energyd_client import protocol as p


class Voice(Protocol):
    """How the recorder speaks to clients and subscribers (the wire thread does it)."""

    def refuse(self, client: str, refusal: p.Refusal) -> None:
        """Tell a client that one of its markers was refused."""

    def acknowledge(self, acks: dict[str, int]) -> None:
        """Tell clients up to which marker everything is stored."""

    def publish(self, topic: str, message: p.Message) -> None:
        """Tell subscribers."""


class News:
    """Used under the recorder's lock."""

    def __init__(self, voice: Voice, ledger: Ledger, tracker: Tracker) -> None:
        self._voice = voice
        self._ledger = ledger
        self._tracker = tracker
        self._settled: dict[str, dict[int, int | None]] = {}

    def settled(self, energies: Mapping[str, dict[int, int | None]]) -> None:
        """What stages cost, {stage_id: {device: µJ}}; told once they are stored."""
        self._settled.update(energies)

    def devices(self) -> None:
        """Tell which there are."""
        self._voice.publish("devices", p.DeviceList(0, device_maps(self._ledger)))

    def stored(self, batch: Batch) -> None:
        """Tell the samples of a commit, and what has become of stages since the last."""
        for device, added in batch.samples:
            t_ns, power = added.t_ns.tolist(), added.power_mw.tolist()
            self._voice.publish(f"samples/{device}", p.Samples(0, device, t_ns, power, int(added.cum_uj[-1])))
        finals = {row[1]: row for row in batch.rows.get("stages_log", [])}
        for stage_id in self._tracker.news:
            stage = self._tracker.stages.get(stage_id)
            if stage is not None:
                self._voice.publish(f"stages/{stage_id}", stage.state_message(self._run_name(stage.run_id)))
            elif stage_id in finals:
                message = self._final(finals[stage_id], self._settled.pop(stage_id, {}))
                self._voice.publish(f"stages/{stage_id}", message)
        self._tracker.news.clear()

    def _final(self, row: tuple[Any, ...], energies: dict[int, int | None]) -> p.StageState:
        """The last news of a stage, from its final row."""
        return p.StageState(
            0, row[0], self._run_name(row[0]), row[1], row[2], row[3], "final", row[7], row[4], row[5],
            msgspec.json.decode(row[9]), {}, energies,
        )  # fmt: skip

    def _run_name(self, run_id: str) -> str:
        """The name of a run, or its id once it is closed and forgotten."""
        run = self._tracker.runs.get(run_id) or self._tracker.ended.get(run_id)
        return run.name if run else run_id


def device_maps(ledger: Ledger) -> list[dict[str, Any]]:
    """Every device as status and subscribers see it."""
    maps = []
    for device, info in sorted(ledger.infos.items()):
        totals = ledger.logs[device].totals
        maps.append(
            {
                "device": device, "uuid": info.uuid, "domain": info.domain, "name": info.name,
                "source": info.source, "origin": info.origin, "period_ns": info.period_ns,
                "max_step_ns": info.max_step_ns, "power_limit_mw": info.power_limit_mw,
                "driver": info.driver,
                "last_t_ns": totals.t_ns, "cum_uj": totals.cum_uj,
                "power_mw": totals.power_mw if totals.t_ns is not None else None,
            }
        )  # fmt: skip
    return maps
