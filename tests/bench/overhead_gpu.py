"""How much longer does a training step take when energyd measures it, on a GPU?

    python3 tests/bench/overhead_gpu.py --raw DIR/overhead.json > docs/results/overhead-h100.md    (7 minutes)
    python3 tests/bench/overhead_gpu.py --again A.json B.json > …       one page of several calls

The 1B student of the true-shape study trains without a pause; from block to block it is measured or not:
`bare` twice and `measured` once a round, in random order. In a measured block each step is a stage with
counts, spooled and sent to a daemon that samples the GPU; in a bare block there are no stages and the daemon
is stopped (SIGSTOP), as if it were not there. The first steps after a change, in which the client finds the
daemon again and it catches up, are not timed, in every block alike; the GPU is never left idle, since after
a pause it runs faster for a while than its power limit allows. Every timed step counts.
`--pretend` rehearses on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accuracy import paths
from bench.accuracy.store import Daemon

sys.path.insert(0, str(paths.ROOT / "pipelines"))

KINDS: Final = ("bare", "again", "measured")
SETTLE_STEPS: Final = 4  # 0.9 s
DRAWS: Final = 20_000


class Training:
    """The loop that is timed."""

    def __init__(self, *, pretend: bool) -> None:
        import torch

        from energyd_pipelines import h100_data
        from energyd_pipelines.h100_config import load
        from energyd_pipelines.h100_students import Student
        from energyd_pipelines.losses import ce
        from energyd_pipelines.shapes import shape_of

        self.torch = torch
        config = load([f"pretend={str(pretend).lower()}", "sequences=8", "checkpointing=false"])
        self.device = torch.device("cpu" if pretend else "cuda")
        shape = shape_of(config.sizes[0])
        micro = config.micro or config.sequences
        data = h100_data.dataset(config, shape.vocab)
        student = Student(config, shape, self.device, micro=micro)
        # One kernel for all weights: Adafactor's thousands keep the GPU waiting for the CPU, whose jitter
        # made two bare loops differ by 2 % (docs/results/overhead-h100.md says what it is here).
        student.optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-5, fused=not pretend)
        self._steps = student.train(ce, h100_data.batches(data, micro, None, 1.0, self.device))
        self.words = f"{shape.name}, {config.sequences} x {config.length} positions a step"
        self.machine = "no GPU (pretended)" if pretend else torch.cuda.get_device_name(0)

    def bare(self) -> None:
        """One step."""
        next(self._steps)

    def measured(self, run: Any) -> None:
        """One step that is a stage."""
        with run.stage("step") as stage:
            work = next(self._steps)
            stage.count(**work.units())

    def wait(self) -> None:
        """Until the GPU is done."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()


def block(training: Training, run: Any, kind: str, steps: int, daemon: Daemon) -> list[float]:
    """Seconds of each step."""
    import energyd_client

    def step() -> None:
        if kind == "measured":
            training.measured(run)
        else:
            training.bare()

    if kind == "measured":
        daemon.signal(signal.SIGCONT)
    for _ in range(SETTLE_STEPS):
        step()
    if kind != "measured":
        energyd_client.flush(2)  # all is acknowledged by now: else the client would take the stop for an end
        daemon.signal(signal.SIGSTOP)
    times = []
    training.wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
        training.wait()  # the step itself waits for its loss
        ended = time.perf_counter()
        times.append(ended - began)
        began = ended
    return times


