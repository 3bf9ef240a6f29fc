"""Does what the Dockerfile installs run as the Kubernetes manifest has it run?

No container runtime is needed: the Dockerfile's own steps go into a fresh virtual environment, and the
manifest's own commands run in namespaces as its security contexts say: their user, no capabilities, a
read-only root, nothing writable but what is mounted. Not shown: base image, NVIDIA runtime, kubelet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_nvml.build import FakeNvml
from real_daemon import wait_for

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
PYTHON = "/usr/bin/python3"  # one that every user may run, as in the image
NODE = """set -e
mount --make-rprivate /
for each in /run /var/lib /tmp; do mount -t tmpfs -o mode=755 tmpfs $each; done
chmod 1777 /tmp
mkdir /run/energyd /var/lib/energyd
for each in /run/energyd /var/lib/energyd; do mount -t tmpfs -o mode=755 tmpfs $each; done
for each in / /run /var/lib; do mount -o bind,remount,ro $each; done
"$0" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))'
exec sleep infinity
"""
PROGRAM = "import energyd_client as energy\nwith energy.run('pod'), energy.stage('s'): pass\n"
PAGE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9477/metrics').read().decode())"


def steps() -> dict[str, str]:
    """The Dockerfile's instructions; each but once."""
    lines = (KUBERNETES / "Dockerfile").read_text().splitlines()
    found = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    assert len({word for word, _ in found}) == len(found)
    return dict(found)  # type: ignore[arg-type]


def as_user(context: dict[str, Any], groups: str = "--clear-groups") -> list[str]:
    """The prefix of a command under a container's security context; its own over its pod's."""
    assert context["allowPrivilegeEscalation"] is False
    kept = "".join(f",+{name.lower()}" for name in context["capabilities"].get("add", []))
    assert context["capabilities"]["drop"] == ["ALL"]
    user, group = context["runAsUser"], context["runAsGroup"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", groups, "--no-new-privs", "--inh-caps=-all",
            f"--bounding-set=-all{kept}"]  # fmt: skip


class Node:
    """A mount and a network namespace with nothing in it that is writable but the folders of the manifest."""

    def __init__(self, site: Path, env: dict[str, str]) -> None:
        self.env = {"PATH": f"{site}/bin:/usr/bin:/bin:/usr/sbin", "HOME": "/", **env}
        self.first = subprocess.Popen(["unshare", "--mount", "--net", "sh", "-c", NODE, PYTHON], env=self.env)
        wait_for(lambda: Path(f"/proc/{self.first.pid}/comm").read_text() == "sleep\n")

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.first.pid), "--mount", "--net", *words]

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A virtual environment in which the Dockerfile's steps were taken."""
    if os.geteuid() != 0:
        pytest.skip("no namespaces here: not root")
    fit = "import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))"
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", fit], check=False).returncode:
        pytest.skip(f"{PYTHON} is too old, or cannot make virtual environments")
    told = steps()
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        source, made = Path(folder) / "src", Path(folder) / "site"
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert told["COPY"] == ". /src"
        for name in tracked.stdout.splitlines():
            if name.split("/")[0] not in ignored and (ROOT / name).exists():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        subprocess.run([PYTHON, "-m", "venv", str(made)], check=True)
        run = told["RUN"].replace("/src", str(source)).replace("--no-cache-dir ", "")  # the net is not ours
        env = {**os.environ, "PATH": f"{made}/bin:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(["sh", "-c", run], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not source.exists()
        yield made


@pytest.mark.long
def test_the_dockerfiles_steps_make_what_the_manifest_runs_and_a_pod_is_measured_by_it(
    site: Path, fake_nvml_library: Path
) -> None:
    library = site.parent / "nvml"
    shutil.copytree(fake_nvml_library, library)
    library.chmod(0o755)
    nvml = FakeNvml(library, library)
    pod = list(yaml.safe_load_all((KUBERNETES / "energyd.yaml").read_text()))[1]["spec"]["template"]["spec"]
    (container,), (first,) = pod["containers"], pod["initContainers"]
    own = {each["name"]: each["value"] for each in container["env"]}
    driver = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_CONTROL": nvml.env["FAKE_NVML_CONTROL"]}
    (entry,) = yaml.safe_load(steps()["ENTRYPOINT"])
    user = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
    assert steps()["USER"] == f"{user[0]}:{user[1]}"
    assert re.fullmatch(r"python:3\.1[1-9]-slim", steps()["FROM"])

    node = Node(site, {**own, **driver})
    log = (library / "log").open("wb")
    daemon = None
    try:
        made = node.inside(
            *as_user({**pod["securityContext"], **first["securityContext"]}), *first["command"]
        )
        assert made.returncode == 0, made.stderr
        become = as_user({**pod["securityContext"], **container["securityContext"]})
        daemon = subprocess.Popen(
            node.command(*become, entry, *container["args"]), env=node.env, stdout=log, stderr=log, cwd="/"
        )
        wait_for(lambda: node.inside(*become, entry, "status").returncode == 0)
        assert node.inside(*become, "touch", "/somewhere").returncode != 0
        shipped = node.inside(entry, "install-service", "--socket", "--dry-run")  # from the wheel, too
        assert "# ---- /etc/systemd/system/energyd.socket\n" in shipped.stdout, shipped.stderr
        pods = ["setpriv", "--reuid=1234", "--regid=1234", f"--groups={user[1]}", "--no-new-privs"]
        marked = node.inside(*pods, "python", "-W", "error", "-c", PROGRAM)
        assert (marked.returncode, marked.stderr) == (0, "")
        sql = "SELECT uid FROM stages WHERE state = 'final'"
        asked = [*become, "energyq", "--store", "/var/lib/energyd/store", "--format", "csv", sql]
        wait_for(lambda: "1234" in node.inside(*asked).stdout)
        page = [*become, "python", "-c", PAGE]
        wait_for(lambda: "energyd_gpu_energy_joules_total{" in node.inside(*page).stdout)
        daemon.terminate()
        assert daemon.wait(pod["terminationGracePeriodSeconds"]) == 0
    finally:
        for process in (daemon, node.first):
            if process is not None:
                process.kill()
                process.wait()
        log.close()
        sys.stdout.write((library / "log").read_text())
