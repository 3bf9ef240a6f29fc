"""Does the shipped unit work under a real systemd, with all its hardening, and is the daemon kept alive?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import INSIDE, STORE, UNITS, Machine

from fake_nvml.build import FakeNvml
from real_daemon import wait_for

Boot = Callable[..., Machine]
PROGRAM = "import energyd_client as energy\nwith energy.run('r'), energy.stage('s'): pass\n"
LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as any_socket:  # SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
"""
QUICK_WATCHDOG = """WatchdogSec=3s
TimeoutAbortSec=1s
ExecStopPost=/bin/sh -c 'echo ended by $SERVICE_RESULT'
"""


def active(machine: Machine) -> Machine:
    out = machine.systemctl("start", "energyd.service")
    assert out.returncode == 0, machine.told()
    assert machine.show("ActiveState") == "active"
    return machine


def restarted(machine: Machine, before: int) -> bool:
    return machine.show("ActiveState") == "active" and machine.main_pid() not in (0, before)


def test_the_hardened_unit_serves_its_group_and_stores_under_its_filter(boot: Boot) -> None:
    nice = "ExecStartPost=/var/lib/under-test/python/bin/python3 -c 'import os; os.nice(19)'\n"
    machine = active(boot(more=nice))  # as the child does that thins old days; refused, the unit would fail
    facts = machine.inside("cat", f"/proc/{machine.main_pid()}/status").stdout
    told = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
    assert (told["Seccomp"], told["NoNewPrivs"], int(told["CapEff"], 16)) == ("2", "1", 0)

    out = machine.python("-W", "error", "-c", PROGRAM, user="nobody", group="energyd")
    assert (out.returncode, out.stderr) == (0, "")
    wait_for(lambda: machine.query("SELECT 1 FROM stages WHERE state = 'final' AND uid = 65534"))

    modes = machine.inside(
        "stat", "-c", "%a %U %G", "/run/energyd", "/run/energyd/energyd.sock", "/var/lib/energyd", STORE,
        f"{STORE}/hot.duckdb", f"{STORE}/energy.duckdb", "/var/lib/energyd/spool",
    ).stdout  # fmt: skip
    assert [line.split()[0] for line in modes.splitlines()] == [
        "750",
        "770",
        "750",
        "750",
        "640",
        "640",
        "3770",
    ]
    assert {line.split(" ", 1)[1] for line in modes.splitlines()} == {"energyd energyd"}

    unset = ["env", "-u", "ENERGYD_ENDPOINT", "-u", "ENERGYD_SPOOL", machine.interpreter]  # as users have it
    for command in (["status"], ["top", "--once"], ["doctor"], ["stop"]):
        out = machine.inside(*unset, "-m", "energyd", *command, user="nobody", group="nogroup")
        assert out.returncode == (4 if command == ["doctor"] else 5), out.stderr
        assert "Traceback" not in out.stderr
        assert "usermod -aG energyd" in out.stdout + out.stderr
    out = machine.inside(*unset, "-c", PROGRAM, user="nobody", group="nogroup")
    assert out.returncode == 0
    assert "permission denied; this run is not measured" in out.stderr
    assert "fault in the client" not in out.stderr


def test_a_reload_takes_over_what_can_change_and_the_daemon_goes_on(boot: Boot) -> None:
    machine = active(boot())
    before = machine.main_pid()
    machine.inside("sh", "-c", "echo 'keep_raw = \"36h\"\ninterval = 0.25' > /etc/energyd/energyd.toml")
    assert machine.systemctl("reload", "energyd").returncode == 0
    wait_for(lambda: "which only a restart takes over" in machine.log.read_text())
    told = machine.log.read_text()
    assert "reload: keep taken over" in told
    assert "reload: interval_s changed" in told
    assert (machine.main_pid(), machine.show("ActiveState")) == (before, "active")


@pytest.mark.fault(
    "The service's daemon is killed (kill -9)",
    seen="systemd starts it again after a second: another pid in `status`, a gap `daemon_down`.",
    lost="Samples of the hole, whose energy comes from the hardware counter where there is one.",
)
def test_a_killed_daemon_is_started_again_by_its_unit_and_goes_on_in_the_same_store(boot: Boot) -> None:
    machine = active(boot())
    assert machine.show("RestartUSec") == "1s"
    wait_for(lambda: machine.query("SELECT 1 FROM samples LIMIT 1"))
    before = machine.main_pid()
    machine.inside("kill", "-KILL", str(before))
    wait_for(lambda: restarted(machine, before))
    wait_for(lambda: machine.query("SELECT 1 FROM gaps WHERE reason = 'daemon_down'"))
    assert machine.show("NRestarts") == "1"
    out = machine.python("-W", "error", "-c", PROGRAM, user="nobody", group="energyd")
    assert (out.returncode, out.stderr) == (0, "")


@pytest.mark.fault(
    "The service's daemon hangs",
    seen="After 30 s without a commit (or one that the disk refused) systemd ends it and starts it again.",
    lost="As when it is killed.",
)
def test_a_daemon_that_commits_no_more_is_ended_by_the_watchdog_and_started_again(boot: Boot) -> None:
    machine = active(boot(more=QUICK_WATCHDOG))
    before = machine.main_pid()
    machine.inside("kill", "-STOP", str(before))
    wait_for(lambda: restarted(machine, before), 40)
    assert "ended by watchdog" in machine.told()


