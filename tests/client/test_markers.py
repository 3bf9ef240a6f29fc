"""Do runs, stages, counts, metrics and artifacts reach the daemon as they were meant?"""

import logging
import os

import pytest

import energyd_client as energy
from energyd_client import lifetime
from energyd_client.protocol import Refusal


def by_type(daemon, kind):
    return [m for m in daemon.markers if kind == m.TYPE]


def test_markers_arrive_in_order_with_rising_numbers_and_instants(daemon):
    with energy.run("kd", pipeline="kd", seed=3) as run:
        with run.stage("train") as stage:
            stage.count(label=4096, positions=8192)
        run.metric("exact_match", 0.81, n=700)
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "count", "end", "metric", "run_end"]
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, len(stored) + 1))
    assert [m.t_ns for m in stored] == sorted(m.t_ns for m in stored)
    begin, count, metric = daemon.markers[1], daemon.markers[2], daemon.markers[4]
    assert daemon.markers[0].labels == {"pipeline": "kd", "seed": 3}
    assert (begin.name, begin.parent_id, begin.run_id) == ("train", None, run.run_id)
    assert count.counts == {"label": 4096, "positions": 8192}
    assert (metric.name, metric.value, metric.n, metric.stage_id) == ("exact_match", 0.81, 700, None)


def test_the_process_is_described_before_its_first_stage(daemon, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with energy.run("r") as run, run.stage("a"):
        pass
    assert energy.flush(10)
    (stored,) = daemon.stored.values()
    assert [m.TYPE for m in stored][:3] == ["run_begin", "process", "begin"]
    assert (stored[1].visible_devices, stored[1].local_rank, stored[1].device_order) == ("", "1", None)


def test_a_stage_inside_a_stage_is_its_child_and_a_metric_names_the_stage_around_it(daemon):
    with energy.run("r") as run, run.stage("train") as train, energy.stage("checkpoint"):
        run.metric("loss", 2)
    assert energy.flush(10)
    outer, inner = by_type(daemon, "begin")
    assert (outer.stage_id, inner.parent_id) == (train.stage_id, train.stage_id)
    assert by_type(daemon, "metric")[0].stage_id == inner.stage_id


def test_an_exception_ends_stage_and_run_with_error_and_goes_on(daemon):
    with pytest.raises(ZeroDivisionError), energy.run("r") as run, run.stage("train"):
        1 / 0  # noqa: B018
    assert energy.flush(10)
    assert [m.status for m in daemon.markers if m.TYPE in ("end", "run_end")] == ["error", "error"]


def test_leaving_by_sys_exit_zero_is_no_error(daemon):
    with pytest.raises(SystemExit), energy.run("r"):
        raise SystemExit(0)
    assert energy.flush(10)
    assert by_type(daemon, "run_end")[0].status == "ok"


def test_a_stage_ended_twice_is_warned_of_once_ignored_and_counted(daemon, caplog):
    with energy.run("r") as run:
        stage = run.stage("train").begin()
        for _ in range(3):
            stage.end()
    assert energy.flush(10)
    assert len(by_type(daemon, "end")) == 1
    assert [r.getMessage().count("ended twice") for r in caplog.records] == [1]
    assert energy.losses()["ended_twice"] == 2


def test_stages_ended_out_of_order_leave_the_right_parent(daemon):
    with energy.run("r") as run:
        a = run.stage("a").begin()
        b = run.stage("b").begin()
        a.end()
        c = run.stage("c").begin()
        c.end()
        b.end()
        d = run.stage("d").begin()
        d.end()
    assert energy.flush(10)
    parents = {m.name: m.parent_id for m in by_type(daemon, "begin")}
    assert parents == {"a": None, "b": a.stage_id, "c": b.stage_id, "d": None}


def test_an_artifact_and_its_use_carry_the_same_id(daemon):
    with energy.run("r") as run, run.stage("teacher.logits") as stage:
        made = run.artifact(
            "cache", kind="logit_cache", uri="/data/c", sha256="ab" * 32, size_bytes=7, top_k=16
        )
        run.use_artifact(made)
    assert energy.flush(10)
    (artifact,), (use,) = by_type(daemon, "artifact"), by_type(daemon, "artifact_use")
    assert artifact.artifact_id == use.artifact_id == made
    assert (artifact.kind, artifact.size_bytes, artifact.attrs) == ("logit_cache", 7, {"top_k": 16})
    assert artifact.stage_id == use.stage_id == stage.stage_id


def test_a_decorated_function_is_a_new_stage_at_each_call_even_inside_itself(daemon):
    @energy.stage("fact")
    def fact(n):
        return 1 if n == 0 else n * fact(n - 1)

    with energy.run("r"):
        assert fact(2) == 2
    assert energy.flush(10)
    begins = by_type(daemon, "begin")
    assert [b.name for b in begins] == ["fact"] * 3
    assert [b.parent_id for b in begins] == [None, begins[0].stage_id, begins[1].stage_id]
    assert fact.__name__ == "fact"


def test_a_decorated_generator_is_open_from_first_item_to_last(daemon):
    @energy.stage("batches")
    def batches():
        yield 1
        yield 2

    with energy.run("r"):
        assert list(batches()) == [1, 2]
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]


