"""What is kept of one load, and what is each window's reference?

One `.npz` a load: the counter's steps, the windows, the daemon's raw samples, every tool's answers. All
results can be computed again from these files alone. Times are CLOCK_BOOTTIME ns.

  tick_k, tick_prev_ns, tick_now_ns, tick_mj   each step of the counter: the middle of the last read that
                                               showed the old value and of the first that showed the new one
  win_kind, win_length_s, win_k0, win_k1, win_t0_ns, win_t1_ns   windows (plan.py); tick windows with the
                                               times at which their steps came
  ring_t_ns, ring_mw         samples as energyd stores them: meta `lag_ns` is already off their stamps
  counter_t_ns, counter_mj   energyd's own reads of the counter
  instant_t_ns, instant_mw, average_t_ns, average_mw   fields 186 and 185, looked at every 10 ms, changes only
  tool:NAME:w, …:begin_ns, …:begun_ns, …:end_ns, …:ended_ns, …:energy_j   a tool's windows: their numbers,
                                               the instants around its two calls, its answer (NaN: none)
  stage:energy_j, stage:u_random_j …           what the store says of the client's stages, in that order
  meta                                         JSON: names, versions, notes
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.plan import FREE, TICK

Array = NDArray[Any]


@dataclass
class Load:
    """One load's recording."""

    name: str
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Array:
        return self.arrays[key]

    def tools(self) -> list[str]:
        """Tools with answers, in the order they were written."""
        return list(dict.fromkeys(key.split(":")[1] for key in self.arrays if key.startswith("tool:")))

    def tool(self, name: str, what: str) -> Array:
        """A column of a tool's windows."""
        return self.arrays[f"tool:{name}:{what}"]

    def tick_ns(self) -> Array:
        """When each step of the counter happened, ns: between the two reads around it."""
        return (self["tick_prev_ns"] + self["tick_now_ns"]) // 2

    def doubt_ns(self, numbers: Array) -> Array:
        """Half-width of both edges of tick windows, added; 0 for free ones."""
        half = (self["tick_now_ns"] - self["tick_prev_ns"]) // 2
        edges = half[self._at(self["win_k0"][numbers])] + half[self._at(self["win_k1"][numbers])]
        return np.where(self["win_kind"][numbers] == TICK, edges, 0)

    def reference_j(self, name: str) -> Array:
        """The counter's energy of each window of a tool, J.

        Tick windows: the difference between the two steps. Free windows: between the instants at which the
        tool was called (tools that are not called: the window's own), the counter taken as a straight line
        from step to step.
        """
        numbers = self.tool(name, "w")
        exact = self["tick_mj"][self._at(self["win_k1"][numbers])]
        exact = exact - self["tick_mj"][self._at(self["win_k0"][numbers])]
        t0, t1 = self.tool(name, "begin_ns"), self.tool(name, "end_ns")
        line = self.counter_mj_at(t1) - self.counter_mj_at(t0)
        return np.where(self["win_kind"][numbers] == FREE, line, exact) / 1000.0

    def counter_mj_at(self, t_ns: Array) -> Array:
        """The counter at any instant, a straight line from step to step, mJ from the first step."""
        ticks = self.tick_ns()
        return np.interp(t_ns - ticks[0], ticks - ticks[0], self["tick_mj"] - self["tick_mj"][0])

    def has_ticks(self, k0: Array, k1: Array) -> NDArray[np.bool_]:
        """Whether the steps with these numbers were seen."""
        return np.isin(k0, self["tick_k"]) & np.isin(k1, self["tick_k"])

    def _at(self, k: Array) -> Array:
        return np.clip(np.searchsorted(self["tick_k"], k), 0, len(self["tick_k"]) - 1)


def save(folder: Path, load: Load) -> Path:
    """Write a load beside those that are there; a repeated one gets a number."""
    path, again = folder / f"{load.name}.npz", 2
    while path.exists():
        path, again = folder / f"{load.name}.{again}.npz", again + 1
    text = json.dumps({**load.meta, "name": load.name}, default=str)
    with path.open("wb") as file:
        np.savez_compressed(file, meta=np.array(text), **load.arrays)
    return path


def read_all(folder: Path) -> list[Load]:
    """Every load in a folder, in the order they were recorded."""
    loads = []
    for path in folder.glob("*.npz"):
        with np.load(path) as data:
            meta = json.loads(str(data["meta"]))
            loads.append(Load(meta["name"], meta, {key: data[key] for key in data.files if key != "meta"}))
    return sorted(loads, key=lambda load: load.meta.get("began_ns", 0))


def sessions(folder: Path) -> list[dict[str, Any]]:
    """What each run of the benchmark said of itself, oldest first."""
    found = [json.loads(path.read_text()) for path in folder.glob("session-*.json")]
    return sorted(found, key=lambda session: session.get("began", ""))
