"""Which parent does a stage get in threads, tasks, forked and spawned processes?"""

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from unittest import mock

import pytest

import energyd_client as energy


def begins(daemon):
    return {m.name: m for m in daemon.markers if m.TYPE == "begin"}


def test_a_thread_without_context_is_at_the_top_of_the_current_run(daemon):
    def work():
        with energy.stage("loader"):
            pass

    with energy.run("r") as run, run.stage("train"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert energy.flush(10)
    loader = begins(daemon)["loader"]
    assert (loader.run_id, loader.parent_id) == (run.run_id, None)


def test_many_threads_lose_and_double_nothing(daemon):
    def work(i):
        for k in range(200):
            with run.stage(f"{i}.{k}") as stage:
                stage.count(n=1)

    with energy.run("r") as run:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert energy.flush(20)
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, len(stored) + 1))
    assert len(begins(daemon)) == 800
    assert daemon.types().count("count") == daemon.types().count("end") == 800


def test_runs_of_two_worker_threads_are_two_runs_and_stay_out_of_the_environment(daemon):
    both = threading.Barrier(2)
    ids, exported = [], []

    def work():
        with energy.run("search") as run, run.stage("s"):
            both.wait(5)
            ids.append(run.run_id)
            exported.append(os.environ.get("ENERGYD_RUN_ID"))
            both.wait(5)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 2
    assert exported == [None, None]


def test_asyncio_tasks_inherit_the_stage_around_them_and_do_not_see_each_other(daemon):
    @energy.stage("step")
    async def step(name):
        await asyncio.sleep(0)
        with energy.stage(name):
            await asyncio.sleep(0.001)
        return name

    async def main():
        with energy.run("r"), energy.stage("all"):
            return await asyncio.gather(*(step(f"inner{i}") for i in range(5)))

    assert asyncio.run(main()) == [f"inner{i}" for i in range(5)]
    assert energy.flush(10)
    stages = {m.stage_id: m for m in daemon.markers if m.TYPE == "begin"}
    (top,) = (m for m in stages.values() if m.name == "all")
    inner = [m for m in stages.values() if m.name.startswith("inner")]
    assert len({m.parent_id for m in inner}) == 5
    assert all(stages[m.parent_id].name == "step" for m in inner)
    assert all(m.parent_id == top.stage_id for m in stages.values() if m.name == "step")


def test_an_exception_in_an_async_function_ends_its_stage_with_error(daemon):
    @energy.stage("step")
    async def step():
        raise ValueError("x")

    with energy.run("r"), pytest.raises(ValueError, match="x"):
        asyncio.run(step())
    assert energy.flush(10)
    assert [m.status for m in daemon.markers if m.TYPE == "end"] == ["error"]


