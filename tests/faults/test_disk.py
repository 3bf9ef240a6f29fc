"""Does sampling go on, and is everything stored in the end, when the store's disk is full?"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from real_daemon import Daemon, wait_for

FULL_BYTES = 24 * 2**20
LARGE_BYTES = 256 * 2**20


class OnSmallDisk(Daemon):
    """A daemon whose store is a small disk of its own, which nobody else sees."""

    def start_small(self) -> OnSmallDisk:
        self.store.mkdir()
        mount = f"mount -t tmpfs -o size={FULL_BYTES} tmpfs {self.store}"
        self.spawn(self.after(mount))
        wait_for(self.holder)
        return self

    def after(self, mount: str) -> list[str]:
        """The command that mounts something for nobody else and becomes the daemon."""
        daemon = shlex.join(self.command(source="simulated"))
        return ["unshare", "--mount", "sh", "-c", f"{mount} && exec {daemon}"]

    def start_again(self, enter: list[str]) -> None:
        """A second daemon on the same small disk, which a process entered by `enter` keeps."""
        self.spawn([*enter, *self.command(source="simulated")])
        wait_for(self.holder)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that sees the small disk."""
        assert self.process is not None
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", *command]
        return subprocess.run(enter, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def holder(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        out = self.run("energyd", "status", "--json")
        return {"pid": self.process.pid} if out.returncode == 0 else {}

    def run(self, module: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.inside(sys.executable, "-m", module, *arguments)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """By a process that sees the small disk."""
        out = self.run("energyq", "--store", str(self.store), "--format", "json", sql)
        assert out.returncode == 0, out.stderr
        found: list[dict[str, Any]] = json.loads(out.stdout)
        return found


@pytest.fixture
def small(tmp_path: Path) -> Any:
    able = shutil.which("unshare") and shutil.which("nsenter") and os.geteuid() == 0
    tried = able and subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs {tmp_path}"],
        capture_output=True,
        check=False,
    )
    if not tried or tried.returncode != 0:
        pytest.skip("no mount namespace here")
    daemon = OnSmallDisk(tmp_path, {})
    yield daemon
    if daemon.process is not None:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.fault(
    "The store's disk is full",
    seen="`energyd status`: DEGRADED, the system's reason, exit code 4. Sampling and programs go on.",
    lost="Nothing while memory lasts: markers stay in the spool, samples in memory, and all is stored once "
    "there is room.",
)
def test_on_a_full_disk_sampling_goes_on_and_all_is_stored_once_there_is_room(small: OnSmallDisk) -> None:
    small.start_small()
    small.inside("sh", "-c", f"cat /dev/zero > {small.store}/ballast; true")

    def full() -> bool:
        out = small.run("energyd", "status", "--store", str(small.store))
        return out.returncode == 4 and "degraded" in out.stdout.lower() and "space" in out.stdout

    wait_for(full, 30)
    then = small.status()
    assert then["state"] == "degraded"
    said = small.program(
        "run = energy.run('r').begin()\n"
        "for _ in range(100):\n"
        "    with run.stage('s'): pass\n"
        "run.end()\n"
        "print(energy.flush(0.2))\n"
        "print(energy.flush(60))\n"
    )
    wait_for(lambda: small.status()["samples"] > then["samples"])
    wait_for(lambda: small.status()["markers"] > 200)
    assert small.status()["state"] == "degraded"
    enlarged = small.inside("mount", "-o", f"remount,size={LARGE_BYTES}", str(small.store))
    assert enlarged.returncode == 0, enlarged.stderr
    out, err = said.communicate(timeout=90)
    assert (out.split(), said.returncode) == (["False", "True"], 0), err
    wait_for(lambda: small.status()["state"] == "ok")
    wait_for(lambda: small.query("SELECT count(*) AS n FROM stages WHERE state = 'final'")[0]["n"] == 100)
    assert small.query("SELECT count(*) AS n FROM gaps") == [{"n": 0}]
    (steps,) = small.query(
        "SELECT max(step_ns) AS longest, (SELECT max(max_step_ns) FROM devices) AS allowed FROM "
        "(SELECT t_ns - lag(t_ns) OVER (PARTITION BY device ORDER BY t_ns) AS step_ns FROM samples)"
    )
    assert steps["longest"] <= steps["allowed"]


@pytest.mark.fault("The store's disk is full")
def test_a_stop_on_a_full_disk_says_what_is_lost_and_the_next_start_names_the_gap(small: OnSmallDisk) -> None:
    small.start_small()
    wait_for(lambda: small.query("SELECT count(*) AS n FROM samples")[0]["n"])  # else there is no gap after
    small.inside("sh", "-c", f"cat /dev/zero > {small.store}/ballast; true")
    wait_for(lambda: small.run("energyd", "status").returncode == 4, 30)
    said = small.program("with energy.run('r') as run:\n    with run.stage('s'): pass\n")
    said.communicate(timeout=30)  # it waits its bounded time for the daemon; its markers stay in its spool
    assert list(small.spool.glob("*.spool"))
    keeper = subprocess.Popen(["nsenter", "--target", str(small.pid), "--mount", "sleep", "100"])
    try:
        wait_for(lambda: small.inside("true").returncode == 0)
        stopped = small.run("energyd", "stop", "--store", str(small.store))
        assert stopped.returncode == 4, stopped.stderr
        assert "samples are lost" in stopped.stderr
        assert small.process is not None
        assert small.process.wait(30) == 4
        again = ["nsenter", "--target", str(keeper.pid), "--mount"]
        subprocess.run([*again, "mount", "-o", f"remount,size={LARGE_BYTES}", str(small.store)], check=True)
        small.start_again(again)
        (gap,) = wait_for(lambda: small.query("SELECT DISTINCT reason FROM gaps"))
        assert gap == {"reason": "unstored"}
        wait_for(lambda: small.query("FROM stages WHERE name = 's' AND state = 'final'"))
    finally:
        keeper.kill()
        keeper.wait()


@pytest.mark.fault("No place to write at start")
def test_a_store_on_a_read_only_file_system_is_refused_in_one_message(small: OnSmallDisk) -> None:
    mount = f"mkdir -p {small.store} && mount -t tmpfs -o ro tmpfs {small.store}"
    command = small.after(mount)
    out = subprocess.run(command, env=small.env, capture_output=True, text=True, timeout=60, check=False)
    assert out.returncode == 78
    first, *rest = out.stderr.splitlines()
    assert "Read-only file system" in first
    assert str(small.store) in first
    assert f"uid {os.geteuid()}" in first
    assert len(rest) <= 2
