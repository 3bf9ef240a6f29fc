"""Does a manifest say what making the artifact cost, failed attempts included, as the daemon measured it?"""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from energyd_client import request
from energyd_pipelines import starved
from energyd_pipelines.artifacts import ArtifactSpec, Manifest, Registry
from energyd_pipelines.production import Production, energy_of, unknown, with_attempts
from real_daemon import Daemon, wait_for

HEAD = """
import json
from pathlib import Path
from energyd_pipelines.artifacts import ArtifactSpec, Registry, obtain
from energyd_pipelines.production import Site
work = Path({work!r})
registry = Registry(work / "artifacts")
spec = ArtifactSpec("logits", {{"teacher": "T", "k": 8, "case": {case!r}}})
made = 0

def make(draft, stage, seconds=0.3):
    global made
    made += 1
    (draft.folder / "vals").write_bytes(b"v" * 100)
    time.sleep(seconds)
    stage.count(label=30, positions=40)
    draft.ledger = {{"label": 30, "positions": 40}}
"""


def program(work: Path, case: str, code: str) -> str:
    return HEAD.format(work=str(work), case=case) + code


def manifest(work: Path, case: str) -> Manifest:
    found = Registry(work / "artifacts").find(ArtifactSpec("logits", {"teacher": "T", "k": 8, "case": case}))
    assert found is not None
    return found.manifest


OBTAIN = """
with energy.run("kd", pipeline="kd", student="S", seed=1) as run:
    obtain(run, registry, spec, "teacher.logits", make, site=Site(region="CA-QC", pue=1.2))
print(made)
"""


def test_the_manifest_carries_the_daemons_own_joules_and_the_second_run_makes_nothing(
    measuring: Daemon, tmp_path: Path
) -> None:
    counts = [measuring.finish(program(tmp_path, "reuse", OBTAIN)).strip() for _ in range(2)]
    assert counts == ["1", "0"]
    made = manifest(tmp_path, "reuse")
    production = made.production
    uses = f"SELECT count(*) AS n FROM artifact_uses WHERE artifact_id = '{made.artifact_id}'"
    wait_for(lambda: measuring.query(uses) == [{"n": 2}])  # a program may end before its last ack
    (stage,) = measuring.query(
        "SELECT t.*, a.*, (SELECT list(run_id ORDER BY t_ns) FROM artifact_uses u "
        "WHERE u.artifact_id = a.artifact_id) AS users "
        "FROM artifacts a JOIN stage_totals t USING (stage_id) WHERE t.stage = 'teacher.logits'"
    )
    assert production.stage_id == stage["stage_id"]
    assert production.total_j == pytest.approx(stage["total_j"])
    assert production.u_total_j == pytest.approx(stage["u_total_j"])
    assert production.energy_j == {
        "gpu": pytest.approx(stage["gpu_j"]),
        "cpu": pytest.approx(stage["cpu_j"]),
        "dram": None,
    }
    assert production.energy_j["cpu"] == pytest.approx(65 * stage["seconds"], abs=0.01)
    assert production.reason == {"dram": "absent: the simulated machine has no dram counter"}
    assert (production.origin, production.coverage, production.region) == ("simulated", 1, "CA-QC")
    assert production.method == "integral"
    assert "1 × simulated square" in production.hardware
    assert [a["status"] for a in production.attempts] == ["ok"]
    assert made.ledger == {"label": 30, "positions": 40, "nonpad": None, "generated": None}

    assert (stage["artifact_id"], stage["sha256"]) == (made.artifact_id, made.sha256)
    assert (stage["kind"], stage["size_bytes"]) == ("logits", 100)
    found = Registry(tmp_path / "artifacts").get(made.id)
    assert [u["run_id"] for u in found.uses()] == stage["users"]
    assert found.n == 2


@pytest.mark.parametrize("total_j", [33.0, None])
def test_who_reuses_tells_a_store_that_never_saw_it_made_what_the_manifest_knows(
    measuring: Daemon, tmp_path: Path, total_j: float | None
) -> None:
    case = f"elsewhere {total_j}"
    registry = Registry(tmp_path / "artifacts")
    with registry.draft(ArtifactSpec("logits", {"teacher": "T", "k": 8, "case": case})) as draft:
        (draft.folder / "vals").write_bytes(b"v")
        there = draft.commit(production=production(total_j, origin="measured")).manifest
    inside = OBTAIN.replace("    obtain", "    with run.stage('outer'): obtain")
    assert measuring.finish(program(tmp_path, case, inside)).strip() == "0"
    (row,) = measuring.query(
        "SELECT a.attrs, u.run_id = a.run_id AS used "
        "FROM artifacts a JOIN artifact_uses u USING (artifact_id) "
        f"WHERE artifact_id = '{there.artifact_id}'"
    )
    said = row["attrs"]
    assert (said["origin"], said["measured_as"]) == ("reported", "measured")
    assert said["made_in"] == "teacher.logits"
    assert (said.get("total_j"), said.get("gpu_j"), row["used"]) == (total_j, total_j, True)


