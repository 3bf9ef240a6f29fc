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


def test_a_gpu_that_only_a_rank_within_the_stage_names_is_in_the_stages_bill_once(store: Store) -> None:
    for gpu, watts in ((0, 100), (1, 300)):
        store.device(gpu, driver="570.1")
        store.power(gpu, range(T0, T0 + 100 * S, 200 * MS), lambda t, mw=1_000 * watts: mw)
    add(store, "base", "sft", 0, {"student.train": 30, "evaluate": 3})
    for rank in (0, 1):  # the first is on the GPU that the stage around it names
        store.stage("base", f"rank{rank}", "rank", T0 + 5 * S, T0 + 15 * S, devices=[rank],
                    parent_id="base-student.train", counts={"label": 100})  # fmt: skip
    store.stage("base", "step", "step", T0 + 6 * S, T0 + 7 * S, devices=[1], parent_id="rank1")
    (base,) = study_of(store).executions
    assert {s: round(j or 0) for s, j in base.stages.items()} == {"student.train": 6_000, "evaluate": 300}
    details = base.details["student.train"]
    assert round(details.gpu_j or 0) == 6_000
    assert details.tokens == 200
    with open_reader(store.root) as reader:
        (row,) = reader.sql("SELECT total_j FROM run_totals").dicts()
    assert round(row["total_j"]) == 6_300


@pytest.mark.parametrize("student", ["1B", None])  # None: a run of the teacher alone, in no study
def test_a_gpu_that_only_a_rank_of_the_teachers_names_is_in_the_bill_of_who_reuses_its_work(
    store: Store, student: str | None
) -> None:
    for gpu, watts in ((0, 100), (1, 300)):
        store.device(gpu, driver="570.1")
        store.power(gpu, range(T0, T0 + 200 * S, 200 * MS), lambda t, mw=1_000 * watts: mw)
    add(store, "first", "kd", 0, {"teacher.logits": 20}, student=student)
    store.stage("first", "rank1", "rank", T0 + 5 * S, T0 + 15 * S, devices=[1],
                parent_id="first-teacher.logits")  # fmt: skip
    add(store, "later", "kd", 60, {"student.train": 10})
    store.add("artifacts", artifact_id="a1", run_id="first", stage_id="first-teacher.logits",
              t_ns=T0 + 20 * S, name="cache", kind="logits")  # fmt: skip
    for user in ("first", "later"):
        store.add("artifact_uses", artifact_id="a1", run_id=user, stage_id=f"{user}-x", t_ns=T0 + 95 * S)
    borne = {e.run_id: round(e.part("teacher") or 0) for e in study_of(store).executions}
    assert borne == {"later": 5_000, **({"first": 5_000} if student else {})}


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


def labelled(store: Store, run_id: str, begin_s: int, seconds: dict[str, int], **labels: Any) -> None:
    """A KD run with attempts: the labels that the pipelines write."""
    own = {"seed": 0, "config": "c", "tokenizer": "t", "train_config": "tc", **labels}
    add(store, run_id, own.pop("pipeline", "kd"), begin_s, seconds, **own)


@pytest.fixture
def machine(store: Store) -> Store:
    """One GPU at 100 W, and a baseline's run."""
    store.device(0, driver="570.1")
    store.power(0, range(T0, T0 + 900 * S, 200 * MS), lambda t: 100_000)
    labelled(store, "base", 0, {"student.train": 30}, pipeline="sft")
    return store


def made(store: Store, artifact_id: str, run_id: str, stage: str, **more: Any) -> None:
    card = {"name": "cache", "kind": "logits", "uri": "/a", "sha256": "00", "size_bytes": 5, "attrs": "{}"}
    store.add("artifacts", artifact_id=artifact_id, run_id=run_id, t_ns=T0, **{
        **card, "stage_id": f"{run_id}-{stage}" if stage else None, **more
    })  # fmt: skip


def used(store: Store, artifact_id: str, *run_ids: str) -> None:
    for run_id in run_ids:
        store.add("artifact_uses", artifact_id=artifact_id, run_id=run_id, stage_id=None, t_ns=T0)


