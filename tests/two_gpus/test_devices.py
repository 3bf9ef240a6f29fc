"""Which of two GPUs is a stage charged for, however they are named, renumbered or left unnamed?"""

from __future__ import annotations

import pytest

from real_daemon import wait_for

from .conftest import EDGE_J, Bench

ONE = "GPU-fa4e0000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("visible", "devices", "charged"),
    [
        ("1,0", [0], [1]),  # renumbered: `cuda:0` is the machine's GPU 1
        ("1,0", None, [0, 1]),
        (ONE, [0], [1]),
        (ONE, None, [1]),
        ("1", "cuda:0", [1]),
        (None, [ONE], [1]),
        (None, [1, "cuda:1", "1", ONE], [1]),  # four names of one
        ("0", [], []),
        ("", None, []),
    ],
)  # fmt: skip
def test_a_stage_is_charged_for_what_its_process_calls_by_that_name(
    bench: Bench, visible: str | None, devices: object, charged: list[int]
) -> None:
    code = f'with energy.run("named") as run, run.stage("s", devices={devices!r}): time.sleep(0.2)\n'
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    (run_id,) = bench.done(bench.start(code + "print(run.run_id)", **env))
    rows = bench.rows(run_id)
    assert sorted(row["gpu"] for row in rows) == charged
    for row in rows:
        assert row["energy_j"] == pytest.approx(row["truth_j"], rel=1e-3, abs=EDGE_J)


@pytest.mark.parametrize(
    ("visible", "devices", "warned"),
    [
        ("1", [1], "sees no cuda:1"),  # the machine has a GPU 1, which this process does not call so
        ("", [0], "sees no cuda:0"),
        (None, ["7"], ""),
        (None, ["GPU-of-another-machine"], ""),
    ],
)
def test_a_gpu_that_is_not_there_is_replaced_by_no_other_and_the_run_says_so(
    bench: Bench, visible: str | None, devices: object, warned: str
) -> None:
    code = f'with energy.run("lost") as run, run.stage("s", devices={devices!r}): time.sleep(0.2)\n'
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    (run_id,) = bench.done(bench.start(code + "print(run.run_id)", **env), warned=warned)
    assert bench.rows(run_id) == []
    (total,) = bench.totals(run_id)
    assert total["gpu_j"] is None
    assert "devices_unknown" in total["flags"]
    assert "gpu not charged" in total["domains"]


def test_two_runs_that_say_nothing_are_told_apart_by_nvmls_lists_and_share_nothing(bench: Bench) -> None:
    """Where one of them has ended, the other still runs: what it may use by default is not what it uses."""
    code = """
print(os.getpid(), flush=True)
input()
with energy.run("unsaid") as run:
    with run.stage("work"):
        print(run.run_id, flush=True)
        gate(sys.argv[0] + {name!r})
    for _ in range(2):
        with run.stage("short"): time.sleep(0.05)
"""
    programs = [bench.start(code.format(name=f"unsaid-{k}")) for k in range(2)]
    pids, run_ids = [], []
    for program in programs:
        assert program.stdout is not None
        pids.append(program.stdout.readline().strip())
    bench.fake.control(f"devices 2\npids 0 {pids[0]}\npids 1 {pids[1]}\n")
    for program in programs:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("go\n")
        program.stdin.flush()
        run_ids.append(program.stdout.readline().strip())
    began = bench.daemon.query("SELECT max(t_ns) AS t FROM conditions")[0]["t"]
    wait_for(lambda: bench.daemon.query("SELECT max(t_ns) AS t FROM conditions")[0]["t"] > began + 10**9)
    bench.open_gate("-cunsaid-0")
    bench.done(programs[0])
    first = bench.rows_of_final(run_ids[0])
    bench.open_gate("-cunsaid-1")
    bench.done(programs[1])
    bench.fake.control("devices 2\n")
    second = bench.rows(run_ids[1])
    for gpu, rows in enumerate((first, second)):
        assert [(row["stage"], row["gpu"]) for row in rows] == [("work", gpu), ("short", gpu), ("short", gpu)]
        for row in rows:
            assert row["energy_j"] == pytest.approx(row["truth_j"], rel=1e-3, abs=EDGE_J)
            assert (row["overlap_s"], row["exclusive_j"]) == (0, row["energy_j"])
            assert "shared_gpu" not in row["flags"]
    for gpu, (total, rows) in enumerate(zip(bench.totals(*run_ids), (first, second), strict=True)):
        assert total["gpu_j"] == pytest.approx(sum(row["energy_j"] for row in rows), abs=1e-3), gpu
