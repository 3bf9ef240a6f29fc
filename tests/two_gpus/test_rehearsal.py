"""Does the script for two real GPUs run from end to end over the fake library, and can its claims fail?"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_nvml.build import FakeNvml
from hardware.two_gpus_page import judge

from .conftest import SLOPES

SCRIPT = Path(__file__).parents[1] / "hardware" / "two_gpus.py"
CPU = "of a core"  # what a loaded machine may miss


def wrong(raw: dict[str, Any]) -> list[str]:
    """The claims that do not hold, but for the daemon's CPU time."""
    return [line for line in judge(raw).lines if "**no**" in line and CPU not in line]


def first(raw: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in raw["energies"] if row[key] == value)
    return found


def _twice(raw: dict[str, Any]) -> None:
    raw["totals"][0]["gpu_j"] *= 1.02


def _other_gpu(raw: dict[str, Any]) -> None:
    solo = first(raw, "stage", "solo rank 0")
    other = next(row["device"] for row in raw["energies"] if row["device"] != solo["device"])
    raw["energies"].append({**solo, "device": other})


def _no_exclusive(raw: dict[str, Any]) -> None:
    first(raw, "run_id", raw["both on one"]["run_ids"][0])["exclusive_j"] *= 1.2


def _unseen_sharing(raw: dict[str, Any]) -> None:
    first(raw, "run_id", raw["both on one"]["run_ids"][1])["flags"] = []


def _false_sharing(raw: dict[str, Any]) -> None:
    first(raw, "run_id", raw["one each, unsaid"]["run_ids"][0])["overlap_s"] = 0.5


def _tokens(raw: dict[str, Any]) -> None:
    raw["ranks"]["positions"][1] += 1


def _together(raw: dict[str, Any]) -> None:
    raw["quiet"]["reads"][1][1] = raw["quiet"]["reads"][0][1] + 3_000_000


def _null(raw: dict[str, Any]) -> None:
    first(raw, "stage", "late rank 1")["energy_j"] = None


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_script_runs_from_end_to_end_its_claims_hold_and_each_of_them_can_fail(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    fake_nvml.play(SLOPES)
    fake_nvml.control("devices 2\n")
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "measure", "--out", str(out), "--shape", "tiny", "--seconds", "4"]
    env = {k: v for k, v in fake_nvml.env.items() if k != "CUDA_VISIBLE_DEVICES"}
    env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode in (0, 1), done.stderr
    text = (out / "two-gpus.json").read_text()
    assert done.stdout == judge(json.loads(text)).page + "\n"
    assert wrong(json.loads(text)) == [], done.stderr
    assert "fake NVML library, no hardware" in done.stdout.splitlines()[0]
    with tarfile.open(out / "store.tar.gz") as archive:
        assert "store/energy.duckdb" in archive.getnames()
    breakings: list[Callable[[dict[str, Any]], None]] = [
        _twice, _other_gpu, _no_exclusive, _unseen_sharing, _false_sharing, _tokens, _together, _null,
    ]  # fmt: skip
    for break_it in breakings:
        raw = copy.deepcopy(json.loads(text))
        break_it(raw)
        assert wrong(raw), break_it
