"""Do the examples, run against the real libraries, store the stages, tokens and joules that they should?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from energyd_client.integrations import node
from real_daemon import Daemon, wait_for

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def stages(daemon: Daemon) -> list[dict[str, Any]]:
    """All stages once their energies are known, in order of begin; they are one run."""

    def stored() -> list[dict[str, Any]] | None:
        rows = daemon.query("FROM stage_totals ORDER BY t0_ns")
        return rows if rows and all(r["total_j"] is not None and r["status"] == "ok" for r in rows) else None

    found: list[dict[str, Any]] = wait_for(stored)
    assert daemon.query("SELECT count(*) AS n FROM runs WHERE status = 'ok'") == [{"n": 1}]
    return found


def counted(row: dict[str, Any]) -> dict[str, int]:
    return {k: int(v) for k, v in (row["counts"] or {}).items()}


def test_a_hugging_face_trainer_marks_train_evaluate_and_save_and_tells_its_own_tokens(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    example("huggingface_trainer.py")
    train, *inner = stages(daemon)
    assert train["run"] == "tiny-gpt2"
    assert train["path"] == "train"
    assert [row["path"] for row in inner] == ["train/evaluate", "train/save"] * 2
    assert counted(train) == {"positions": 2 * 64 * 32, "steps": 16}
    assert sum(row["seconds"] for row in inner) < train["seconds"]
    assert all(row["parent_id"] == train["stage_id"] for row in inner)


def test_a_lightning_trainer_marks_its_stages_and_counts_its_batches(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    example("lightning_trainer.py")
    rows = stages(daemon)
    paths = [row["path"] for row in rows]
    assert paths == ["sanity_check", "train", *["train/evaluate", "train/save"] * 2]
    assert counted(rows[1]) == {"positions": 2 * 64 * 16, "steps": 16}


def test_ranks_of_torchrun_add_their_tokens_and_the_machine_is_charged_once(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    example("torchrun_ranks.py")
    train, *ranks = stages(daemon)
    assert {row["path"] for row in ranks} == {"train/rank 0", "train/rank 1"}
    assert [counted(row) for row in ranks] == [{"positions": 20 * 4 * 32}] * 2
    assert counted(train) == {"positions": 2 * 20 * 4 * 32}
    # The ranks ran side by side on the one simulated CPU: the sum of theirs is twice what there was.
    (run,) = daemon.query("FROM run_totals")
    assert run["cpu_j"] == pytest.approx(train["cpu_j"])
    assert run["total_j"] == pytest.approx(train["total_j"])
    cpu_w = 65  # the simulated CPU's constant power
    assert train["cpu_j"] == pytest.approx(cpu_w * train["seconds"], rel=0.01)


@pytest.mark.long
def test_two_ranks_of_a_hugging_face_trainer_are_one_stage_with_the_tokens_of_both(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    example("huggingface_trainer.py", launcher=[*TORCHRUN, "--nproc-per-node=2"])
    train, *inner = stages(daemon)
    assert [row["path"] for row in inner] == ["train/evaluate", "train/save"] * 2
    assert counted(train) == {"positions": 2 * 64 * 32, "steps": 8}


@pytest.mark.long
def test_two_ranks_of_a_lightning_trainer_are_one_stage_with_the_tokens_of_both(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    example("lightning_trainer.py", "2")
    rows = stages(daemon)
    paths = [row["path"] for row in rows]
    assert paths == ["sanity_check", "train", *["train/evaluate", "train/save"] * 2]
    assert counted(rows[1]) == {"positions": 2 * 64 * 16, "steps": 8}


@pytest.mark.parametrize(
    ("environment", "speaks", "gpus"),
    [
        ({}, True, None),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, True, None),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}, True, [0, 1, 2, 3]),
        ({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}, False, [0, 1, 2, 3]),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": ""}, True, None),
        ({"SLURM_LOCALID": "0", "SLURM_JOB_GPUS": "2,5"}, True, ["2", "5"]),
        ({"SLURM_LOCALID": "1", "SLURM_STEP_GPUS": "5", "SLURM_JOB_GPUS": "2,5"}, False, ["5"]),
    ],
)
def test_the_first_process_of_a_node_speaks_for_the_gpus_of_all(
    environment: dict[str, str], speaks: bool, gpus: list[int] | list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in (
        "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_LOCALID", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS",
        "CUDA_VISIBLE_DEVICES",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (node.is_speaker(), node.gpus()) == (speaks, gpus)