def fork(function):
    """Run `function` in a forked child, which leaves by os._exit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: fork beside threads, our case exactly
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_is_a_client_of_its_own_whose_stages_are_children_of_its_parents(daemon):
    def child():
        with energy.stage("in child") as stage:
            stage.count(n=1)
        assert energy.flush(10)

    with energy.run("r") as run, run.stage("train") as train:
        fork(child)
        run.metric("after", 1.0)
    assert energy.flush(10)
    assert len(daemon.stored) == 2
    mine, childs = sorted(daemon.stored.values(), key=len, reverse=True)
    assert [m.TYPE for m in childs] == ["process", "begin", "count", "end"]
    assert childs[0].seq == 1
    assert (childs[1].run_id, childs[1].parent_id) == (run.run_id, train.stage_id)
    assert [m.TYPE for m in mine] == ["run_begin", "process", "begin", "metric", "end", "run_end"]


def test_blocks_of_the_parent_that_a_forked_child_leaves_send_nothing_there(daemon):
    run = energy.run("r").begin()
    stage = run.stage("train").begin()

    def child():
        stage.end()
        with energy.stage("own"):
            pass
        run.end()
        assert energy.flush(10)

    fork(child)
    stage.end()
    run.end()
    assert energy.flush(10)
    assert sorted(daemon.types()) == ["begin", "begin", "end", "end", "run_begin", "run_end"]
    assert energy.losses() == {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_join_the_stage_that_started_them(workplace, daemon, method):
    script = workplace.folder / "main.py"
    script.write_text(
        "import multiprocessing, energyd_client as e\n"
        "def work(name):\n"
        "    with e.stage(name): pass\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with e.run('r') as run, run.stage('train'):\n"
        "        processes = [context.Process(target=work, args=(f'w{i}',)) for i in range(2)]\n"
        "        [p.start() for p in processes]\n"
        "        [p.join() for p in processes]\n"
        "        assert [p.exitcode for p in processes] == [0, 0]\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env=workplace.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = begins(daemon)
    assert set(found) == {"train", "w0", "w1"}
    assert found["w0"].parent_id == found["w1"].parent_id == found["train"].stage_id
    assert daemon.types().count("run_begin") == daemon.types().count("run_end") == 1
    assert daemon.types().count("end") == 3
    assert [m.TYPE for m in daemon.heard].count("bye") == 3
    assert workplace.spools() == []


def test_a_subprocess_joins_the_run_by_the_environment_and_does_not_end_it(workplace, daemon):
    program = (
        "import energyd_client as e\n"
        "with e.run('child', student='1B') as run:\n"
        "    assert run.joined\n"
        "    with run.stage('in child'): run.metric('em', 1.0)\n"
    )
    with energy.run("r") as run, run.stage("train") as train:
        ids = {k: os.environ[k] for k in ("ENERGYD_RUN_ID", "ENERGYD_STAGE_ID")}
        done = workplace.run(program, **ids)
    assert (done.returncode, done.stderr) == (0, "")
    assert energy.flush(10)
    childs = next(c for c in daemon.stored.values() if c[0].TYPE == "labels")
    assert [m.TYPE for m in childs] == ["labels", "process", "begin", "metric", "end"]
    assert {m.run_id for m in childs if m.TYPE != "process"} == {run.run_id}
    assert childs[0].labels == {"student": "1B"}
    assert childs[2].parent_id == train.stage_id


def test_children_started_by_any_means_are_told_the_stage_that_is_open_then(daemon):
    def told_to_children():
        show = [sys.executable, "-c", "import os; print(os.environ['ENERGYD_STAGE_ID'])"]
        by_libc = subprocess.run(show, capture_output=True, text=True, check=True)
        by_python = subprocess.run(show, capture_output=True, text=True, check=True, env=os.environ.copy())
        return [out.stdout.strip() for out in (by_libc, by_python)]

    with energy.run("r") as run:
        for _ in range(2):
            with run.stage("outer") as outer:
                with run.stage("inner") as inner:
                    assert told_to_children() == [inner.stage_id] * 2
                assert told_to_children() == [outer.stage_id] * 2
        assert told_to_children() == [""] * 2
        os.environ["ENERGYD_STAGE_ID"] = "by hand"
    assert "ENERGYD_STAGE_ID" not in os.environ
    with energy.run("r") as run, run.stage("again") as again:
        assert told_to_children() == [again.stage_id] * 2


def test_naming_ever_new_stages_to_children_takes_no_memory(workplace):
    program = (
        "import ctypes, os\n"
        "from energyd_client.exports import Exports\n"
        "class Heap(ctypes.Structure):\n"
        "    _fields_ = [(n, ctypes.c_int) for n in 'arena o s h hd u f used free keep'.split()]\n"
        "heap = ctypes.CDLL(None).mallinfo; heap.restype = Heap\n"
        "exports = Exports(); exports.name('run', b'')\n"
        "before = heap().used\n"
        "for i in range(10_000): exports.name('run', b'1234567-0123456789abcdef.%d' % i)\n"
        "print(heap().used - before)\n"
    )
    done = workplace.run(program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000  # setenv would have kept 810 kB


def test_after_the_environment_was_emptied_and_refilled_children_are_told_the_stage_that_is_open(daemon):
    with energy.run("r") as run:
        with run.stage("a"), mock.patch.dict(os.environ, clear=True):
            pass
        with run.stage("b") as b:
            show = [
                sys.executable,
                "-c",
                "import os; print(*map(os.getenv, ('ENERGYD_RUN_ID', 'ENERGYD_STAGE_ID')))",
            ]
            by_libc = subprocess.run(show, capture_output=True, text=True, check=True)
            assert by_libc.stdout.split() == [run.run_id, b.stage_id]


def test_without_ctypes_children_join_the_run_and_no_stage(daemon, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctypes", None)
    with energy.run("r") as run, run.stage("a"):
        assert (os.environ["ENERGYD_RUN_ID"], os.environ["ENERGYD_STAGE_ID"]) == (run.run_id, "")


@pytest.mark.parametrize("nonsense", ["", "   ", "x" * 97])
def test_a_senseless_run_id_in_the_environment_is_no_run_to_join(daemon, monkeypatch, nonsense):
    monkeypatch.setenv("ENERGYD_RUN_ID", nonsense)
    with energy.run("r") as run:
        assert not run.joined
