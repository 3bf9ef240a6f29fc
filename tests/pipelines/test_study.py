"""Is a study measured stage by stage, is a teacher asked once, and does a killed one go on?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from energyd_pipelines.batches import Schedule
from energyd_pipelines.config import load
from energyd_pipelines.data_files import read
from energyd_pipelines.grid import run_grid
from energyd_pipelines.strings_task import CharTokenizer
from real_daemon import Daemon

ROOT = Path(__file__).parents[2]
SMALLEST = (
    "students=[{name: S, width: 16, layers: 1, heads: 2}]", "data.n=96", "data.n_eval=20", "train.batch=16",
    "train.steps=12", "train.group_steps=6", "train.eval_every=6", "prerun.idle_s=0.05",
    "prerun.context_s=0.05", "prerun.burn_s=0.05", "site={grid_g_per_kwh: 30, pue: 1.1}",
)  # fmt: skip


class Place:
    """A daemon with simulated power, and a folder in which studies run beside it."""

    def __init__(self, folder: Path) -> None:
        sources = os.pathsep.join(str(ROOT / part) for part in ("client", "daemon", "pipelines", "analysis"))
        env = {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": sources,
            "HF_HUB_OFFLINE": "1",
        }
        self.daemon = Daemon(folder, env).start(source="simulated")
        self.folder = folder

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "energyd_pipelines", "run", "quick", *SMALLEST, *words]

    def spawn(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=self.daemon.env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, program: subprocess.Popen[str]) -> str:
        out, err = program.communicate(timeout=110)
        assert program.returncode == 0, out + err
        assert "energyd:" not in err  # nothing was ignored or refused
        return out

    def run(self, *words: str) -> str:
        return self.finish(self.spawn(self.command(*words)))

    def runs(self, like: str) -> list[dict[str, Any]]:
        found = self.daemon.query(
            f"SELECT run_id, name, status, labels FROM runs WHERE name LIKE '{like}' ORDER BY t0_ns"
        )
        return found

    def stages(self, run_id: str) -> list[dict[str, Any]]:
        return self.daemon.query(
            "SELECT stage, depth, parent_id, total_j, reason FROM stage_totals"
            f" WHERE run_id = '{run_id}' ORDER BY t0_ns, depth"
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.daemon.kill()


def test_a_study_is_measured_stage_by_stage_and_the_next_one_asks_no_teacher(place: Place) -> None:
    said = place.run()
    assert "exact match" in said
    assert "reused" not in said
    every_pipeline_is_a_run_whose_stages_are_those_of_the_equation(place)
    labels_say_all_that_comparisons_need(place)
    four_kinds_of_tokens_are_counted_and_none_is_another(place)
    quality_is_in_the_store_and_beside_the_student(place)
    a_break_even_can_be_asked_of_that_store(place)
    every_student_has_a_card_with_what_it_and_its_teachers_work_took(place)
    what_lm_eval_found_is_added_to_a_run_that_has_ended(place)
    a_second_study_asks_no_teacher_counts_its_uses_and_says_what_that_saved(place)


def every_pipeline_is_a_run_whose_stages_are_those_of_the_equation(place: Place) -> None:
    runs = {r["labels"]["pipeline"]: r for r in place.runs("%-S")}
    teacher = {"sft": [], "kd": ["teacher.logits"], "synthetic": ["teacher.generate"]}
    assert list(runs) == list(teacher)
    for pipeline, run in runs.items():
        stages = place.stages(run["run_id"])
        top = [s["stage"] for s in stages if s["depth"] == 0]
        assert top == ["prerun", "preprocess", *teacher[pipeline], "student.train", "evaluate"]
        idle = ["prerun.idle", "prerun.context"]
        group = ["data_wait", "steps 1-6", "eval", "data_wait", "steps 7-12", "eval", "checkpoint"]
        assert [s["stage"] for s in stages if s["depth"] == 1] == [*idle, "burn", *group]
        assert all(s["total_j"] is not None for s in stages), stages
        assert run["status"] == "ok"


def labels_say_all_that_comparisons_need(place: Place) -> None:
    sft, kd, _ = (r["labels"] for r in place.runs("%-S"))
    assert {k: kd[k] for k in ("student", "seed", "teacher", "preset", "stop", "attempt", "dataset")} == {
        "student": "S", "seed": 0, "teacher": "strings-v1", "preset": "quick", "stop": "budget", "attempt": 1,
        "dataset": "strings",
    }  # fmt: skip
    assert "teacher" not in sft
    for name in ("tokenizer", "train_config", "config"):
        assert sft[name] == kd[name]
        assert len(sft[name]) == 12


def four_kinds_of_tokens_are_counted_and_none_is_another(place: Place) -> None:
    rows = place.daemon.query(
        "SELECT r.name, s.stage, c.unit, c.own_n AS n FROM counts c"
        " JOIN stage_totals s USING (run_id, stage_id) JOIN runs r USING (run_id) WHERE c.own_n IS NOT NULL"
    )
    counted = {(r["name"], r["stage"], r["unit"]): int(r["n"]) for r in rows}
    cached = json.loads(next(place.folder.glob("artifacts/logits/*/manifest.json")).read_text())
    assert counted["kd-S", "teacher.logits", "label"] == cached["ledger"]["label"]
    assert counted["kd-S", "teacher.logits", "positions"] > counted["kd-S", "teacher.logits", "label"]
    written = json.loads(next(place.folder.glob("artifacts/synthetic/*/manifest.json")).read_text())
    assert counted["synthetic-S", "teacher.generate", "generated"] == written["ledger"]["generated"]
    assert ("synthetic-S", "teacher.generate", "label") not in counted
    # Or a student's J a token would hold tokens that it did not learn from.
    assert {unit for name, stage, unit in counted if stage == "eval"} == {"examples"}
    for group in ("steps 1-6", "steps 7-12"):
        label, nonpad, positions = (counted["sft-S", group, u] for u in ("label", "nonpad", "positions"))
        assert 0 < label < nonpad <= positions


def quality_is_in_the_store_and_beside_the_student(place: Place) -> None:
    result = json.loads(next(place.folder.glob("runs/*/kd-S-0/result.json")).read_text())
    stored = place.daemon.query(
        f"SELECT name, value, n FROM metrics WHERE run_id = '{result['run_ids'][-1]}'"
        " AND name IN ('exact_match', 'nll')"
    )
    assert {m["name"]: m["value"] for m in stored} == {
        "exact_match": result["exact_match"],
        "nll": result["nll"],
    }
    assert {m["n"] for m in stored} == {20}
    assert (place.folder / next(place.folder.glob("runs/*/kd-S-0/student/config.json"))).exists()


def a_second_study_asks_no_teacher_counts_its_uses_and_says_what_that_saved(place: Place) -> None:
    said = place.run("pipelines=[kd, synthetic]")
    again = place.runs("%-S")[-2:]
    for run in again:
        assert not any(s["stage"].startswith("teacher") for s in place.stages(run["run_id"]))
    for kind, stage in (("logits", "teacher.logits"), ("synthetic", "teacher.generate")):
        manifest = json.loads(next(place.folder.glob(f"artifacts/{kind}/*/manifest.json")).read_text())
        joules = manifest["production"]["total_j"]
        assert f"reused {stage}: 1 × not made again, which saved {joules:.4g} J (simulated)" in said
        uses = next(place.folder.glob(f"artifacts/{kind}/*/uses.jsonl")).read_text().splitlines()
        assert len(uses) == 2
    counted = place.daemon.query(
        "SELECT artifact_id, count(DISTINCT run_id) AS n FROM artifact_uses GROUP BY ALL"
    )
    assert [row["n"] for row in counted] == [2, 2]


def every_student_has_a_card_with_what_it_and_its_teachers_work_took(place: Place) -> None:
    student = next(place.folder.glob("runs/*/kd-S-0/student"))
    card, manifest = (student / "README.md").read_text(), json.loads((student / "manifest.json").read_text())
    (run,) = place.runs("kd-S")
    cost = {s["stage"]: s["total_j"] for s in place.stages(run["run_id"]) if s["depth"] == 0}
    assert manifest["production"]["total_j"] == pytest.approx(cost["student.train"], rel=1e-6)
    (parent,) = manifest["parents"]
    assert parent["total_j"] == pytest.approx(cost["teacher.logits"], rel=1e-6)
    grams = manifest["production"]["total_j"] / 3.6e6 * 30 * 1.1
    hub = yaml.safe_load(card.split("---")[1])["co2_eq_emissions"]
    assert hub["emissions"] == pytest.approx(grams, rel=1e-5)
    assert hub["training_type"] == "fine-tuning"


def what_lm_eval_found_is_added_to_a_run_that_has_ended(place: Place) -> None:
    found = {"results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.5}}}
    (place.folder / "r.json").write_text(json.dumps(found))
    cell = next(place.folder.glob("runs/*/sft-S-0"))
    said = place.finish(
        place.spawn([sys.executable, "-m", "energyd_pipelines", "metrics", str(cell), "r.json"])
    )
    run_id = json.loads((cell / "result.json").read_text())["run_ids"][-1]
    assert said == f"1 metrics of {run_id}\n"
    stored = place.daemon.query(
        "SELECT run_id, value FROM metrics WHERE name = 'gsm8k/exact_match,strict-match'"
    )
    assert stored == [{"run_id": run_id, "value": 0.5}]


def a_break_even_can_be_asked_of_that_store(place: Place) -> None:
    out = place.daemon.run("energyq", "--store", str(place.daemon.store), "breakeven", "--format", "json")
    assert out.returncode == 0, out.stderr
    answers = json.loads(out.stdout)
    assert {a["pipeline"] for a in answers} == {"kd", "synthetic"}
    assert all(a["teacher_j"] > 0 and a["state"] != "unknown" for a in answers)


def alone(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """The result of the same study in this process, in one go and unmeasured."""
    monkeypatch.setenv("ENERGYD_DISABLE", "1")
    monkeypatch.chdir(folder)
    run_grid(load("quick", [*SMALLEST, *words]), "quick", folder / "alone")
    found: dict[str, Any] = json.loads(next(folder.glob("alone/*/result.json")).read_text())
    return found


@pytest.mark.long
def test_two_processes_train_one_student_and_every_token_is_counted_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("pipelines=[kd]", "train.eval_every=0")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    place.finish(place.spawn([*launcher, *place.command(*words)[1:]]))
    one = alone(place.folder, monkeypatch, *words)
    two = json.loads(next(place.folder.glob("runs/*/kd-S-0/result.json")).read_text())
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-4)
    (run,) = place.runs("kd-S")  # rank 0 alone marks
    data = read(next(place.folder.glob("runs/*/kd-S-0/data.npz")), CharTokenizer()).train
    schedule = Schedule(data, batch=16, seed=0)
    steps = [b for i in range(12) for b in schedule.step(i)]
    counted = place.daemon.query(
        "SELECT c.unit, sum(c.own_n) AS n FROM counts c JOIN stage_totals s USING (run_id, stage_id)"
        f" WHERE run_id = '{run['run_id']}' AND s.stage LIKE 'steps%' GROUP BY ALL"
    )
    n = {r["unit"]: int(r["n"]) for r in counted}
    assert n["label"] == sum(b.counts.label for b in steps)
    assert n["nonpad"] == sum(b.counts.nonpad for b in steps)