def test_a_stage_without_a_run_belongs_to_one_named_after_the_script_that_ends_with_it(
    workplace, make_daemon
):
    daemon = make_daemon().start()
    script = workplace.folder / "train_it.py"
    script.write_text("import energyd_client as e\nfor n in 'ab':\n    with e.stage(n): pass\n")
    done = workplace.run(f"import sys, runpy; sys.argv = [{str(script)!r}]; runpy.run_path(sys.argv[0])")
    assert (done.returncode, done.stderr) == (0, "")
    assert daemon.types() == ["run_begin", "begin", "end", "begin", "end", "run_end"]
    assert daemon.markers[0].name == "train_it"
    assert {m.run_id for m in daemon.markers} == {daemon.markers[0].run_id}


def test_a_named_run_is_not_swallowed_by_the_nameless_one_before_it(daemon):
    with energy.stage("load"):
        pass
    with energy.run("kd") as run, run.stage("train"):
        pass
    assert energy.flush(10)
    begins = by_type(daemon, "run_begin")
    assert begins[1].name == "kd"
    assert by_type(daemon, "begin")[1].run_id == begins[1].run_id != begins[0].run_id


def test_a_run_inside_a_run_joins_it_and_adds_its_labels(daemon):
    with (
        energy.run("outer", seed=1),
        energy.stage("all") as around,
        energy.run("inner", student="1B") as inner,
    ):
        with inner.stage("train"):
            pass
        assert inner.joined
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "labels", "begin", "end", "end", "run_end"]
    assert daemon.markers[2].labels == {"student": "1B"}
    assert daemon.markers[3].parent_id == around.stage_id


def test_the_environment_names_the_open_run_and_stage_and_is_put_back(daemon, monkeypatch):
    monkeypatch.setenv("ENERGYD_STAGE_ID", "")
    with energy.run("r") as run:
        assert (os.environ["ENERGYD_RUN_ID"], os.environ["ENERGYD_STAGE_ID"]) == (run.run_id, "")
        with run.stage("a") as a:
            with run.stage("b") as b:
                assert os.environ["ENERGYD_STAGE_ID"] == b.stage_id
            assert os.environ["ENERGYD_STAGE_ID"] == a.stage_id
        assert os.environ["ENERGYD_STAGE_ID"] == ""
    assert "ENERGYD_RUN_ID" not in os.environ
    assert os.environ["ENERGYD_STAGE_ID"] == ""


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda run, stage: stage.count(label=3.5), "not a whole number"),
        (lambda run, stage: stage.count(label=-1), "not a whole number"),
        (lambda run, stage: stage.count(label=True), "not a whole number"),
        (lambda run, stage: stage.count(label="7"), "not a whole number"),
        (lambda run, stage: stage.count(label=2**70), "not a whole number"),
        (lambda run, stage: run.metric("em", "high"), "not a finite number"),
        (lambda run, stage: run.metric("em", float("nan")), "not a finite number"),
        (lambda run, stage: run.use_artifact(""), "no artifact id"),
        (lambda run, stage: run.use_artifact("x" * 97), "no artifact id"),
    ],
)
def test_a_senseless_argument_drops_its_marker_with_one_warning_that_says_where(daemon, caplog, call, word):
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(3):
            call(run, stage)
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]
    (record,) = caplog.records
    assert word in record.getMessage()
    assert f"{__file__}:" in record.getMessage()
    assert len(record.getMessage().splitlines()) == 3
    assert energy.losses()["ignored"] == 3


