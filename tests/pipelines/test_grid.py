"""Which cells does a study run, and does a seed decide all that comes out?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from energyd_pipelines.cli import cli
from energyd_pipelines.config import load
from energyd_pipelines.errors import AGAIN
from energyd_pipelines.grid import run_grid, summary

SMALLEST = (
    "students=[{name: S, width: 16, layers: 1, heads: 2}]", "data.n=64", "data.n_eval=10", "train.batch=16",
    "train.steps=3", "prerun.idle_s=0",
)  # fmt: skip


def results(folder: Path, *words: str) -> list[dict[str, Any]]:
    return run_grid(load("quick", [*SMALLEST, *words]), "quick", folder)


def test_seeds_are_repetitions_that_differ_and_come_out_the_same_again(unmeasured: Path) -> None:
    one = results(unmeasured / "one", "pipelines=[sft]", "seeds=[0, 1]")
    again = results(unmeasured / "again", "pipelines=[sft]", "seeds=[0, 1]")
    assert [r["seed"] for r in one] == [0, 1]
    assert one[0]["nll"] != one[1]["nll"]
    assert [r["nll"] for r in again] == [r["nll"] for r in one]


def test_every_seed_and_size_shares_one_cache_and_a_finished_cell_is_left_alone(unmeasured: Path) -> None:
    words = ("pipelines=[kd]", "seeds=[0, 1]")
    first = results(unmeasured / "one", *words)
    uses = next(unmeasured.glob("artifacts/logits/*/uses.jsonl"))
    assert [len(r["saved"]) for r in first] == [0, 1]
    assert len({json.loads(line)["run_id"] for line in uses.read_text().splitlines()}) == 2
    before = next(unmeasured.glob("one/kd-S-0/student/model.safetensors")).stat().st_mtime_ns
    assert results(unmeasured / "one", *words) == first
    assert next(unmeasured.glob("one/kd-S-0/student/model.safetensors")).stat().st_mtime_ns == before


def test_minutes_begin_no_cell_too_late_and_what_is_left_is_gone_on_with(unmeasured: Path) -> None:
    config = load("quick", [*SMALLEST, "pipelines=[sft]", "seeds=[0, 1, 2]"])
    assert [r["seed"] for r in run_grid(config, "quick", unmeasured / "one", minutes=1e-9)] == [0]
    words = ["run", "quick", *SMALLEST, "pipelines=[sft]", "--seeds", "2"]
    late = CliRunner().invoke(cli, [*words, "--minutes", "1e-9"])
    assert late.exit_code == AGAIN
    assert "left for --resume: sft-S seed 1" in late.output
    done = CliRunner().invoke(cli, [*words, "--minutes", "5", "--resume"])
    assert done.exit_code == 0
    assert "left" not in done.output
    assert len(list(unmeasured.glob("runs/*/sft-S-*/result.json"))) == 2


def test_what_reuse_saved_is_a_sum_of_known_joules_or_is_said_to_be_unknown() -> None:
    def result(*joules: float | None) -> dict[str, Any]:
        saved = [{"stage": "teacher.logits", "total_j": j, "origin": "measured"} for j in joules]
        return {"pipeline": "kd", "student": "S", "exact_match": 0.5, "saved": saved}

    assert list(summary([result(2.0), result(3.5)]))[-1] == (
        "reused teacher.logits: 2 × not made again, which saved 5.5 J (measured)"
    )
    assert list(summary([result(2.0), result(None)]))[-1].endswith("which saved unknown energy")
    assert "reused" not in "".join(summary([result()]))


LEARN = """
import os, sys
import energyd_pipelines.cli
early = "torch" in sys.modules  # then libgomp would not hear of it any more
import torch
from importlib import import_module
from pathlib import Path
from energyd_pipelines.config import load
from energyd_pipelines.grid import run_grid
sft = import_module("energyd_pipelines.recipes.sft")

def learn(*args, learn=sft.learn, **named):
    before = len(sys.modules)
    learn(*args, **named)
    print("imported", len(sys.modules) - before)
    print("threads", torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], early)

sft.learn = learn
run_grid(load("quick", {words!r}), "quick", Path("study"))
"""


def test_the_first_cell_does_not_bear_the_imports_of_all_and_no_thread_spins(unmeasured: Path) -> None:
    code = LEARN.format(words=[*SMALLEST, "pipelines=[sft]"])
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "threads 1 PASSIVE False" in done.stdout
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("imported")]
    assert int(told.split()[1]) < 50  # transformers is 1500
