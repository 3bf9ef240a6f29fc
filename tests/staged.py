"""A program that stays in one stage until the test has done to the machine what it will; what that cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from energyd_client.protocol import AskStatus
from energyd_client.request import ask
from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for

PROGRAM = """
import pathlib
with energy.run("tested") as run:
    for k, name in enumerate({names!r}):
        with run.stage(name):
            began = time.monotonic()
            print(run.run_id, flush=True)
            while not pathlib.Path({gate!r} + str(k)).exists(): time.sleep(0.01)
            lasted = time.monotonic() - began
        print(name, lasted, flush=True)
assert energy.flush(10)
"""

COUNTER_STEP_J = 130.0
"""A bridge is good to one step (100 ms) of the fake's counter at each end, at up to 640 W."""


def status(daemon: Daemon) -> dict[str, Any]:
    """As `energyd status --json` has it, without a process of its own: it is asked again and again."""
    return ask(daemon.endpoint, AskStatus(0), 10)


@dataclass
class Cost:
    """What the daemon says one device took in one stage, and what it did take."""

    row: dict[str, Any]
    truth_j: float
    gaps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Of the gaps in the stage, in order of time."""
        return [gap["reason"] for gap in self.gaps]

    @property
    def error_j(self) -> float | None:
        """Of the energy; None where it is NULL."""
        energy_j = self.row["energy_j"]
        return None if energy_j is None else energy_j - self.truth_j

    def no_wrong_joule(self, share: float = 0.02) -> bool:
        """True or NULL with a reason: each gap bridged to a counter's step, the rest to `share`."""
        if self.error_j is None:
            return bool(self.row["reason"])
        bridges = sum(gap["bridged_uj"] is not None for gap in self.gaps)
        right = abs(self.error_j) <= share * self.truth_j + bridges * COUNTER_STEP_J
        right &= abs(self.error_j) <= 1.5 * self.row["u_random_j"]  # k = 3: beyond it in 1 of 400 cases
        return right and all(
            gap["bridged_uj"] is None or abs(gap["bridged_uj"] / 1e6 - gap["truth_j"]) <= COUNTER_STEP_J
            for gap in self.gaps
        )

    def __repr__(self) -> str:
        keys = ("device", "energy_j", "coverage", "flags", "reason", "source")
        return f"Cost({ {k: self.row[k] for k in keys} }, truth {self.truth_j:.1f} J, gaps {self.gaps})"


class Staged:
    """One run with stages that follow each other; the first is open when the constructor returns."""

    def __init__(self, daemon: Daemon, *names: str) -> None:
        self._daemon = daemon
        self._names = names or ("train",)
        self._gate = str(daemon.store.parent / "end")
        self._ended = 0
        self.lasted_s: dict[str, float] = {}  # stage: by the program's own CLOCK_MONOTONIC
        self._process = daemon.program(PROGRAM.format(names=self._names, gate=self._gate))
        assert self._process.stdout is not None
        self.run_id = self._process.stdout.readline().strip()
        wait_for(lambda: status(daemon)["open_stages"])

    def next(self) -> None:
        """End this stage; the next is open on return."""
        Path(self._gate + str(self._ended)).touch()
        assert self._process.stdout is not None
        name, lasted_s = self._process.stdout.readline().split()
        self.lasted_s[name] = float(lasted_s)
        self._ended += 1
        if self._ended < len(self._names):
            self._process.stdout.readline()

    def end(self, warned: str = "") -> None:
        """End the last stage; its energy is settled on return. `warned`: what stderr may hold."""
        self.next()
        _, err = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, err
        assert err == "" or (warned and warned in err), err
        wait_for(
            lambda: status(self._daemon)["open_stages"] + status(self._daemon)["pending_stages"] == 0, 45
        )

    def costs(self, nvml: FakeNvml) -> dict[tuple[str, int], Cost]:
        """{(stage, device): what it cost}."""
        (offset,) = {row["offset_ns"] for row in self._daemon.query("FROM boots")}
        gaps = self._daemon.query("FROM gaps ORDER BY t0_ns")
        index = {row["device"]: int(row["uuid"][-12:], 16) for row in self._daemon.query("FROM devices")
                 if row["domain"] == "gpu"}  # fmt: skip
        for gap in gaps:
            if gap["device"] in index:
                gap["truth_j"] = nvml.energy_j(
                    index[gap["device"]], gap["t0_ns"] - offset, gap["t1_ns"] - offset
                )
        found = {}
        for row in self._daemon.query(f"FROM stage_energy WHERE run_id = '{self.run_id}' AND domain = 'gpu'"):
            device, t0, t1 = row["device"], row["t0_ns"], row["t1_ns"]
            inside = [g for g in gaps if g["device"] == device and g["t0_ns"] < t1 and g["t1_ns"] > t0]
            truth_j = nvml.energy_j(index[device], t0 - offset, t1 - offset)
            found[row["stage"], index[device]] = Cost(row, truth_j, inside)
        return found