def test_good_counts_survive_beside_a_bad_one(daemon):
    numpy = pytest.importorskip("numpy")
    with energy.run("r") as run, run.stage("a") as stage:
        stage.count(label=numpy.int64(5), nonpad=1.5)
    assert energy.flush(10)
    assert by_type(daemon, "count")[0].counts == {"label": 5}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("", "unnamed"),
        (7, "7"),
        ("n" * 201, "n" * 200),
        (None, "None"),
        ("caf\udce9", "caf?"),
        ("prüfung", "prüfung"),
    ],
)
def test_a_wrong_stage_name_is_mended_since_a_lost_begin_would_lose_the_stage(daemon, name, sent):
    with energy.run("r") as run, run.stage(name):
        pass
    assert energy.flush(10)
    assert by_type(daemon, "begin")[0].name == sent


def test_labels_become_scalars_and_those_that_cannot_are_left_out(daemon, tmp_path, caplog):
    with energy.run("r", a=1, b=True, c=0.5, d=None, e=tmp_path, f=float("inf"), g=2**80, h="x" * 9_999):
        pass
    assert energy.flush(10)
    expected = {"a": 1, "b": True, "c": 0.5, "e": str(tmp_path), "g": str(2**80), "h": "x" * 500}
    assert daemon.markers[0].labels == expected
    assert len(caplog.records) == 1


def test_a_run_whose_labels_do_not_fit_a_frame_begins_without_them(daemon, caplog):
    with energy.run("r", **{f"{i:02}" + "ü" * 198: "ü" * 500 for i in range(64)}):
        pass
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "run_end"]
    assert daemon.markers[0].labels == {}
    assert "do not fit a frame" in caplog.records[0].getMessage()


def test_counting_in_an_ended_stage_is_ignored_with_a_warning(daemon, caplog):
    with energy.run("r") as run:
        with run.stage("a") as stage:
            pass
        stage.count(label=1)
    assert energy.flush(10)
    assert "count" not in daemon.types()
    assert "not open" in caplog.records[0].getMessage()


def test_a_fault_inside_the_client_does_not_reach_the_program(daemon, monkeypatch, caplog):
    def broken(*_):
        raise OSError("no clock")

    with energy.run("r") as run:
        monkeypatch.setattr("energyd_client.stages.stage_begin", broken)
        with run.stage("a"):
            reached = True
    assert reached
    assert energy.losses()["internal"] == 1
    assert any("a fault in the client" in r.getMessage() for r in caplog.records)


