"""How do one load, one daemon and all tools run together, and how do their answers become one recording?"""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq

from bench.accuracy import store
from bench.accuracy.children import Child
from bench.accuracy.plan import COUNTS, TICK, Window, plan
from bench.accuracy.raw import Load, save
from energyd_client.clock import now_ns

_TICK = struct.Struct("<qqqq")
LENGTHS: Final = tuple(sorted(COUNTS))
LIVE_TOOLS: Final = (
    "energyd-stage", "zeus-window", "zeus-window-approx",
    *(f"codecarbon@{s:g}" for s in LENGTHS), *(f"nvitop-0.1s@{s:g}" for s in LENGTHS),
    *(f"nvitop-1s@{s:g}" for s in LENGTHS),
)  # fmt: skip
RECORDING_TOOLS: Final = (
    "poster-average", "poster-instant", "poster-average-edges", "poster-instant-edges",
    "zeus-power-instant", "zeus-power-average",
)  # fmt: skip
PROBES: Final = ("polled-instant", "polled-average")


class Ticks:
    """Collects every step of the counter that the reference process publishes."""

    def __init__(self, endpoint: str) -> None:
        self.rows: list[tuple[int, int, int, int]] = []
        self._over = threading.Event()
        self._context = zmq.Context()
        self._thread = threading.Thread(target=self._run, args=(endpoint,), daemon=True)
        self._thread.start()

    def _run(self, endpoint: str) -> None:
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        while not self._over.is_set():
            if socket.poll(200):
                self.rows.append(_TICK.unpack(socket.recv()))
        socket.close(linger=0)

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        self._context.term()

    def period_ns(self) -> int:
        """Mean time between steps so far: windows are planned a minute ahead by it."""
        (k0, a0, b0, _), (k1, a1, b1, _) = self.rows[0], self.rows[-1]
        return round(((a1 + b1) - (a0 + b0)) / 2 / max(1, k1 - k0))


