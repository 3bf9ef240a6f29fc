"""Are the files that administrators install right: Slurm's scripts, Kubernetes' manifest?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from energyd.cli import main
from energyd.config import resolve
from energyd.exporters import address
from real_daemon import Daemon, wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = sorted(DEPLOY.rglob("*.sh"))

Slurm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def slurm(daemon: Daemon) -> Slurm:
    """Runs one of the scripts, installed as their README says, as slurmd would for job 77."""
    home = daemon.store.parent / "slurm"
    shutil.copytree(DEPLOY / "slurm", home)
    jobs = daemon.store.parent / "jobs"
    (home / "energyd.env").write_text(f"ENERGYD_PYTHON={sys.executable}\nENERGYD_JOBS={jobs}\n")
    job = {
        "SLURM_JOB_ID": "77", "SLURM_JOB_UID": str(os.getuid()), "SLURM_JOB_GID": str(os.getgid()),
        "SLURM_JOB_USER": "ada", "SLURM_JOB_PARTITION": "gpu", "SLURM_CLUSTER_NAME": "c1",
        "SLURM_JOB_GPUS": "1", "SLURMD_NODENAME": "n1", "CUDA_VISIBLE_DEVICES": "0",
    }  # fmt: skip

    def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(home / script)], env=daemon.env | job | env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    return run


def exports(text: str) -> dict[str, str]:
    """What Slurm takes from a task prolog's lines."""
    return dict(line.removeprefix("export ").split("=", 1) for line in text.splitlines())


def test_a_job_is_a_run_on_its_gpus_that_its_programs_join(daemon: Daemon, slurm: Slurm) -> None:
    assert slurm("prolog.sh").stderr == ""
    told = exports(slurm("task_prolog.sh").stdout)
    assert set(told) == {"ENERGYD_RUN_ID", "ENERGYD_STAGE_ID"}
    daemon.env |= told
    daemon.finish("with energy.run('mine', seed=1) as run:\n    with run.stage('train'): time.sleep(0.3)")
    done = slurm("epilog.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def closed() -> list[dict[str, Any]] | None:
        rows = daemon.query("FROM stage_totals ORDER BY t0_ns")
        return rows if len(rows) == 2 and all(r["status"] == "ok" and r["total_j"] for r in rows) else None

    job, train = wait_for(closed)
    assert (job["path"], train["path"]) == ("job", "job/train")
    (run,) = daemon.query("SELECT name, status, labels FROM runs")
    assert (run["name"], run["status"]) == ("slurm-77", "ok")
    labels = {k: str(v) for k, v in run["labels"].items()}
    assert labels == {
        "slurm_job_id": "77", "slurm_cluster": "c1", "slurm_user": "ada", "slurm_partition": "gpu",
        "node": "n1", "seed": "1",
    }  # fmt: skip
    of_job = daemon.query(
        "SELECT uuid FROM stage_energy JOIN devices USING (device)"
        " WHERE stage = 'job' AND devices.domain = 'gpu'"
    )
    assert of_job == [{"uuid": "simulated:gpu-1"}]  # what Slurm gave, not what is visible to the prolog
    assert slurm("epilog.sh").returncode == 0  # once more does no harm


def test_a_job_whose_node_dies_before_its_epilog_is_aborted(daemon: Daemon, slurm: Slurm) -> None:
    slurm("prolog.sh")
    file = daemon.store.parent / "jobs" / "77"
    pid = int(next(x for x in file.read_text().splitlines() if "PID" in x).partition("=")[2])
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: daemon.query("SELECT status FROM runs") == [{"status": "aborted"}])


def test_scripts_of_a_broken_installation_never_fail_a_job(slurm: Slurm, daemon: Daemon) -> None:
    settings = daemon.store.parent / "slurm" / "energyd.env"
    settings.write_text("ENERGYD_PYTHON=/nowhere\nENERGYD_JOBS=/dev/null/x\n")
    for script in ("prolog.sh", "task_prolog.sh", "epilog.sh"):
        assert slurm(script).returncode == 0
    assert "job 77 is not measured" in slurm("prolog.sh").stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_has_nothing_to_say_of_a_script(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=style", str(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)


def test_the_manifest_is_what_kubernetes_takes_and_starts_a_daemon_that_its_pods_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (DEPLOY / "kubernetes" / "energyd.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        for version in ("1.29", "1.37"):
            kubernetes_validate.validate(document, version, strict=True)
    pod = documents[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = main.commands[container["args"][0]]
    chosen = command.make_context("start", container["args"][1:]).params
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    config = resolve(store=chosen["store"], metrics=chosen["metrics"])
    mounted = {m["mountPath"] for m in container["volumeMounts"]}
    assert config.endpoint == "ipc:///run/energyd/energyd.sock"  # where clients look by themselves
    assert {"/run/energyd", "/var/lib/energyd"} <= mounted
    assert str(config.store).startswith("/var/lib/energyd/")
    assert str(config.spool) == "/var/lib/energyd/spool"
    assert config.metrics is not None
    (port,) = container["ports"]
    assert address(config.metrics)[1] == port["containerPort"]
    assert (
        str(port["containerPort"])
        == documents[1]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    )
    assert str(pod["securityContext"]["runAsGroup"]) in text.partition("apiVersion")[0]  # what pods are told


def test_a_manifest_with_a_misspelt_field_is_refused() -> None:
    broken = yaml.safe_load((DEPLOY / "kubernetes" / "energyd.yaml").read_text().split("---")[1])
    broken["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_patch_for_a_lake_is_what_kubernetes_takes_and_holds_no_credential(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemons = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "energyd.yaml").read_text()))[1]
    patch = yaml.safe_load((DEPLOY / "kubernetes" / "lake.yaml").read_text())
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    (added,) = patch["spec"]["template"]["spec"]["containers"]
    assert added["name"] == container["name"]  # what a strategic merge goes by
    container["env"] += added["env"]
    container["envFrom"] = added["envFrom"]
    kubernetes_validate.validate(daemons, "1.37", strict=True)
    for variable in added["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    config = resolve(store=tmp_path)
    assert (config.lake, config.ship) == ("s3://energy/fleet", "1s")