def ratio(over: np.ndarray, under: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """(ratio, low, high): the mean of paired logarithms of rounds, and its 95 % bootstrap interval."""
    logs = np.log(over / under)
    dice = np.random.default_rng(seed)
    means = logs[dice.integers(0, len(logs), (DRAWS, len(logs)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def stored(store: Path) -> tuple[int, int]:
    """(step stages, those with energy) in the daemon's store."""
    from energyd.store.read import open_reader

    query = (
        "SELECT count(*), count(energy_j) FROM stage_energy WHERE stage = 'step' AND domain IN ('gpu', 'cpu')"
    )
    with open_reader(store) as reader:
        rows, with_energy = reader.sql(query).fetchall()[0]
        return int(rows), int(with_energy)


def page(raws: list[dict[str, Any]]) -> str:
    """The report of one call or of several."""
    raw = raws[0]
    blocks = {kind: [np.array(b) for r in raws for b in r["s_per_step"][kind]] for kind in KINDS}
    lines = [
        "# What measuring adds to a training step on a GPU",
        "",
        f"Generated by `tests/bench/overhead_gpu.py` on {raw['machine']} ({raw['cores']} cores, torch "
        f"{raw['torch']}), {raw['began']}, in {sum(r['seconds'] for r in raws):.0f} s, {len(raws)} call(s).",
        f"Step: {raw['step']}, AdamW (fused), bf16; {len(blocks['bare'])} rounds of {len(KINDS)} blocks of",
        f"{raw['steps']} steps, the GPU busy throughout.",
        "",
        "| | ratio of step times | 95 % interval (bootstrap over rounds) |",
        "|---|---|---|",
    ]
    bounds = {}
    for words, of_block in (("mean", np.mean), ("median", np.median)):
        times = {kind: np.array([of_block(b) for b in blocks[kind]]) for kind in KINDS}
        bare = np.sqrt(times["bare"] * times["again"])  # both of a round
        for what, over, under in (
            ("measured / bare (stage, count, spool, daemon at 50 Hz)", times["measured"], bare),
            ("control: bare / bare", times["again"], times["bare"]),
        ):
            middle, low, high = ratio(over, under)
            bounds.setdefault(words, high)
            lines.append(f"| {what}, {words} of a block | {middle:.5f} | {low:.5f} to {high:.5f} |")
    lines += ["", "| block | median step, ms | p5 to p95 over steps | steps |", "|---|---|---|---|"]
    for kind in KINDS:
        steps = np.concatenate(blocks[kind])
        low, middle, high = 1e3 * np.percentile(steps, [5, 50, 95])
        lines.append(f"| {kind} | {middle:.3f} | {low:.3f} to {high:.3f} | {len(steps):,} |")
    rows, with_energy = (sum(r["stored"][i] for r in raws) for i in range(2))
    lines += [
        "",
        f"The daemon stored {rows:,} rows of step energies, {with_energy:,} of them with a figure. While it "
        "was stopped it sampled nothing, as on a machine without energyd.",
        "",
    ]
    for words, high in bounds.items():
        verdict = "below" if high < raw["limit"] else "NOT below"
        lines.append(f"Upper bound, {words} of a block: {high:.5f}, {verdict} {raw['limit']}.  ")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All blocks."""
    folder = Path(tempfile.mkdtemp(prefix="ovh"))
    paths.export()
    began, at = time.monotonic(), time.strftime("%Y-%m-%d", time.gmtime())
    daemon = Daemon(folder, folder / "log")
    times: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    try:
        daemon.wait()
        import energyd_client

        training = Training(pretend=options.pretend)
        run = energyd_client.run("overhead").begin()
        for _ in range(5):
            training.measured(run)
        training.wait()
        since = time.perf_counter()
        for _ in range(5):
            training.bare()
        training.wait()
        steps = max(2, round(options.block_s / ((time.perf_counter() - since) / 5)))
        dice = random.Random(0)
        for _ in range(options.rounds):
            if time.monotonic() - began > 60 * options.minutes:
                break  # whole rounds only; the page says how many
            for kind in dice.sample(KINDS, len(KINDS)):
                times[kind].append(block(training, run, kind, steps, daemon))
        daemon.signal(signal.SIGCONT)
        run.end()
        energyd_client.flush(10)
        time.sleep(3)  # the last samples must follow the last stage
        rows = stored(daemon.store)
    finally:
        daemon.signal(signal.SIGCONT)
        daemon.stop()
    return {
        "machine": training.machine, "cores": os.cpu_count(), "torch": training.torch.__version__,
        "python": platform.python_version(), "began": at, "seconds": time.monotonic() - began,
        "step": training.words, "steps": steps, "s_per_step": times, "stored": rows,
        "limit": 1.003,
    }  # fmt: skip


def main() -> int:
    """Measure, or read what was measured, and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretend", action="store_true", help="no GPU: a rehearsal")
    parser.add_argument("--rounds", type=int, default=70)
    parser.add_argument("--block-s", type=float, default=1.1)
    parser.add_argument("--minutes", type=float, default=8.0, help="no round begins later")
    parser.add_argument("--raw", type=Path, help="keep every step's time there")
    parser.add_argument("--again", type=Path, nargs="+", help="no measuring: the page of what --raw kept")
    options = parser.parse_args()
    raws = [json.loads(p.read_text()) for p in options.again] if options.again else [measure(options)]
    if options.raw:
        options.raw.parent.mkdir(parents=True, exist_ok=True)
        options.raw.write_text(json.dumps(raws[0]))
    print(page(raws))
    return 0


if __name__ == "__main__":
    sys.exit(main())