def test_an_attempt_that_failed_and_one_that_was_killed_are_in_the_sum(
    measuring: Daemon, tmp_path: Path
) -> None:
    fail = """
def fail(draft, stage):
    time.sleep(0.3)
    raise ValueError("out of memory")
with energy.run("kd") as run:
    try: obtain(run, registry, spec, "teacher.logits", fail)
    except ValueError: pass
"""
    measuring.finish(program(tmp_path, "attempts", fail))
    hang = """
def hang(draft, stage):
    energy.flush()
    (work / "hangs").touch()
    time.sleep(60)
obtain(energy.run("kd").begin(), registry, spec, "teacher.logits", hang)
"""
    killed = measuring.program(program(tmp_path, "attempts", hang))
    wait_for((tmp_path / "hangs").exists)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    measuring.finish(program(tmp_path, "attempts", OBTAIN))
    production = manifest(tmp_path, "attempts").production
    assert [a["status"] for a in production.attempts] == ["error", "killed", "ok"]
    ids = [a["stage_id"] for a in production.attempts]
    stages = measuring.query(
        "SELECT t.*, attrs->>'failed_stages' AS failed FROM stage_totals t "
        f"LEFT JOIN artifacts a USING (stage_id) WHERE stage_id IN {tuple(ids)} ORDER BY t.t0_ns"
    )
    assert [s["status"] for s in stages] == ["error", "aborted", "ok"]
    assert [a["total_j"] for a in production.attempts] == pytest.approx([s["total_j"] for s in stages])
    assert production.total_j == pytest.approx(sum(s["total_j"] for s in stages))
    assert production.duration_s == pytest.approx(sum(a["duration_s"] for a in production.attempts))
    assert stages[-1]["failed"].split() == ids[:2]
    again = (
        'with energy.run("kd") as run: obtain(run, registry, spec, "teacher.logits", make, regenerate="test")'
    )
    measuring.finish(program(tmp_path, "attempts", again))
    assert (
        len(manifest(tmp_path, "attempts").production.attempts) == 1
    )  # those before were paid with the first


def test_without_a_daemon_it_is_made_all_the_same_and_the_joules_are_null_with_the_reason(
    measuring: Daemon, tmp_path: Path
) -> None:
    nobody = f"import os; os.environ['ENERGYD_ENDPOINT'] = 'ipc://{tmp_path}/nobody.sock'\n"
    quiet = "import logging; logging.disable()\n"
    assert measuring.finish(nobody + quiet + program(tmp_path, "alone", OBTAIN)).strip() == "1"
    production = manifest(tmp_path, "alone").production
    assert production.energy_j == {"gpu": None, "cpu": None, "dram": None}
    assert production.total_j is None
    assert "energyd is not there" in production.reason["total"]


