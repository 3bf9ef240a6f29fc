"""A real systemd in namespaces of its own, running the shipped unit: nothing boots or changes outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from real_daemon import wait_for

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
INSIDE = Path("/var/lib/under-test")
STORE = "/var/lib/energyd/store"
ENDPOINT = "ipc:///run/energyd/energyd.sock"
SYSTEMD = Path("/lib/systemd/systemd")
TOOLS = ("unshare", "nsenter", "systemctl", "systemd-sysusers", "systemd-tmpfiles", "setpriv")

TARGET = "[Unit]\nDescription=Nothing but the unit under test\nDefaultDependencies=no\n"
# What a machine without journal, sockets and mounts of its own must do without; all else is as shipped.
DROP_IN = """[Unit]
DefaultDependencies=no
[Service]
StandardOutput=append:{log}
StandardError=append:{log}
Environment={environment}
"""


def why_not() -> str | None:
    """Why no systemd can be started here; None if one can."""
    if os.geteuid() != 0:
        return "no systemd here: not root"
    lacking = [tool for tool in TOOLS if not shutil.which(tool)] + [str(SYSTEMD)] * (not SYSTEMD.exists())
    if lacking:
        return f"no systemd here: {', '.join(lacking)} missing"
    if _cgroup2() is None:
        return "no systemd here: no writable cgroup2"
    tried = subprocess.run(
        ["unshare", "--cgroup", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "mount", "-t",
         "cgroup2", "cgroup2", "/mnt"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"no systemd here: {tried.stderr.strip()}"


def _cgroup2() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(where)
    return None


class Machine:
    """One such systemd. `options` are added to the daemon's command, `more` to its drop-in.

    `unit=False`: without the unit, for who installs it. `socket`: systemd holds its socket.
    """

    def __init__(
        self,
        work: Path,
        options: str = "--source simulated",
        more: str = "",
        fake: Path | None = None,
        unit: bool = True,
        socket: bool = False,
    ):
        work.chmod(0o755)
        self.work = work
        self.log = work / "log" / "log"
        self._units(options, more, unit, socket)
        root = _cgroup2()
        assert root is not None
        self._cgroup = root / f"energyd-test-{os.getpid()}-{work.name}"
        self.environment = {
            **os.environ,
            "PYTHON": sys.base_prefix,
            "SITE": sysconfig.get_path("purelib"),
            "SOURCE": str(ROOT),
            "MORE": str(fake or work / "log"),
        }
        boot = ["sh", str(Path(__file__).with_name("boot.sh")), "enter", str(self._cgroup), str(work)]
        with (work / "log" / "systemd").open("wb") as said:
            self._process = subprocess.Popen(
                boot, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        self.pid1 = int(wait_for(self._first_process))
        wait_for(lambda: self.systemctl("list-units").returncode == 0)

    @property
    def python_environment(self) -> dict[str, str]:
        """What our Python needs to find itself there."""
        sources = [str(INSIDE / "source" / each) for each in ("client", "daemon", "analysis")]
        return {
            "PYTHONPATH": ":".join([*sources, f"{INSIDE}/site"]),
            "PYTHONHOME": f"{INSIDE}/python",
            "LD_LIBRARY_PATH": f"{INSIDE}/more:{INSIDE}/python/lib",
        }

    @property
    def interpreter(self) -> str:
        """Our Python, as that machine has it."""
        return str(INSIDE / "python" / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")

    def _units(self, options: str, more: str, with_unit: bool, with_socket: bool) -> None:
        (self.work / "log").mkdir()
        (self.work / "log").chmod(0o777)
        folder = self.work / "units"
        (folder / "energyd.service.d").mkdir(parents=True)
        (folder / "energyd.socket.d").mkdir()
        (folder / "energyd.socket.d" / "test.conf").write_text("[Unit]\nDefaultDependencies=no\n")
        (folder / "energyd-test.target").write_text(TARGET)
        if with_unit:
            unit = (UNITS / "energyd.service").read_text()
            unit = unit.replace("/opt/energyd/bin/energyd", f"{self.interpreter} -m energyd")
            unit = unit.replace(f"--store {STORE}", f"--store {STORE} {options}")
            (folder / "energyd.service").write_text(unit)
        if with_socket:
            shutil.copy(UNITS / "energyd.socket", folder)
            shutil.copy(UNITS / "energyd.socket.conf", folder / "energyd.service.d" / "socket.conf")
        set_there = " ".join(f"{key}={value}" for key, value in self.python_environment.items())
        text = DROP_IN.format(log=INSIDE / "log" / "log", environment=set_there)
        (folder / "energyd.service.d" / "test.conf").write_text(text + more)

    def _first_process(self) -> str | None:
        assert self._process.poll() is None, (self.work / "log" / "systemd").read_text()
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                if Path(f"/proc/{child}/exe").readlink() == SYSTEMD.resolve():
                    return child
            except FileNotFoundError:
                pass  # a short-lived one of boot.sh
        return None

    def inside(self, *command: str, user: str | None = None, group: str | None = None,
               timeout_s: float = 60) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on that machine, as root or as a user of it."""
        become = []
        if user is not None:
            become = [
                "setpriv",
                f"--reuid={user}",
                f"--regid={group or user}",
                "--clear-groups",
                "env",
                "HOME=/",
            ]
        enter = [
            "nsenter",
            "--target",
            str(self.pid1),
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--net",
            "--cgroup",
        ]
        env = {
            "PATH": os.environ["PATH"],
            **self.python_environment,
            "ENERGYD_ENDPOINT": ENDPOINT,
            "ENERGYD_SPOOL": "/var/lib/energyd/spool",
        }
        return subprocess.run(
            [*enter, *become, *command], env=env, capture_output=True, text=True, timeout=timeout_s,
            check=False, cwd="/",
        )  # fmt: skip

    def python(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Our Python on that machine."""
        return self.inside(self.interpreter, *arguments, **more)

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.inside("systemctl", "--no-pager", *arguments)

    def show(self, key: str) -> str:
        return self.systemctl("show", "energyd.service", f"--property={key}", "--value").stdout.strip()

    def main_pid(self) -> int:
        """The daemon's, as that machine numbers it; 0 while there is none."""
        return int(self.show("MainPID") or 0)

    def status(self) -> dict[str, Any]:
        out = self.python("-m", "energyd", "status", "--json")
        assert out.returncode in (0, 4), out.stderr + self.told()
        found: dict[str, Any] = json.loads(out.stdout)
        return found

    def query(self, sql: str) -> list[dict[str, Any]]:
        out = self.python("-m", "energyq", "--store", STORE, "--format", "json", sql)
        assert out.returncode == 0, out.stderr
        found: list[dict[str, Any]] = json.loads(out.stdout)
        return found

    def told(self) -> str:
        """What daemon and systemd have said, for a failing test."""
        return "\n".join(p.read_text() for p in (self.log, self.work / "log" / "systemd") if p.exists())

    def end(self) -> None:
        """Kill its first process, and everything in it with that."""
        self._process.kill()
        self._process.wait()

        def removed() -> bool:
            for folder in sorted(self._cgroup.rglob("*/"), reverse=True):
                _remove(folder)
            return _remove(self._cgroup)

        wait_for(removed)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # its last process is still going
    return True
