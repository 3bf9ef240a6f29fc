"""What does the daemon say when asked? Status, hot tail, one stage: read under the recorder's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from energyd.config import Config
from energyd.energy import DeviceLog
from energyd.news import device_maps
from energyd.recorder import Recorder
from energyd.releasing import LONGEST_S
from energyd.store.columns import schema
from energyd_client import protocol as p

_COLUMNS = [name for name, _ in schema()["stages_log"]]
_T0, _T1, _STATE, _DEVICES = (_COLUMNS.index(name) for name in ("t0_ns", "t1_ns", "state", "devices"))

POWER_VALUES: Final = 100_000
"""Values of power in one answer, all devices together: 2 MB, and milliseconds under the recorder's lock."""


class Answers:
    """Answers the questions of PROTOCOL.md. Called by the wire thread."""

    def __init__(
        self,
        config: Config,
        recorder: Recorder,
        about: Callable[[], dict[str, Any]],
        release: Callable[[int], dict[str, Any]] = lambda for_s: {"sources": [], "until_ns": None},
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._release = release
        self._about = about  # what only the service knows: pid, sources, lateness, clients …

    def __call__(self, question: p.Question, uid: int | None = None) -> dict[str, Any] | p.Refusal:
        """The body of an Answer, or why there is none."""
        if isinstance(question, p.AskStatus):
            return self.status()
        if isinstance(question, p.AskTail):
            return self.tail()
        if isinstance(question, p.AskRelease):
            return self.release(question, uid)
        return self.stage(question)

    def status(self) -> dict[str, Any]:
        """Is all well? The same map is published as topic `health` once a second."""
        r = self._recorder
        with r.lock:
            return {
                "state": "degraded" if r.degraded else "ok",
                "reason": r.degraded,
                "now_ns": r.timeline.now_ns(),
                "store": str(self._config.store),
                "endpoint": self._config.endpoint,
                "publish": self._config.publish,
                "devices": device_maps(r.ledger),
                "domains": [
                    {
                        "domain": d.domain,
                        "state": d.state,
                        "source": d.source,
                        "reason": d.reason,
                        "is_starting": d.is_starting,
                    }
                    for d in r.ledger.domain_infos.values()
                ],
                "samples": r.ledger.samples,
                "gaps": r.ledger.gaps,
                "gap_reasons": dict(r.ledger.gap_reasons),
                "store_errors": r.committing.errors,
                "newest_t_ns": r.marks.newest_ns,
                "markers": r.taking.markers,
                "open_runs": len(r.tracker.runs),
                "open_stages": r.tracker.roster.open,
                "pending_stages": r.pending_stages,
                "waiting": r.inbox.waiting,
                "commit_ms": r.committing.took_ms,
                "exhausted": r.taking.exhausted,
                **self._about(),
            }

    def tail(self) -> dict[str, Any]:
        """Which files hold the store now, and what came after them."""
        r = self._recorder
        with r.lock:
            samples = {}
            for device in r.ledger.logs:
                t_ns, power, cum = r.marks.after_export(device)
                if len(t_ns):
                    samples[str(device)] = {
                        "t_ns": t_ns.astype("<i8").tobytes(),
                        "power_mw": power.astype("<i4").tobytes(),
                        "cum_uj": cum.astype("<i8").tobytes(),
                    }
            rows = {table: list(new) for table, new in r.keeping.recent.items() if new}
            runs, stages = rows.setdefault("runs_log", []), rows.setdefault("stages_log", [])
            runs.extend(run.row() for run in r.tracker.runs.values())
            stages.extend(stage.row() for stage in r.tracker.stages.values())
            # What has ended and waits for its commit; a stage's energy is pending until that.
            runs.extend(r.committing.waiting("runs_log"))
            waiting = r.committing.waiting("stages_log")
            stages.extend((*row[:_STATE], "ended", *row[_STATE + 1 :]) for row in waiting)
            return {
                "hour": r.marks.hour,
                "watermark_ns": r.marks.newest_ns,
                "host_id": r.host_id,
                "store": str(self._config.store),
                "sealed": {table: list(paths) for table, paths in r.keeping.sealed.items()},
                "live": dict(r.keeping.live.current),
                "samples": samples,
                "rows": rows,
            }

    def release(self, question: p.AskRelease, uid: int | None) -> dict[str, Any] | p.Refusal:
        """Let go of the driver, or take it back."""
        if uid not in (0, os.geteuid()):
            owner = os.geteuid()
            told = f"only root and uid {owner}, whose daemon this is, may have it let go of the driver"
            return p.Refusal("forbidden", told)
        if question.for_s > LONGEST_S:
            return p.Refusal("malformed", f"at most {LONGEST_S} s, a day", "for_s")
        return self._release(question.for_s)

    def stage(self, question: p.AskStage) -> dict[str, Any] | p.Refusal:
        """What a stage cost; its power curve as far as memory reaches."""
        r = self._recorder
        with r.lock:
            stage = r.tracker.stages.get(question.stage_id)
            if stage is not None:
                t0_ns, t1_ns, state, energies = stage.t0_ns, stage.t1_ns, stage.state, []
                devices = sorted(stage.devices)
            else:
                done, stored = r.done(question.stage_id)
                if done is None:
                    return p.Refusal(
                        "not_found", f"no stage {question.stage_id} in the last hour; ask energyq", "stage_id"
                    )
                row, costs = done
                names = [c for c, _ in schema()["energies"]]
                energies = [dict(zip(names, cost, strict=True)) for cost in costs]
                t0_ns, t1_ns, state = row[_T0], row[_T1], "final" if stored else "ended"
                devices = row[_DEVICES]
            body: dict[str, Any] = {
                "stage_id": question.stage_id, "state": state, "t0_ns": t0_ns, "t1_ns": t1_ns,
                "energies": energies,
            }  # fmt: skip
            if question.power:
                until_ns = r.timeline.now_ns() if t1_ns is None else t1_ns
                body["power"] = {
                    d: curve(r.ledger.logs[d], t0_ns, until_ns, room)
                    for d in devices
                    if d in r.ledger.logs and (room := POWER_VALUES // len(devices))
                }
            return body


def curve(log: DeviceLog, t0_ns: int, t1_ns: int, room: int) -> dict[str, list[int]]:
    """Power from t0 to t1, mW: at most `room` values, each with its instant and the ns that it stands for.

    Those are since the sample before, inside the window; 0 over a gap, or where memory begins. The sample
    after t1 is there for the last piece. If they are too many, neighbours are joined to their mean.
    """
    before = log.after(None, t0_ns)[0][-1:]
    t_ns, power_mw, _ = log.after(t0_ns)
    n = min(len(t_ns), int(np.searchsorted(t_ns, t1_ns)) + 1)
    t_ns, power_mw = t_ns[:n], power_mw[:n]
    if n == 0:
        return {"t_ns": [], "power_mw": [], "dt_ns": []}
    since_ns = np.concatenate((before if len(before) else t_ns[:1], t_ns[:-1]))
    dt_ns = np.minimum(t_ns, t1_ns) - np.maximum(since_ns, t0_ns)
    dt_ns[(t_ns - since_ns > log.max_step_ns) | (dt_ns < 0)] = 0
    if n > room:
        first = np.arange(0, n, -(-n // room))
        last = np.append(first[1:], n) - 1
        weight = np.maximum(dt_ns, 1)  # so that a mean over a gap is one, too
        power = np.add.reduceat(power_mw * weight, first) / np.add.reduceat(weight, first)
        t_ns, power_mw, dt_ns = t_ns[last], np.rint(power).astype(np.int32), np.add.reduceat(dt_ns, first)
    return {"t_ns": t_ns.tolist(), "power_mw": power_mw.tolist(), "dt_ns": dt_ns.tolist()}
