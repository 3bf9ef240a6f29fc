"""A daemon over two fake GPUs, shared by a file's tests; what the store says beside what the curve says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for
from staged import status

SLOPES = ((0, 200_000.0), (1_500_000_000, 400_000.0), (3_000_000_000, 200_000.0))
"""Knots (ns, mW) of a curve without flanks: the ring's mean of 20 ms is the curve to a thousandth."""

EDGE_J = 0.5
"""What is allowed beside that: at 400 W a sample's time is good to a millisecond."""

Windows = dict[int, list[tuple[int, int]]]  # by GPU


class Bench:
    """One running daemon with its GPUs; runs of one test do not disturb those of another."""

    def __init__(self, daemon: Daemon, fake: FakeNvml) -> None:
        self.daemon, self.fake = daemon, fake
        rows = wait_for(lambda: daemon.query("SELECT device, uuid FROM devices WHERE domain = 'gpu'"))
        self._offset = int(wait_for(lambda: daemon.query("SELECT offset_ns FROM boots"))[0]["offset_ns"])
        self._gpu = {row["device"]: int(row["uuid"][-12:], 16) for row in rows}

    def start(self, code: str, **env: str) -> subprocess.Popen[str]:
        """A Python program beside the daemon. `gate(NAME)` in it waits for `open_gate(NAME)`."""
        gate = f"def gate(n):\n    while not os.path.exists({str(self._gates)!r} + n): time.sleep(0.005)\n"
        head = "import energyd_client as energy, os, subprocess, sys, time\n" + gate
        pipe = subprocess.PIPE
        around = {k: v for k, v in self.daemon.env.items() if k != "CUDA_VISIBLE_DEVICES"}
        command = [sys.executable, "-c", head + code]
        return subprocess.Popen(command, env=around | env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    @property
    def _gates(self) -> Path:
        return self.daemon.store.parent / "gate-"

    def open_gate(self, name: str) -> None:
        """Let those go on that wait there."""
        Path(f"{self._gates}{name}").touch()

    def done(self, process: subprocess.Popen[str], *, warned: str = "") -> list[str]:
        """What a program printed until its end. `warned`: what it was told."""
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert (warned in err) if warned else err == "", err
        return out.split()

    def settled(self) -> None:
        """Every stage has its energy."""
        wait_for(lambda: not (status(self.daemon)["open_stages"] + status(self.daemon)["pending_stages"]), 45)

    def rows(self, *run_ids: str) -> list[dict[str, Any]]:
        """Energies on GPUs of those runs' stages, with `gpu` and what the curve says as `truth_j`."""
        self.settled()
        return self._rows(run_ids)

    def rows_of_final(self, *run_ids: str) -> list[dict[str, Any]]:
        """The same while other runs go on: once none of theirs is open or pending."""
        query = f"FROM stages WHERE run_id IN ({_list(run_ids)}) AND state <> 'final'"
        wait_for(lambda: not self.daemon.query(query))
        return self._rows(run_ids)

    def _rows(self, run_ids: tuple[str, ...]) -> list[dict[str, Any]]:
        found = self.daemon.query(
            f"FROM stage_energy WHERE run_id IN ({_list(run_ids)}) AND domain = 'gpu' ORDER BY t0_ns, device"
        )
        for row in found:
            row["gpu"] = self._gpu[row["device"]]
            row["truth_j"] = self.truth_j({row["gpu"]: [(row["t0_ns"], row["t1_ns"])]})
        return found

    def totals(self, *run_ids: str) -> list[dict[str, Any]]:
        """The runs as wholes, in that order."""
        self.settled()
        found = self.daemon.query(f"FROM run_totals WHERE run_id IN ({_list(run_ids)})")
        return sorted(found, key=lambda row: run_ids.index(row["run_id"]))

    def truth_j(self, windows: Windows) -> float:
        """What the curves say of windows in store time on each GPU, each moment once."""
        total = 0.0
        for gpu, spans in windows.items():
            until = 0
            for t0, t1 in sorted(spans):
                begin = max(t0, until)
                if t1 > begin:
                    total += self.fake.energy_j(gpu, begin - self._offset, t1 - self._offset)
                    until = t1
        return total


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def by_gpu(rows: list[dict[str, Any]]) -> Windows:
    """When the stages ran, by GPU."""
    found: Windows = {}
    for row in rows:
        found.setdefault(row["gpu"], []).append((row["t0_ns"], row["t1_ns"]))
    return found


@pytest.fixture(scope="module")
def bench(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A daemon on two GPUs; its store is checked against itself at the end."""
    folder = tmp_path_factory.mktemp("two")
    fake = FakeNvml(fake_nvml_library, folder)
    fake.play(SLOPES)
    fake.control("devices 2\n")
    sources = os.environ.get("PYTHONPATH", "")
    daemon = Daemon(folder, fake.env | ({"PYTHONPATH": sources} if sources else {})).start()
    try:
        yield Bench(daemon, fake)
        assert daemon.stop() == 0
        verified = daemon.run("energyq", "--store", str(daemon.store), "verify")
        assert verified.returncode == 0, verified.stdout
    finally:
        daemon.kill()
