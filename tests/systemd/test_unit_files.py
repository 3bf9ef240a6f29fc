"""Do the shipped unit files say what they should, in words that systemd knows?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


def analyze(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze missing")
    return subprocess.run(
        ["systemd-analyze", *arguments], env={**os.environ, **env}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def copied(folder: Path, name: str = "energyd.service", dropped_in: str | None = None) -> str:
    """A unit with an executable that exists here, as its installer writes it; the socket's beside it."""
    shutil.copy(UNITS / "energyd.socket", folder)
    unit = folder / "energyd.service"
    unit.write_text((UNITS / name).read_text().replace("/opt/energyd/bin/energyd", sys.executable))
    if dropped_in is not None:
        (folder / "energyd.service.d").mkdir()
        shutil.copy(UNITS / dropped_in, folder / "energyd.service.d" / "more.conf")
    return str(unit)


@pytest.mark.parametrize(
    ("name", "dropped_in", "scope"),
    [
        ("energyd.service", None, "--system"),
        ("energyd.service", "energyd.network.conf", "--system"),
        ("energyd.service", "energyd.socket.conf", "--system"),
        ("energyd-user.service", None, "--user"),
    ],
)
def test_systemd_has_nothing_to_say_against_a_unit(
    name: str, dropped_in: str | None, scope: str, tmp_path: Path
) -> None:
    """It only warns of unknown keys and bad values, so any word is a failure."""
    units = [copied(tmp_path, name, dropped_in)]
    units += [str(tmp_path / "energyd.socket")] if dropped_in == "energyd.socket.conf" else []
    out = analyze("verify", "--man=no", scope, *units, XDG_RUNTIME_DIR=str(tmp_path))
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def test_a_misspelt_key_is_noticed(tmp_path: Path) -> None:
    unit = Path(copied(tmp_path))
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze("verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize(
    ("dropped_in", "most"), [(None, 1.0), ("energyd.socket.conf", 1.0), ("energyd.network.conf", 2.0)]
)
def test_the_units_exposure_is_as_low_as_promised(
    dropped_in: str | None, most: float, tmp_path: Path
) -> None:
    unit = copied(tmp_path, dropped_in=dropped_in)
    out = analyze("security", "--offline=true", f"--threshold={10 * most:.0f}", unit)
    assert out.returncode == 0, out.stdout
    table = json.loads(analyze("security", "--offline=true", "--json=short", unit).stdout)
    unset = {row["name"] for row in table if row["set"] is False}
    # What energyd must be able to see: the GPUs, and whose a process is (systemd/README.md).
    assert {"PrivateDevices=", "PrivateUsers=", "ProtectProc=", "ProcSubset="} <= unset


def test_the_opt_in_rule_for_cpu_counters_carries_its_warning() -> None:
    rule = (UNITS / "energyd-rapl.rules").read_text()
    assert "PLATYPUS" in rule
    assert "CVE-2020-8694" in rule
    if shutil.which("udevadm"):
        lines = [line for line in rule.splitlines() if not line.startswith("#")]
        assert all(line.startswith("SUBSYSTEM==") for line in lines)