def test_attempts_of_one_run_are_one_execution_that_bears_what_failed(machine: Store) -> None:
    labelled(machine, "try1", 60, {"preprocess": 4, "teacher.logits": 7}, attempt=1, status="aborted")
    labelled(machine, "try2", 120, {"teacher.logits": 20, "student.train": 9}, attempt=2, status="error")
    labelled(machine, "try3", 180, {"student.train": 25, "evaluate": 3}, attempt=3)
    labelled(machine, "again", 240, {"student.train": 25}, attempt=1, seed=1)
    labelled(machine, "lost", 300, {"student.train": 2}, attempt=1, seed=2, status="error")
    made(machine, "a", "try2", "teacher.logits")
    used(machine, "a", "try2", "try3", "again")
    study = study_of(machine)
    whole, reuser = (e for e in study.executions if e.pipeline == "kd")
    assert (whole.attempts, whole.run_id, reuser.attempts) == (3, "try3", 1)
    assert {s: round(j or 0) for s, j in whole.stages.items()} == {
        "preprocess": 400, "teacher.logits": 2_700, "student.train": 3_400, "evaluate": 300
    }  # fmt: skip
    assert reuser.part("teacher") == pytest.approx(2_700)  # the attempt that died while making it, too
    assert whole.uses == reuser.uses == 2  # completed runs: again and try3
    assert "left out: lost (lost), error" in study.notes
    assert "kd 1B seed 0: 3 attempts, all of them paid for" in study.notes


def test_a_second_attempt_one_is_a_repetition_and_no_attempt_of_the_first(machine: Store) -> None:
    labelled(machine, "one", 60, {"student.train": 25}, attempt=1, status="error")
    labelled(machine, "two", 120, {"student.train": 25}, attempt=1)
    study = study_of(machine)
    assert [e.run_id for e in study.executions] == ["base", "two"]
    assert study.executions[1].attempts == 1


def test_failed_stages_that_an_artifact_names_are_borne_once(machine: Store) -> None:
    labelled(machine, "dead", 60, {"teacher.logits": 6}, status="aborted", seed=7)
    labelled(machine, "kd0", 120, {"teacher.logits": 20, "student.train": 25})
    labelled(machine, "kd1", 180, {"student.train": 25}, seed=1)
    made(machine, "a", "kd0", "teacher.logits", attrs='{"failed_stages": "dead-teacher.logits"}')
    used(machine, "a", "kd0", "kd1")
    teachers = {e.run_id: e.part("teacher") for e in study_of(machine).executions}
    assert teachers == {"base": 0, "kd0": pytest.approx(2_600), "kd1": pytest.approx(2_600)}


def test_an_artifact_from_elsewhere_is_unknown_or_reported_and_never_free(machine: Store) -> None:
    labelled(machine, "kd0", 60, {"student.train": 25})
    used(machine, "other-store", "kd0")
    labelled(machine, "kd1", 120, {"student.train": 25}, student="7B")
    made(machine, "imported", "kd1", "", attrs='{"total_j": 1234.5}')
    used(machine, "imported", "kd1")
    study = study_of(machine)
    unknown, reported = (e for e in study.executions if e.pipeline == "kd")
    assert unknown.total_j is None
    assert reported.part("teacher") == 1234.5
    assert (len(reported.reported), unknown.reported) == (1, frozenset())
    assert "artifact other-store was made elsewhere: what it cost is not in this store" in study.notes
    assert "REPORTED, not measured here: what cache cost to make" in study.notes