def test_devices_are_sent_as_uuids_or_indices_and_numbers_follow_cuda_visible_devices(daemon, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-77")
    with energy.run("r") as run:
        for devices in ([0, 1], "cuda:1", ["GPU-12"], [], "5", None):
            with run.stage("a", devices=devices):
                pass
    assert energy.flush(10)
    sent = [m.devices for m in by_type(daemon, "begin")]
    assert sent == [["3", "GPU-77"], ["GPU-77"], ["GPU-12"], [], ["5"], None]


@pytest.mark.parametrize(
    ("visible", "number", "sent"),
    [(None, 1, "1"), ("3,2", 2, "cuda:2"), ("3,-1,2", 1, "cuda:1"), ("", 0, "cuda:0"), ("3", -1, "cuda:-1")],
)
def test_a_gpu_that_the_process_does_not_see_is_never_another_of_the_same_number(
    daemon, monkeypatch, caplog, visible, number, sent
):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with energy.run("r") as run, run.stage("a", devices=number):
        pass
    assert energy.flush(10)
    assert [m.devices for m in by_type(daemon, "begin")] == [[sent]]
    told = [r.getMessage() for r in caplog.records if f"sees no cuda:{number}" in r.getMessage()]
    assert len(told) == (0 if visible is None else 1)


class FakeCuda:
    """What torch.cuda offers to a client that never imports torch."""

    def __init__(self):
        self.up, self.synchronized = False, []

    def is_initialized(self):
        return self.up

    def device_count(self):
        return 2

    def current_device(self):
        return 1

    def get_device_properties(self, i):
        return type("P", (), {"uuid": f"0000-{i}"})

    def synchronize(self, i):
        self.synchronized.append(i)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    torch = type("T", (), {"cuda": fake, "__version__": "9", "_C": object()})
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    return fake


def test_the_process_is_described_again_once_cuda_is_up_and_only_once(daemon, cuda):
    with energy.run("r") as run:
        with run.stage("a"):
            cuda.up = True
        for _ in range(3):
            with run.stage("b"):
                pass
    assert energy.flush(10)
    (stored,) = daemon.stored.values()
    assert [m.gpu_uuids for m in stored if m.TYPE == "process"] == [None, ["GPU-0000-0", "GPU-0000-1"]]


def test_a_mig_instance_is_told_by_the_name_that_cuda_was_given(daemon, cuda, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-aa,MIG-bb,MIG-cc")
    cuda.up = True
    with energy.run("r") as run, run.stage("a", devices=1):
        pass
    assert energy.flush(10)
    assert [m.devices for m in by_type(daemon, "begin")] == [["MIG-bb"]]
    (stored,) = daemon.stored.values()
    assert [m.gpu_uuids for m in stored if m.TYPE == "process"] == [["MIG-aa", "MIG-bb"]]


def test_sync_waits_at_both_edges_for_the_devices_in_use_only(daemon, cuda):
    cuda.up = True
    with energy.run("r") as run, run.stage("a", sync=True):
        assert cuda.synchronized == [1]
    assert cuda.synchronized == [1, 1]
    assert energy.flush(10)
    assert by_type(daemon, "begin")[0].synced is True


def test_sync_without_torch_is_sent_as_not_synced(daemon, monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    with energy.run("r") as run, run.stage("a", sync=True):
        pass
    assert energy.flush(10)
    assert by_type(daemon, "begin")[0].synced is False


def test_a_signal_handler_may_end_a_stage_while_a_marker_is_being_posted(daemon, monkeypatch):
    with energy.run("r") as run:
        stage = run.stage("a").begin()
        box = lifetime.outbox()
        append = box.spool.append

        def interrupted(data):
            monkeypatch.setattr(box.spool, "append", append)
            stage.end()  # as a SIGTERM handler would, in this very thread
            return append(data)

        monkeypatch.setattr(box.spool, "append", interrupted)
        run.metric("m", 1.0)
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "metric", "end", "run_end"]


def test_a_refused_marker_is_logged_once_and_the_rest_goes_on(daemon, caplog):
    def refuse(marker):
        return Refusal("conflict", "not yours", "run_id") if marker.TYPE == "count" else None

    daemon.refuse = refuse
    with energy.run("r") as run, run.stage("a") as stage:
        stage.count(x=1)
        stage.count(x=2)
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]
    assert [r.getMessage() for r in caplog.records] == [
        "energyd refused a marker (conflict, run_id): not yours"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    assert energy.losses() == {"refused": 2}


def test_flush_is_true_when_the_last_marker_was_refused(daemon):
    daemon.refuse = lambda m: Refusal("conflict", "no") if m.TYPE == "run_end" else None
    with energy.run("r"):
        pass
    assert energy.flush(10)
