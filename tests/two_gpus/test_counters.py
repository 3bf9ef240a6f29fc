"""Are dear counters read in turn, however many GPUs there are?"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for

APART_NS = 700_000_000
"""Reads come once a second, on a sampler that looks twice a second and may be late."""


@pytest.mark.parametrize("gpus", [2, 8])
def test_counters_are_read_in_turn_one_a_second_and_never_two_in_one_look(
    fake_nvml: FakeNvml, tmp_path: Path, gpus: int
) -> None:
    log = tmp_path / "counted"
    fake_nvml.control(f"devices {gpus}\n")
    daemon = Daemon(tmp_path, {**fake_nvml.env, "FAKE_NVML_COUNTED": str(log)}).start()

    def steady() -> list[tuple[int, int]] | None:
        """After the probe and the first read of each, which come one after the other at the start."""
        reads = [(int(t), int(d)) for t, d in (line.split() for line in log.read_text().splitlines())]
        gaps = [k for k, ((a, _), (b, _)) in enumerate(pairwise(reads), 1) if b - a < APART_NS]
        rest = reads[max(gaps, default=0) + 1 :]
        return rest if len(rest) >= 4 else None

    # A design that reads all GPUs in each look never comes to four reads that are apart.
    try:
        reads = wait_for(steady, 30)
    finally:
        daemon.kill()
    devices = [device for _, device in reads]
    assert all(b == (a + 1) % gpus for a, b in pairwise(devices)), devices
