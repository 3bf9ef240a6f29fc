"""Does the doctor find what is well and what is not, with and without a daemon, and never hang?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from energyd.doctor_checks import timens_offset_ns, why
from energyd.doctor_places import PLACE_CHECKS
from fake_nvml.build import FakeNvml
from light_codecarbon.path import light
from real_daemon import Daemon, wait_for

UNITS = ("_ns", "_mw", "_us", "_j", "_bytes", "seconds")
# Numbers without a unit: ids, counts and shares.
UNITLESS = {
    "index",
    "depth",
    "pid",
    "device",
    "n_reads",
    "accuracy",
    "agreement",
    "u_agreement",
    "timens_inode",
    "free_inodes",
}
STEADY = [(0, 300_000.0), (1_000_000_000, 300_000.0)]

Doctor = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def doctor(fake_nvml: FakeNvml, tmp_path: Path) -> Doctor:
    """Runs `energyd doctor --json` where no daemon is, unless told of one; (exit code, report)."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "energyd",
                "doctor",
                "--json",
                *(arguments or ("--store", tmp_path / "none")),
            ],
            env=light({**(env or fake_nvml.env), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout, done.stderr
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    return run


@pytest.fixture
def daemon(fake_nvml: FakeNvml, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on the fake GPU, not started yet."""
    made = Daemon(tmp_path, light(fake_nvml.env))
    yield made
    if made.process is not None:
        made.kill()


def rows(report: dict[str, Any], check: str, name: str | None = None) -> list[dict[str, Any]]:
    return [r for r in report["checks"] if r["check"] == check and name in (None, r["name"])]


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a report, with the key that it hangs on."""
    if isinstance(value, dict):
        for k, v in value.items():
            yield from numbers(v, k)
    elif isinstance(value, list):
        for v in value:
            yield from numbers(v, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def test_without_a_daemon_every_sensor_is_measured_and_the_one_in_use_has_its_reason(
    fake_nvml: FakeNvml, doctor: Doctor
) -> None:
    fake_nvml.play(STEADY)
    code, report = doctor()
    assert code == (0 if report["state"] == "ok" else 4)
    device = report["devices"][0]
    assert (device["source"], device["depth"]) == ("ring", 119)
    assert "every sample" in device["why"]
    assert [s["sensor"] for s in device["sensors"]] == ["ring", "instant", "average", "counter"]
    assert all(s["call_us"] > 0 for s in device["sensors"])
    assert [r["state"] for r in rows(report, "sensors")] == ["ok"]
    assert rows(report, "domains", "gpu")[0]["state"] == "ok"
    assert {d["domain"] for d in report["domains"]} == {"gpu", "cpu", "dram"}
    assert rows(report, "daemon")[0]["state"] == "absent"
    assert "no store" in rows(report, "agreement", "store")[0]["what"]
    probed = rows(report, "agreement", "gpu 0")[0]
    assert probed["state"] == "ok"
    assert "in the probe" in probed["what"]
    assert [(r["name"], r["state"]) for r in rows(report, "store")] == [("store", "absent")]
    assert rows(report, "socket")[0]["state"] == "absent"
    assert report["clock"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_with_a_daemon_its_own_counter_reads_tell_the_agreement(
    fake_nvml: FakeNvml, doctor: Doctor, daemon: Daemon
) -> None:
    fake_nvml.play(STEADY)
    daemon.start()
    wait_for(lambda: daemon.query("FROM sensor_agreement WHERE agreement IS NOT NULL AND seconds > 2"))
    code, report = doctor("--store", str(daemon.store))
    assert code == (0 if report["state"] == "ok" else 4)
    told = report["agreement"][0]
    assert abs(told["agreement"]) <= 2 * told["u_agreement"]
    assert 0 < told["u_agreement"] < 0.1
    row = rows(report, "agreement", "gpu 0")
    assert [r["state"] for r in row] == ["ok"]
    assert "±" in row[0]["what"]
    assert rows(report, "daemon")[0]["state"] == "ok"
    assert report["daemon"]["store"] == str(daemon.store)
    assert report["devices"][0]["source"] == "ring"
    assert [(r["name"], r["state"]) for r in rows(report, "store")] == [("store", "ok"), ("disk", "ok")]
    assert "GB free" in rows(report, "store", "disk")[0]["what"]
    assert rows(report, "socket")[0]["state"] == "ok"
    assert "srwxrwx---" in rows(report, "socket")[0]["what"]
    unnamed = {k for k, _ in numbers(report) if not k.endswith(UNITS) and k not in UNITLESS}
    assert unnamed == set()
    # As a person sees it.
    table = daemon.run("energyd", "doctor", "--store", str(daemon.store))
    assert "*ring" in table.stdout
    assert "20.0 ms" in table.stdout


def test_a_driver_that_hangs_does_not_hang_the_doctor_and_the_rest_is_still_examined(
    fake_nvml: FakeNvml, doctor: Doctor, tmp_path: Path
) -> None:
    fake_nvml.control("delay_ms 100000 nvmlDeviceGetSamples\n")
    code, report = doctor("--timeout", "2", "--store", str(tmp_path / "none"))
    assert code == 4
    row = rows(report, "domains", "gpu")[0]
    assert row["state"] == "degraded"
    assert "no answer in 2 s" in row["what"]
    assert "nvidia-smi" in row["cure"]
    assert rows(report, "clock")[0]["state"] == "ok"


def test_a_sensor_that_should_answer_and_does_not_is_degraded_with_a_cure(
    fake_nvml: FakeNvml, doctor: Doctor
) -> None:
    fake_nvml.control("error nvmlDeviceGetSamples 999\n")
    code, report = doctor()
    assert code == 4
    assert report["devices"][0]["source"] == "instant"
    assert "no ring: unknown error" in report["devices"][0]["why"]
    row = rows(report, "sensors", "gpu 0 ring")[0]
    assert row["state"] == "degraded"
    assert row["cure"]


def test_a_gpu_that_is_lost_beside_one_that_is_well_is_degraded(fake_nvml: FakeNvml, doctor: Doctor) -> None:
    fake_nvml.control("devices 2\nerror * 15 device=1\n")
    code, report = doctor()
    assert code == 4
    assert len(report["devices"]) == 1
    row = rows(report, "domains", "gpu")[0]
    assert row["state"] == "degraded"
    assert "GPU is lost" in row["what"]
    assert "Xid" in row["cure"]


def test_a_counter_far_from_the_integral_is_degraded_already_by_the_probe(
    fake_nvml: FakeNvml, doctor: Doctor
) -> None:
    fake_nvml.play(STEADY)
    fake_nvml.control("scale counter 0.7\n")
    code, report = doctor()
    assert code == 4
    assert rows(report, "agreement", "gpu 0")[0]["state"] == "degraded"


def test_a_machine_without_a_gpu_is_not_ill(doctor: Doctor) -> None:
    code, report = doctor(env=dict(os.environ))
    assert rows(report, "domains", "gpu")[0]["state"] == "absent"
    assert report["devices"] == []
    assert code == (0 if report["state"] == "ok" else 4)


@pytest.mark.parametrize(
    ("text", "offset_ns"),
    [
        ("monotonic           0         0\nboottime            0         0\n", 0),
        ("monotonic        1000         0\nboottime         5000  250000000\n", 5_000_250_000_000),
    ],
)
def test_the_time_namespaces_offset_is_read_as_the_kernel_writes_it(
    tmp_path: Path, text: str, offset_ns: int
) -> None:
    file = tmp_path / "timens_offsets"
    file.write_text(text)
    assert timens_offset_ns(file) == offset_ns
    assert timens_offset_ns(tmp_path / "none") is None


def test_why_a_source_is_used_names_what_the_better_ones_lack() -> None:
    sensors = {"ring": {"reason": "not supported"}, "instant": {"reason": "reads 0 W only"}}
    assert "no ring: not supported; no instant: reads 0 W only" in why("average", sensors)


PLACES = {
    "socket": {"endpoint": "ipc:///e", "exists": True, "refused": None, "cure": None, "permission": False,
               "rights": "srwxrwx--- a:b"},
    "store": {"store": "/s", "exists": True, "readable": True, "rights": "drwxr-x--- a:b",
              "filesystem": "ext4", "free_bytes": 5e9, "free_inodes": 5},
    "unit": {"systemd": True, "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
             "Result": "success", "NRestarts": "0", "ExecMainStatus": "0", "NeedDaemonReload": "no"},
}  # fmt: skip


class Told:
    """A case whose probe has answered."""

    def __init__(self, which: str, found: dict[str, Any]) -> None:
        self.which, self.found, self.facts = which, found, {}  # type: ignore[var-annotated]

    def probed(self, which: str) -> dict[str, Any]:
        assert which == self.which
        return self.found


@pytest.mark.parametrize(
    ("which", "found", "state", "cure"),
    [
        ("socket", {}, "ok", None),
        ("socket", {"permission": True, "refused": "no", "cure": "join its group"}, "degraded", "join"),
        ("socket", {"refused": "no daemon listens"}, "note", "energyd start"),
        ("socket", {"refused": "no such socket", "exists": False, "rights": None}, "absent", None),
        ("store", {}, "ok", None),
        ("store", {"readable": False}, "degraded", "usermod"),
        ("store", {"free_bytes": 5e8}, "degraded", "--max-size"),
        ("store", {"free_inodes": 0}, "degraded", "--max-size"),
        ("store", {"filesystem": "nfs4"}, "degraded", "local disk"),
        ("unit", {}, "ok", None),
        (
            "unit",
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"},
            "degraded",
            "journalctl",
        ),
        ("unit", {"NeedDaemonReload": "yes"}, "note", "daemon-reload"),
        ("unit", {"LoadState": "not-found"}, "absent", "install-service"),
        ("unit", {"systemd": False}, "absent", None),
    ],
)
def test_each_trouble_with_a_place_has_its_cure(
    which: str, found: dict[str, Any], state: str, cure: str | None
) -> None:
    check = next(c for c in PLACE_CHECKS if c.__name__ == f"check_{which}")
    rank = ["ok", "absent", "note", "degraded"]
    worst = max(check(Told(which, PLACES[which] | found)), key=lambda row: rank.index(row.state))  # type: ignore[arg-type]
    assert worst.state == state
    assert (worst.cure is None) if cure is None else (cure in (worst.cure or ""))