@pytest.mark.fault("The store's disk is full")
def test_a_full_disk_degrades_the_service_and_the_watchdog_lets_it_live(boot: Boot) -> None:
    machine = boot(more=QUICK_WATCHDOG)
    small = "mount -t tmpfs -o size=24m,mode=0750,uid=energyd,gid=energyd tmpfs /var/lib/energyd"
    assert machine.inside("sh", "-c", small).returncode == 0
    assert machine.systemctl("start", "energyd").returncode != 0
    assert "systemd-tmpfiles --create" in machine.log.read_text()  # what else the unit cannot do without
    places = f"{INSIDE}/source/systemd/energyd.tmpfiles.conf"
    assert machine.inside("systemd-tmpfiles", "--create", places).returncode == 0
    active(machine)
    before = machine.main_pid()
    machine.inside("sh", "-c", "cat /dev/zero > /var/lib/energyd/ballast; true")
    wait_for(lambda: machine.status()["state"] == "degraded")
    full_ns = machine.status()["now_ns"]
    wait_for(lambda: machine.status()["now_ns"] > full_ns + 8_000_000_000)  # twice the watchdog's time
    assert machine.status()["state"] == "degraded"
    machine.inside("rm", "/var/lib/energyd/ballast")
    wait_for(lambda: machine.status()["state"] == "ok")
    assert (machine.main_pid(), machine.show("NRestarts")) == (before, "0")


@pytest.mark.fault(
    "The service's settings or store cannot be",
    seen="The unit fails at once with exit code 78 and a message: what, where, cure. No restarts.",
    lost="Nothing is stored until it is cured.",
)
def test_settings_that_cannot_be_fail_the_unit_once_and_for_all(boot: Boot) -> None:
    machine = boot(options="--source replay:/nowhere")
    assert machine.systemctl("start", "energyd.service").returncode != 0
    assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "78")
    assert machine.show("NRestarts") == "0"
    assert "/nowhere" in machine.log.read_text()


def test_a_unit_that_forbids_the_network_ends_with_a_cure_where_libzmq_would_abort(boot: Boot) -> None:
    machine = boot(options="--source simulated --listen tcp://127.0.0.1:7411")
    assert machine.systemctl("start", "energyd.service").returncode != 0
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("exit-code", "78")
    assert "energyd.network.conf" in machine.log.read_text()


def test_with_its_drop_in_the_unit_serves_the_network_with_keys(boot: Boot) -> None:
    network = (UNITS / "energyd.network.conf").read_text().split("[Service]\n")[1]
    machine = boot(options="--source simulated --listen tcp://127.0.0.1:7411", more=network)
    assert machine.python("-c", LOOPBACK_UP).returncode == 0
    active(machine)
    script = f"""set -e; cd /run; energyd() {{ {machine.interpreter} -m energyd "$@"; }}
export ENERGYD_KEYS=/run/away
energyd keys trust 127.0.0.1 $(energyd keys daemon --store {STORE})
energyd keys allow $(energyd keys show) ada --store {STORE}
systemctl reload energyd"""
    out = machine.inside("sh", "-c", script)
    assert out.returncode == 0, out.stderr
    asked = ["env", "ENERGYD_KEYS=/run/away", "ENERGYD_ENDPOINT=tcp://127.0.0.1:7411", machine.interpreter]
    wait_for(lambda: machine.inside(*asked, "-m", "energyd", "status").returncode == 0)


@pytest.mark.fault(
    "The NVIDIA driver is upgraded under the service",
    seen="The daemon ends with exit code 75 and systemd starts another, once, with the new library.",
    lost="As when it is killed, and what the GPUs take until the new library and the new driver agree.",
)
def test_a_library_that_an_upgrade_left_behind_is_replaced_by_one_restart(
    boot: Boot, fake_nvml_library: Path, tmp_path: Path
) -> None:
    (tmp_path / "nvml").mkdir(mode=0o755)
    nvml = FakeNvml(fake_nvml_library, tmp_path / "nvml")
    control = f"Environment=FAKE_NVML_CONTROL={INSIDE}/more/nvml.control\n"
    shutil.copy(nvml.library, tmp_path / "nvml")
    machine = active(boot(options="", more=control, fake=tmp_path / "nvml"))

    def gpu() -> str:
        return next((d["state"] for d in machine.status()["domains"] if d["domain"] == "gpu"), "")

    wait_for(lambda: gpu() == "measured")
    before = machine.main_pid()
    nvml.control("error * 18\n")
    wait_for(lambda: restarted(machine, before), 40)
    assert "the NVIDIA driver was upgraded" in machine.log.read_text()
    wait_for(lambda: gpu() == "unreadable")
    second = machine.main_pid()
    nvml.control("")
    wait_for(lambda: gpu() == "measured", 40)
    assert (machine.main_pid(), machine.show("NRestarts")) == (second, "1")