def test_what_a_fresh_store_is_told_of_a_reused_artifact_is_borne_once_by_each_and_unknown_stays_so(
    machine: Store,
) -> None:
    told = {"origin": "reported", "made_in": "teacher.logits"}
    for i, name in enumerate(("kd0", "kd1", "kd2")):
        labelled(machine, name, 60 * (i + 1), {"student.train": 25}, seed=i)
        cost = told | {"total_j": 900.0, "u_random_j": 9.0, "gpu_j": 700.0, "cpu_j": 200.0}
        # The stage around the caller is no maker: it would be charged whole.
        which, said = ("known", cost) if i < 2 else ("unknown", told)
        made(machine, which, name, "student.train", attrs=json.dumps(said))
        used(machine, which, name)
    with open_reader(machine.write()) as reader:
        study = read_store(reader)
        listed = reader.sql("SELECT artifact_id FROM artifacts ORDER BY 1").dicts()
        assert [row["artifact_id"] for row in listed] == ["known", "unknown"]
    first, second, unknown = (e for e in study.executions if e.pipeline == "kd")
    assert (first.part("teacher"), second.part("teacher"), unknown.part("teacher")) == (900, 900, None)
    assert (first.u_stages["teacher.logits"], first.uses) == (9, 2)
    assert first.details["teacher.logits"].gpu_j == 700
    assert (first.cards["known"], unknown.cards["unknown"]) == ([], ["energy"])


def test_where_the_store_holds_the_stage_that_made_it_what_users_report_is_not_read(machine: Store) -> None:
    labelled(machine, "kd0", 60, {"teacher.logits": 20, "student.train": 25})
    labelled(machine, "kd1", 120, {"student.train": 25}, seed=1)
    made(machine, "a", "kd1", "", attrs='{"origin": "reported", "total_j": 7.0}')
    made(machine, "a", "kd0", "teacher.logits")
    used(machine, "a", "kd0", "kd1")
    study = study_of(machine)
    assert {e.run_id: e.part("teacher") for e in study.executions} == {"base": 0, "kd0": 2000, "kd1": 2000}
    assert not [note for note in study.notes if "REPORTED" in note]
    assert not [e.name for e in study.executions if e.reported]


def test_a_cache_made_by_a_run_that_trains_nothing_is_not_used_by_making_it(machine: Store) -> None:
    labelled(machine, "cache", 60, {"teacher.logits": 20})
    labelled(machine, "kd0", 120, {"student.train": 25}, seed=1)
    made(machine, "a", "cache", "teacher.logits")
    used(machine, "a", "kd0")
    assert {e.uses for e in study_of(machine).executions if e.artifacts} == {1}


