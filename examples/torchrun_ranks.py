"""What does training on several ranks of a machine cost, each joule and each token counted once?

    energyd start --store ./store      # and export what it prints
    python examples/torchrun_ranks.py  # starts torchrun on itself, inside of a stage
    energyq --store ./store stages

The daemon measures the machine, once. The stage around torchrun is charged all that its ranks burn; a stage
of a rank is a child of it, charged its own GPU, and what the ranks count adds up in the stage around them.
Needs `pip install torch`. Two ranks by gloo, on the CPU where there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch
import torch.distributed as dist

import energyd_client as energy

STEPS, BATCH, LENGTH = 20, 4, 32


def launch(ranks: int = 2) -> int:
    """Run the ranks inside of one stage; they find it by their environment."""
    with energy.run("ranks", pipeline="pretrain"), energy.stage("train"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return subprocess.run([*command, f"--nproc-per-node={ranks}", __file__], check=False).returncode


def rank() -> None:
    """One rank's share of the training."""
    dist.init_process_group("gloo")
    on = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else "cpu"
    weights = torch.randn(64, 64, device=on)
    with energy.stage(f"rank {dist.get_rank()}", devices=on if on != "cpu" else None) as stage:
        for _ in range(STEPS):
            gradient = torch.randn(BATCH * LENGTH, 64, device=on).mm(weights).mean(0).cpu()
            dist.all_reduce(gradient)
            stage.count(positions=BATCH * LENGTH)  # its own tokens; the daemon adds them up
    dist.destroy_process_group()


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:
        rank()
    else:
        sys.exit(launch())
