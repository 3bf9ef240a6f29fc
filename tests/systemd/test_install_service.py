"""Does `energyd install-service` make a service that runs, refuse what cannot run, and go away cleanly?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import INSIDE, STORE, Machine

from real_daemon import wait_for

ROOT = Path(__file__).parents[2]
SYSTEM_FILES = [
    "/etc/systemd/system/energyd.service", "/etc/sysusers.d/energyd.conf", "/etc/tmpfiles.d/energyd.conf",
    "/etc/energyd/energyd.toml",
]  # fmt: skip
SOCKET_FILES = ["/etc/systemd/system/energyd.socket", "/etc/systemd/system/energyd.service.d"]


def energyd(
    *arguments: str, interpreter: str = sys.executable, **env: str
) -> subprocess.CompletedProcess[str]:
    path = ":".join(str(ROOT / each) for each in ("client", "daemon"))
    return subprocess.run(
        [interpreter, "-m", "energyd", *arguments], env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def diagnosed(machine: Machine) -> set[tuple[str, str]]:
    """What the doctor says of each place there."""
    out = machine.python("-m", "energyd", "doctor", "--json")
    assert out.stderr == ""
    return {(row["check"], row["state"]) for row in json.loads(out.stdout)["checks"]}


def test_an_installed_service_runs_at_once_and_leaves_only_its_store_behind(
    boot: Callable[..., Machine],
) -> None:
    machine = boot(unit=False)
    dry = machine.python("-m", "energyd", "install-service", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert machine.inside("ls", *SYSTEM_FILES).stdout == ""

    out = machine.python("-m", "energyd", "install-service", "--now")
    assert out.returncode == 0, out.stderr
    assert [line.split(" ", 1)[1] for line in out.stderr.splitlines()[:4]] == SYSTEM_FILES
    assert all(path in dry.stdout for path in SYSTEM_FILES)
    assert machine.inside("cat", SYSTEM_FILES[0]).stdout in dry.stdout
    assert machine.show("ActiveState") == "active", machine.told()
    assert machine.show("UnitFileState") == "enabled"
    status = machine.status()
    assert (status["state"], status["store"]) == ("ok", STORE)

    assert ("unit", "ok") in diagnosed(machine)

    before = machine.main_pid()
    out = machine.python("-m", "energyd", "install-service", "--socket", "--now")  # over the running one
    assert out.returncode == 0, out.stderr
    assert machine.systemctl("is-active", "energyd.socket", "energyd.service").stdout == "active\nactive\n"
    assert machine.main_pid() not in (0, before)
    assert machine.status()["state"] == "ok"

    out = machine.python("-m", "energyd", "uninstall-service")
    assert out.returncode == 0, out.stderr
    assert machine.show("ActiveState") == "inactive"
    assert machine.systemctl("is-active", "energyd.socket").stdout == "inactive\n"
    assert machine.inside("ls", *SYSTEM_FILES, *SOCKET_FILES).stdout == ""
    assert machine.inside("ls", f"{STORE}/hot.duckdb").returncode == 0
    again = machine.python("-m", "energyd", "uninstall-service")
    assert (again.returncode, again.stderr) == (0, "no such service is installed\n")


def test_only_root_installs_the_machines_service(boot: Callable[..., Machine]) -> None:
    machine = boot(unit=False)
    for command in ("install-service", "uninstall-service"):
        out = machine.python("-m", "energyd", command, user="nobody", group="nogroup")
        assert out.returncode == 5, out.stderr
        assert "--user" in out.stderr
    assert machine.inside("ls", *SYSTEM_FILES).stdout == ""


# As user@.service starts it, less PAM, which would need a login.
USER_MANAGER = """[Unit]
DefaultDependencies=no
[Service]
User=nobody
Type=notify
Delegate=pids memory
ExecStart=/lib/systemd/systemd --user --log-target=console
Environment={environment}
StandardOutput=append:{log}
StandardError=append:{log}
"""


def test_a_users_own_service_runs_under_the_users_manager_and_is_started_again(
    boot: Callable[..., Machine],
) -> None:
    machine = boot(unit=False)
    home, runtime = "/run/nobody", "/run/user/65534"
    environment = {
        "HOME": home, "XDG_RUNTIME_DIR": runtime, "ENERGYD_ENDPOINT": f"ipc://{runtime}/energyd/energyd.sock",
        "ENERGYD_SPOOL": "", "XDG_CONFIG_HOME": f"{home}/config", **machine.python_environment,
    }  # fmt: skip
    manager = USER_MANAGER.format(
        environment=" ".join(f"{k}={v}" for k, v in environment.items() if v), log=INSIDE / "log" / "log"
    )
    (machine.work / "units" / "test-user.service").write_text(manager)
    made = machine.inside("install", "-d", "-o", "nobody", "-m", "0700", home, runtime)
    assert made.returncode == 0, made.stderr
    assert machine.systemctl("daemon-reload").returncode == 0
    assert machine.systemctl("start", "test-user.service").returncode == 0, machine.told()

    def as_user(*command: str) -> subprocess.CompletedProcess[str]:
        assigned = [f"{k}={v}" for k, v in environment.items()]
        return machine.inside("env", *assigned, *command, user="nobody", group="nogroup")

    def energyd_there(*arguments: str) -> subprocess.CompletedProcess[str]:
        return as_user(machine.interpreter, "-m", "energyd", *arguments)

    def show(key: str) -> str:
        command = ["systemctl", "--user", "show", "energyd.service", f"--property={key}", "--value"]
        return as_user(*command).stdout.strip()

    as_user(
        "sh",
        "-c",
        f"mkdir -p {home}/config/energyd; echo 'source = \"simulated\"' > {home}/config/energyd/energyd.toml",
    )
    out = energyd_there("install-service", "--user", "--now")
    assert out.returncode == 0, out.stderr + machine.told()
    assert show("ActiveState") == "active"
    status = json.loads(energyd_there("status", "--json").stdout)
    assert (status["sources"], status["store"]) == (["simulated"], f"{home}/.local/share/energyd/store")
    before = show("MainPID")
    assert as_user("kill", "-KILL", before).returncode == 0
    wait_for(lambda: show("ActiveState") == "active" and show("MainPID") not in ("0", before))
    assert energyd_there("uninstall-service", "--user").returncode == 0
    assert show("ActiveState") == "inactive"
    assert as_user("ls", f"{home}/config/systemd/user/energyd.service").returncode != 0


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    def refused(interpreter: Path) -> str:
        from energyd.install_service import InstallError, plan

        monkeypatch.setattr(sys, "executable", str(interpreter))
        with pytest.raises(InstallError) as error:
            plan(user=False)
        return str(error.value)

    return refused


@pytest.mark.parametrize("home", ["/root", "/home/ada", "/run/user/1000"])
def test_an_interpreter_in_a_home_directory_is_refused_with_the_cure(
    home: str, refusal: Callable[[Path], str]
) -> None:
    told = refusal(Path(home) / "venv" / "bin" / "python")
    assert f"{home}/venv/bin/python" in told
    assert "ProtectHome" in told
    assert "python3 -m venv /opt/energyd" in told


def test_an_interpreter_that_others_may_not_reach_is_refused(
    tmp_path: Path, refusal: Callable[[Path], str]
) -> None:
    (tmp_path / "bin").mkdir(mode=0o700)
    (tmp_path / "bin" / "python").touch()
    told = refusal(tmp_path / "bin" / "python")
    assert "may not enter" in told


def test_a_users_service_needs_no_root_and_may_live_in_a_home(tmp_path: Path) -> None:
    out = energyd("install-service", "--user", "--dry-run", XDG_CONFIG_HOME=str(tmp_path))
    assert out.returncode == 0, out.stderr
    assert f"# ---- {tmp_path}/systemd/user/energyd.service" in out.stdout
    assert f"ExecStart={sys.executable} -m energyd start --foreground" in out.stdout
    assert "$ systemctl --user enable energyd.service" in out.stdout
    refused = energyd("install-service", "--user", "--socket", XDG_CONFIG_HOME=str(tmp_path))
    assert refused.returncode == 2, refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_user_manager_it_says_how_to_go_without_and_what_has_happened(tmp_path: Path) -> None:
    if shutil.which("systemctl") is None:
        pytest.skip("no systemd here: systemctl missing")
    nobody_there = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for command, so_far in (("install-service", "files are written"), ("uninstall-service", "nothing was")):
        out = energyd(command, "--user", DBUS_SESSION_BUS_ADDRESS="", **nobody_there)
        assert out.returncode == 78, out.stderr
        assert so_far in out.stderr
        assert "cure: from a login that has a systemd of its own; without one: `energyd start`" in out.stderr
        assert len(out.stderr.splitlines()) == 2
    assert (tmp_path / "systemd" / "user" / "energyd.service").exists()