def test_devices_that_the_daemon_names_only_while_it_is_waited_for_are_charged(
    measuring: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that has just started: the energy of a first stage was NULL for ever, its devices `absent`."""
    code = "with energy.run('r') as run, run.stage('s') as stage: time.sleep(0.2)\nprint(stage.stage_id)\n"
    stage_id = measuring.finish(code).strip()
    monkeypatch.setenv("ENERGYD_ENDPOINT", measuring.endpoint)
    real_ask, real_result, waited = request.ask, request.stage_result, False

    def ask(*question: Any) -> dict[str, Any]:
        body = real_ask(*question)
        return body if waited or "devices" not in body else {**body, "devices": [], "domains": []}

    def result(*question: Any, **more: Any) -> Any:
        nonlocal waited
        found = real_result(*question, **more)
        waited = True
        return found

    monkeypatch.setattr(request, "ask", ask)
    monkeypatch.setattr(request, "stage_result", result)
    found = energy_of(stage_id)
    assert found.energy_j["cpu"] == pytest.approx(65 * (found.duration_s or 0), rel=1e-3)
    waited = False
    assert {s.domain for s in starved.of_stage(stage_id, floor=1.0).values()} == {"gpu", "cpu"}


def test_a_stage_that_the_daemon_does_not_know_has_no_joules_and_a_reason(
    measuring: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGYD_ENDPOINT", measuring.endpoint)
    found = energy_of("nobody.1", 0.3)
    assert found.total_j is None
    assert "does not know stage nobody.1" in found.reason["gpu"]


def production(
    j: float | None, u_random: float | None = 3.0, u_total: float | None = 5.0, **more: Any
) -> Production:
    return Production(
        energy_j={"gpu": j}, total_j=j, u_random_j=u_random, u_total_j=u_total, duration_s=2.0,
        reason={} if j is not None else {"gpu": "gap", "total": "gpu: gap"}, **more,
    )  # fmt: skip


def test_random_doubts_of_attempts_add_as_squares_and_common_ones_linearly() -> None:
    whole = with_attempts(production(100.0), [production(50.0).attempt("error")])
    assert (whole.energy_j, whole.total_j, whole.duration_s) == ({"gpu": 150.0}, 150.0, 4.0)
    assert whole.u_random_j == pytest.approx(math.hypot(3, 3))
    assert whole.u_total_j == pytest.approx(math.hypot(3, 3, 4 + 4))


def test_one_attempt_of_unknown_energy_makes_the_sum_unknown_but_not_the_last() -> None:
    whole = with_attempts(production(100.0), [unknown("the daemon was not there").attempt("killed")])
    assert (whole.total_j, whole.energy_j, whole.u_total_j, whole.duration_s) == (
        None,
        {"gpu": None},
        None,
        None,
    )
    assert whole.reason["total"] == "of an attempt: the daemon was not there"
    assert whole.attempts[-1]["total_j"] == 100.0


def test_a_production_comes_back_from_json_as_it_was() -> None:
    whole = with_attempts(production(100.0, hardware=("1 × H100",)), [production(None).attempt("error")])
    assert Production.from_json(json.loads(json.dumps(whole.as_json())) | {"of_the_future": 1}) == whole


# ---- starved ---------------------------------------------------------------------------------------------


def test_the_share_is_that_of_the_time_near_the_floor() -> None:
    power, dt = [100, 300, 700, 700, 100], [1.0, 1.0, 1.0, 5.0, 2.0]
    found = starved.share(power, dt, floor_w=90.0)
    assert found.busy_w == 700
    assert found.share == pytest.approx(3 / 10)  # 300 W is above 90 + 0.25 × 610 = 242.5
    assert found.starved is True
    assert starved.share([100, 240, 700], [1, 1, 8], floor_w=90.0).starved is False


def test_time_without_samples_is_not_counted_and_told() -> None:
    found = starved.share([100, 700, 100], [2.0, 2.0, 0.0], floor_w=90.0, stage_s=8.0)
    assert (found.share, found.covered) == (0.5, 0.5)
    empty = starved.share([100], [0.0], floor_w=90.0)
    assert (empty.share, empty.starved) == (None, None)
    assert empty.reason


def test_a_stage_that_waits_half_of_its_time_is_starved_and_a_steady_one_is_not(
    measuring: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
with energy.run("r") as run:
    with run.stage("train") as train: time.sleep(2.0)
energy.flush()
train.result(10)
print(train.stage_id)
"""
    stage_id = measuring.finish(code).strip()
    monkeypatch.setenv("ENERGYD_ENDPOINT", measuring.endpoint)
    devices = {d["uuid"]: d["device"] for d in measuring.status()["devices"]}
    square, cpu = devices["simulated:gpu-1"], devices["simulated:cpu-0"]
    found = starved.of_stage(stage_id, floor={square: 100.0, cpu: 20.0})
    assert found[square].share == pytest.approx(0.5, abs=0.06)  # one whole period of a square, and its edges
    assert (found[square].busy_w, found[square].starved) == (600, True)
    assert found[square].covered == pytest.approx(1, abs=0.01)
    assert found[cpu].share == 0
    assert starved.together(d for d in found.values() if d.share is not None).share == found[square].share
    assert starved.together(found.values()).share is None  # not all of its GPUs have a floor
    alone = starved.together([found[cpu]])
    assert (alone.share, (alone.reason or "").startswith("no GPU")) == (None, True)
    assert found[devices["simulated:gpu-0"]].share is None
    assert "idle" in (found[devices["simulated:gpu-0"]].reason or "")
    by_stage = starved.of_stage(
        stage_id, floor=stage_id
    )  # its own mean as the floor, to see that it is asked
    assert by_stage[cpu].floor_w == pytest.approx(65, abs=0.1)
