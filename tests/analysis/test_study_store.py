"""Does a study read from a store charge an artifact to everyone who used it, and refuse unlike runs?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader
from energyq.breakeven import AT_N, break_even
from energyq.commands import run
from energyq.find import Refused
from energyq.study import Study
from energyq.study_store import must_be_alike, read_store


def add(
    store: Store, run_id: str, pipeline: str, begin_s: int, seconds: dict[str, int], **labels: Any
) -> None:
    """A run labelled as a pipeline, with stages one after another; 100 W, so 100 J a second."""
    t_ns = T0 + begin_s * S
    status, devices = labels.pop("status", "ok"), labels.pop("devices", [0])
    store.run(run_id, run_id, t_ns, t_ns + 60 * S, status=status,
              labels=json.dumps({"pipeline": pipeline, "student": "1B", **labels}))  # fmt: skip
    for name, lasts in seconds.items():
        store.stage(run_id, f"{run_id}-{name}", name, t_ns, t_ns + lasts * S, devices=devices)
        t_ns += lasts * S


@pytest.fixture
def grid(store: Store) -> Store:
    """A baseline, a KD run that made the cache (and one that reused it), a failed run, one without labels."""
    store.device(0, driver="570.1")
    store.power(0, range(T0, T0 + 400 * S, 200 * MS), lambda t: 100_000)
    add(store, "base", "sft", 0, {"prerun": 2, "student.train": 30, "evaluate": 3})
    add(
        store,
        "kd0",
        "kd",
        60,
        {"prerun": 2, "teacher.logits": 20, "student.train": 25, "evaluate": 3},
        seed=0,
    )
    add(store, "kd1", "kd", 120, {"prerun": 2, "student.train": 25, "evaluate": 3}, seed=1)
    add(store, "broken", "kd", 180, {"student.train": 1}, status="error")
    store.run("other", "other", T0 + 240 * S, T0 + 250 * S)
    store.add("artifacts", artifact_id="a1", run_id="kd0", stage_id="kd0-teacher.logits", t_ns=T0 + 90 * S,
              name="cache", kind="logits")  # fmt: skip
    for user in ("kd0", "kd1", "broken"):
        store.add(
            "artifact_uses", artifact_id="a1", run_id=user, stage_id=f"{user}-student.train", t_ns=T0 + 95 * S
        )
    store.add("metrics", run_id="kd1", stage_id=None, t_ns=T0 + 150 * S, name="exact_match", value=0.5, n=100)
    return store


def study_of(store: Store) -> Study:
    with open_reader(store.write()) as reader:
        return read_store(reader)


def test_a_run_that_reused_an_artifact_bears_the_stage_that_made_it_in_another_run(grid: Store) -> None:
    kd = {e.run_id: e for e in study_of(grid).executions if e.pipeline == "kd"}
    assert set(kd) == {"kd0", "kd1"}
    for execution in kd.values():
        assert execution.part("teacher") == pytest.approx(2_000)
        assert execution.total_j == pytest.approx(5_000)
        assert execution.artifacts == {"a1"}
    assert kd["kd1"].quality == 0.5
    assert kd["kd0"].quality is None


def test_uses_are_counted_over_completed_runs_and_the_rest_is_named(grid: Store) -> None:
    study = study_of(grid)
    assert {e.uses for e in study.executions if e.pipeline == "kd"} == {2}
    assert study.notes == ["left out: broken (broken), error"]
    (answer,) = break_even(study)
    assert (answer.state, answer.uses, answer.repetitions) == (AT_N, 2, 2)
    assert answer.n_star == pytest.approx(4)
    assert answer.total_at_reuse_j == pytest.approx(4_000)


def test_runs_on_other_hardware_drivers_or_training_are_refused_unless_mixing_is_allowed(grid: Store) -> None:
    grid.device(1, name="another GPU", driver="580.2")
    grid.power(1, range(T0, T0 + 400 * S, 200 * MS), lambda t: 100_000)
    add(grid, "kd2", "kd", 300, {"student.train": 25}, seed=2, train_config="b2", devices=[1])
    add(grid, "kd3", "kd", 330, {"student.train": 25}, seed=3, train_config="b1")
    study = study_of(grid)
    with pytest.raises(
        Refused, match=r"hardware: another GPU / test gpu; driver: 570\.1 / 580\.2; train_config"
    ):
        must_be_alike(study, allow_mixed=False)
    must_be_alike(study, allow_mixed=True)
    assert "MIXED, driver: 570.1 / 580.2" in study.notes


def test_the_command_asks_the_store_and_says_what_is_missing(
    grid: Store, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(grid.write())
    assert run(["breakeven", "--store", root, "--format", "table"]) == 0
    out = capsys.readouterr().out
    assert "kd 1B" in out
    assert "left out: broken" in out


def test_a_store_without_labelled_runs_is_one_error_with_a_cure(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.device(0)
    store.run("other")
    assert run(["breakeven", "--store", str(store.write())]) == 2
    assert 'pipeline="kd"' in capsys.readouterr().err
