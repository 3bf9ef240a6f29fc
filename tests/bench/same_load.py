"""Are two runs of one load called different? Forty runs of the same training steps on the GPU, twenty pairs.

    python tests/bench/same_load.py measure DIR [--steps 16] [--pairs 20] [--pretend]
    python tests/bench/same_load.py judge DIR [--pairs 20]

`measure`: a daemon over a fresh store; each run trains a model of OLMo-2 1B's shape for a few steps (a stage
`train`, a stage `step` in it each), after a warm-up that is not counted. Then one run in which every other
step is made twice as long. The store is left in DIR. `judge`: `energyq compare` on pairs of neighbours in
time, on pairs of runs twenty apart, and on the run that is really different; prints a markdown report.
--pretend: a CPU's numbers, to try the script.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accuracy import paths
from bench.accuracy.store import Daemon


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("measure", "judge"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2, help="sequences of 2048 tokens a step")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--pretend", action="store_true")
    return parser.parse_args()


def step_of(pretend: bool, batch: int) -> Any:
    """One training step, finished when it returns."""
    if pretend:
        os.environ["ACCURACY_BENCH_TINY"] = "1"
    import torch

    from bench.accuracy import llm

    torch.manual_seed(1)
    model = llm._model(llm._config(2048, 16, 16, 16, 8192))
    model.train()
    model.config.use_cache = False
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=not pretend)
    shape = (2, 32) if pretend else (batch, 2048)
    device = next(model.parameters()).device

    def step() -> None:
        tokens = torch.randint(3, model.config.vocab_size, shape, device=device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        llm._wait()

    return step


def train(name: str, step: Any, steps: int, per_stage: int = 1) -> None:
    import energyd_client as energy

    with energy.run(name) as run, run.stage("train"):
        for k in range(steps):
            with run.stage("step"):
                for _ in range(per_stage if k % 2 else 1):
                    step()


def judge(store: Path, pairs: list[tuple[str, str]]) -> list[Any]:
    from energyd.store.read import open_reader
    from energyq.compare import compare

    with open_reader(store) as reader:
        return [compare(reader, a, b, 0.005) for a, b in pairs]


def measure(asked: argparse.Namespace) -> None:
    paths.export()
    scratch = Path(tempfile.mkdtemp(prefix="aa"))
    daemon = Daemon(scratch, scratch / "energyd.log")
    daemon.wait()
    step = step_of(asked.pretend, asked.batch)
    warm_until = time.monotonic() + (1 if asked.pretend else 10)
    while time.monotonic() < warm_until:  # kernels are chosen, memory is taken, the board warms up
        step()
    for number in range(2 * asked.pairs):
        train(f"same-{number:02}", step, asked.steps)
    train("more", step, asked.steps, per_stage=2)
    time.sleep(4)
    daemon.stop()
    shutil.copytree(daemon.store, asked.folder)


def report(store: Path, n_pairs: int) -> None:
    near = [(f"same-{2 * k:02}", f"same-{2 * k + 1:02}") for k in range(n_pairs)]
    far = [(f"same-{k:02}", f"same-{k + n_pairs:02}") for k in range(n_pairs)]
    print("| pairs | n | called different | differ beyond the doubt of measurement | ratio B/A |")
    print("|---|---|---|---|---|")
    for what, pairs in (("neighbours", near), (f"{n_pairs} runs apart", far)):
        told = judge(store, pairs)
        ratios = [c.ratio for c in told]
        significant = sum(bool(c.significant) for c in told)
        executions = sum(bool(c.executions_differ) for c in told)
        spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
        print(f"| {what} | {len(told)} | {significant} | {executions} | {spread} |")
    (more,) = judge(store, [("same-00", "more")])
    verdicts = f"{int(bool(more.significant))} | {int(bool(more.executions_differ))}"
    print(f"| half as much again | 1 | {verdicts} | {more.ratio:.4f} |")
    warned = sorted({w for c in told for w in c.warnings}) or "none"
    print(f"\njudged by: {told[0].basis}; warnings: {warned}")


def main() -> None:
    asked = options()
    if asked.what == "measure":
        measure(asked)
    else:
        report(asked.folder, asked.pairs)


if __name__ == "__main__":
    main()
