"""Does the demo learn what it says, and run just the same when nobody measures?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from energyd_pipelines.demo import ASK, END, LENGTH, LETTERS, PAD, SHAPES, Transformer, make_corpus, tokenise


def demo(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "energyd_pipelines.demo", *options],
        env={k: v for k, v in os.environ.items() if not k.startswith("ENERGYD_")} | more,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def letters(tokens: list[int]) -> str:
    return "".join({PAD: "_", ASK: ">", END: "."}.get(t) or LETTERS[t - 3] for t in tokens)


def test_only_the_answer_is_a_label() -> None:
    tokens, labels = tokenise(["tona"])
    assert letters(tokens[0].tolist()) == "tona>anot." + "_" * (LENGTH - 10)
    assert letters(labels[0].tolist()) == "____anot." + "_" * (LENGTH - 9)


def test_a_seed_gives_the_same_corpus_again() -> None:
    assert make_corpus(50, 7) == make_corpus(50, 7) != make_corpus(50, 8)


def test_a_position_sees_nothing_that_comes_after_it() -> None:
    model = Transformer(SHAPES["cpu"]).eval()
    (whole, changed), _ = tokenise(["tona", "toni"])
    differing = model(whole[None]) - model(changed[None])
    assert differing[0, :3].abs().max() < 1e-5
    assert differing[0, 3].abs().max() > 1e-3


def test_without_a_daemon_it_runs_unmeasured_and_says_so_once(tmp_path: Path) -> None:
    nobody = f"ipc://{tmp_path}/nobody.sock"
    result = demo("--seconds", "2", "--device", "cpu", ENERGYD_ENDPOINT=nobody, ENERGYD_SPOOL=str(tmp_path))
    assert result.returncode == 0, result.stderr
    told = [line.split()[0] for line in result.stdout.splitlines()]
    assert list(dict.fromkeys(told)) == ["prerun", "preprocess", "train", "checkpoint", "evaluate"]
    assert "\x1b" not in result.stdout
    assert result.stderr.count("not measured") == 1


def test_when_switched_off_it_says_nothing_of_energy() -> None:
    result = demo("--seconds", "0.5", "--device", "cpu", ENERGYD_DISABLE="1")
    assert result.returncode == 0, result.stderr
    assert "exact_match" in result.stdout
    assert result.stderr == ""


def test_a_senseless_duration_is_a_usage_error() -> None:
    result = demo("--seconds", "0")
    assert result.returncode == 2
    assert "more than 0" in result.stderr