class Recording:
    """One load while it runs, and what is left to ask of it afterwards."""

    def __init__(self, name: str, ticks: Ticks, seed: int, seconds: float, scale: float) -> None:
        self.load = Load(name, {"began_ns": now_ns(), "seconds": seconds, "tools": {}})
        k, prev_ns, step_ns, _ = ticks.rows[-1]
        self.period_ns = ticks.period_ns()
        steps = int(seconds * 1e9 / self.period_ns)
        first_ns = (prev_ns + step_ns) // 2 + 5 * self.period_ns
        self.windows: list[Window] = plan(
            seed=seed, first_k=k + 5, first_ns=first_ns, ticks=steps, period_ns=self.period_ns, scale=scale
        )
        self.end_ns = max(w.t1_ns for w in self.windows)
        self._rows: dict[str, list[list[Any]]] = {}

    def order(self, tools: dict[str, Child]) -> None:
        """Tell every tool that is called at edges which ones."""
        for spec, child in tools.items():
            _, _, length = spec.partition("@")
            mine = [w for w in self.windows if not length or w.length_s == float(length)]
            child.tell(plan=[w.as_json() for w in mine])

    def collect(self, tools: dict[str, Child], timeout_s: float) -> None:
        """Take the answers of the tools that were called."""
        deadline = time.monotonic() + timeout_s
        for spec, child in tools.items():
            answer = child.hear(deadline - time.monotonic())
            name = spec.partition("@")[0]
            if answer is None:
                self._note(name, f"{spec}: {child.failed or 'no answer in time'}")
                continue
            self._rows.setdefault(name, []).extend(answer["rows"])
            for error, times in answer["errors"].items():
                self._note(name, f"{spec}: {times} x {error}")
            if answer["unfinished_edges"]:
                self._note(name, f"{spec}: {answer['unfinished_edges']} edges not reached in time")

    def finish(self, ticks: Ticks, recorders: dict[str, Child], folder: Path, store_path: Path) -> Load:
        """Ask the recorders and the store, write everything down; 2 s or more after the load."""
        self._keep_ticks(ticks)
        spans = [
            (w.number, int(self._t0[i]), int(self._t1[i])) for i, w in enumerate(self.windows) if self._ok[i]
        ]
        for name, child in recorders.items():
            self._ask(name, child, spans)
        try:
            self._keep_store(store.gather(store_path, spans, int(min(self._t0)), int(max(self._t1))), spans)
        except Exception as error:  # the other tools' answers are worth keeping
            self._note("energyd-ring", f"{type(error).__name__}: {error}")
        for name, rows in self._rows.items():
            self._keep(name, rows)
        self._rows.clear()
        save(folder, self.load)
        return self.load

    def _keep_ticks(self, ticks: Ticks) -> None:
        first, last = self.windows[0].t0_ns - 2_000_000_000, self.end_ns + 2_000_000_000
        rows = np.array([row for row in ticks.rows if first <= row[1] <= last], dtype=np.int64).reshape(-1, 4)
        a = self.load.arrays
        a["tick_k"], a["tick_prev_ns"], a["tick_now_ns"], a["tick_mj"] = rows.T.copy()
        a["win_kind"] = np.array([w.kind for w in self.windows], dtype=np.int8)
        a["win_length_s"] = np.array([w.length_s for w in self.windows])
        a["win_k0"], a["win_k1"] = (np.array([getattr(w, k) for w in self.windows]) for k in ("k0", "k1"))
        at = self.load.tick_ns()
        seen = self.load.has_ticks(a["win_k0"], a["win_k1"])
        tick = a["win_kind"] == TICK
        self._ok = seen | ~tick
        self._t0, self._t1 = (np.array([getattr(w, t) for w in self.windows]) for t in ("t0_ns", "t1_ns"))
        self._t0[tick & seen] = at[np.searchsorted(a["tick_k"], a["win_k0"][tick & seen])]
        self._t1[tick & seen] = at[np.searchsorted(a["tick_k"], a["win_k1"][tick & seen])]
        a["win_t0_ns"], a["win_t1_ns"] = self._t0, self._t1
        self.load.meta["period_ns"] = self.period_ns
        self.load.meta["windows_without_step"] = int((~self._ok).sum())

    def _ask(self, name: str, child: Child, spans: list[tuple[int, int, int]]) -> None:
        if name in PROBES:
            child.tell(samples=[int(min(self._t0)), int(max(self._t1))])
        else:
            child.tell(answer=spans)
        answer = child.hear(20)
        if answer is None:
            self._note(name, child.failed or "no answer in time")
        elif name in PROBES:
            what = name.removeprefix("polled-")
            rows = np.array(answer["samples"], dtype=np.int64).reshape(-1, 2)
            self.load.arrays[f"{what}_t_ns"], self.load.arrays[f"{what}_mw"] = rows.T.copy()
        else:
            self._rows[name] = answer["rows"]

    def _keep_store(self, found: dict[str, Any], spans: list[tuple[int, int, int]]) -> None:
        a, meta = self.load.arrays, self.load.meta
        a["ring_t_ns"], a["ring_mw"] = found["ring"]
        a["counter_t_ns"], a["counter_mj"] = found["counters"]
        meta.update(
            lag_ns=found["lag_ns"], device=found["device"], sensors=found["sensors"], gaps=found["gaps"]
        )
        self._rows["energyd-ring"] = [[n, t0, t0, t1, t1, found["window_j"].get(n)] for n, t0, t1 in spans]
        planned = {w.number: w for w in self.windows}
        rows = self._rows.get("energyd-stage", [])
        stages = [found["stages"].get(f"w{row[0]}-{planned[row[0]].t0_ns}") for row in rows]
        columns, words = store.stage_columns(stages)
        for row, energy in zip(rows, columns["energy_j"], strict=True):
            row[5] = None if np.isnan(energy) else float(energy)
        a.update({f"stage:{key}": value for key, value in columns.items()})
        meta["stage_words"] = words

    def _keep(self, name: str, rows: list[list[Any]]) -> None:
        kept = [row for row in rows if self._ok[row[0]]]
        for i, what in enumerate(("w", "begin_ns", "begun_ns", "end_ns", "ended_ns")):
            self.load.arrays[f"tool:{name}:{what}"] = np.array([row[i] for row in kept], dtype=np.int64)
        energy = [np.nan if row[5] is None else float(row[5]) for row in kept]
        self.load.arrays[f"tool:{name}:energy_j"] = np.array(energy)
        if name == "energyd-stage" and "stage:energy_j" in self.load.arrays:
            mask = np.array([bool(self._ok[row[0]]) for row in rows], dtype=bool)
            for key in [k for k in self.load.arrays if k.startswith("stage:")]:
                self.load.arrays[key] = self.load.arrays[key][mask]
            words = self.load.meta["stage_words"]
            self.load.meta["stage_words"] = [w for w, ok in zip(words, mask, strict=True) if ok]

    def _note(self, tool: str, what: str) -> None:
        self.load.meta["tools"].setdefault(tool, []).append(what)