def test_trainings_to_an_equal_budget_and_to_a_target_are_answered_side_by_side(
    machine: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for stop, begin, train in (("budget", 60, 30), ("to_target", 120, 40)):
        labelled(machine, f"base-{stop}", begin, {"student.train": train}, pipeline="sft", stop=stop,
                 train_config=stop[0])  # fmt: skip
    for stop, begin, train in (("budget", 180, 31), ("to_target", 300, 30)):
        labelled(machine, f"kd-{stop}", begin, {"teacher.logits": 20, "student.train": train}, stop=stop,
                 train_config=stop[0])  # fmt: skip
    machine.rows["runs_log"] = [r for r in machine.rows["runs_log"] if r[1][0] != "base"]
    root = str(machine.write())
    assert run(["breakeven", "--store", root, "--format", "json"]) == 0  # two training configs, each alike
    told = {(a["stop"], a["student"]): a for a in json.loads(capsys.readouterr().out)}
    assert {k: a["state"] for k, a in told.items()} == {("budget", "1B"): "never", ("to_target", "1B"): AT_N}
    assert told["to_target", "1B"]["n_star"] == pytest.approx(2)
    run(["breakeven", "--store", root, "--format", "table"])
    shown = capsys.readouterr().out
    assert "kd 1B (equal budget): never" in shown
    assert "kd 1B (to target): cheaper than sft from 2.00 uses on" in shown
    run(["frontier", "--store", root, "--format", "table"])
    assert "1B (to target), from 2.00 uses on, cheapest first: kd, sft" in capsys.readouterr().out
    run(["advise", "--store", root, "--reuse", "3", "--format", "table"])
    shown = capsys.readouterr().out
    assert "equal budget: at 3 uses for 1B, sft 1B takes least" in shown
    assert "to target: at 3 uses for 1B, kd 1B takes least" in shown
    out = machine.root.parent / "r.html"
    assert run(["report", "--store", root, "-o", str(out), "--figures", str(out.with_name("f"))]) == 0
    names = {p.name for p in out.with_name("f").iterdir()}
    assert {"breakdown-budget.svg", "breakeven-budget.svg", "breakeven-to_target.svg", "power-1.svg"} <= names
    page = out.read_text()
    assert "<td>to target</td>" in page
    assert "test gpu" in page.partition("Measured with")[2]
    assert len(page.encode()) < 500_000


def test_a_variant_without_a_baseline_is_named_and_the_other_answered(
    machine: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for stop, begin in (("budget", 180), ("to_target", 300)):
        labelled(machine, f"kd-{stop}", begin, {"teacher.logits": 20, "student.train": 20}, stop=stop)
    labelled(machine, "base-b", 60, {"student.train": 30}, pipeline="sft", stop="budget")
    assert run(["breakeven", "--store", str(machine.write()), "--format", "table"]) == 0
    shown = capsys.readouterr().out
    assert "kd 1B (equal budget): cheaper than sft from 2.00 uses on" in shown
    assert "with stop=to_target has no baseline" in shown


def test_advice_takes_the_uses_that_were_counted_where_none_are_assumed(
    grid: Store, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(grid.write())
    assert run(["advise", "--store", root, "--format", "table"]) == 0
    assert "2 uses, as counted in this store" in capsys.readouterr().out
    assert run(["advise", "--study", "poster"]) == 2
    assert "--reuse N says how many" in capsys.readouterr().err


def test_a_studys_table_has_domains_joules_a_token_and_who_starved(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 200 * S, 200 * MS), lambda t: 300_000 if t // S % 2 else 50_000)
    store.run("r", "kd", T0, T0 + 60 * S, labels='{"pipeline": "kd", "student": "1B"}')
    store.stage("r", "i", "prerun.idle", T0, T0 + 200 * MS)
    store.stage("r", "t", "student.train", T0 + 10 * S, T0 + 50 * S, counts={"label": 700})
    root = str(store.write())
    assert run(["stages", "--study", "store", "--store", root, "--format", "json"]) == 0
    whole = [p for p in json.loads(capsys.readouterr().out) if p["stage"] is None][0]  # noqa: RUF015
    assert whole["gpu_j"] == pytest.approx(whole["energy_j"])
    assert (whole["tokens"], whole["token_unit"]) == (700, "label")
    assert whole["j_per_token"] == pytest.approx(whole["energy_j"] / 700)
    assert whole["starved_share"] == pytest.approx(0.5, abs=0.01)
    assert run(["stages", "--study", "store", "--store", root, "--format", "table"]) == 0
    assert "STARVED: kd 1B, 50." in capsys.readouterr().out


def test_what_was_mixed_is_said_by_every_answer_in_every_format(
    grid: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    add(grid, "kd2", "kd", 300, {"teacher.logits": 5, "student.train": 25}, seed=2, tokenizer="b")
    add(grid, "kd3", "kd", 340, {"teacher.logits": 5, "student.train": 25}, seed=3, tokenizer="a")
    root, note = str(grid.write()), "MIXED, tokenizer: a / b"
    for command in (["breakeven"], ["frontier"], ["advise", "--reuse", "2"]):
        assert run([*command, "--store", root]) == 2
        assert "these runs are not alike: tokenizer: a / b" in capsys.readouterr().err
        for format_ in ("table", "json", "csv"):
            run([*command, "--store", root, "--allow-mixed", "--format", format_])
            assert note in capsys.readouterr().out, (command, format_)
    out = grid.root.parent / "r.html"
    assert run(["report", "--store", root, "--allow-mixed", "-o", str(out)]) == 0
    assert note in out.read_text()


def test_a_report_without_a_baseline_has_all_but_the_break_even(grid: Store) -> None:
    grid.rows["runs_log"] = [r for r in grid.rows["runs_log"] if r[1][0] != "base"]
    out = grid.root.parent / "r.html"
    assert run(["report", "--store", str(grid.write()), "--reuse", "2", "-o", str(out)]) == 0
    page = out.read_text()
    assert "has no baseline among its pipelines kd" in page
    assert "at 2 uses for 1B, kd 1B takes least" in page
