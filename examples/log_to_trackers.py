"""How do a run's joules get into Weights & Biases or MLflow? One call once the run is over.

    energyd start --store ./store      # and export what it prints
    python examples/log_to_trackers.py mlflow     # or: wandb

Needs `pip install 'energyd[analysis]'` and mlflow or wandb. Without a server: WANDB_MODE=offline, or
MLFLOW_TRACKING_URI=file:./mlruns and MLFLOW_ALLOW_FILE_STORE=true.
"""

from __future__ import annotations

import sys
import time

import energyd_client as energy
from energyq.trackers import log_mlflow, log_wandb


def work() -> str:
    """Something to be measured; returns the run's id."""
    with energy.run("tracked", pipeline="pretrain") as run:
        with run.stage("train") as stage:
            time.sleep(0.5)
            stage.count(positions=1000)
        for _ in range(2):
            with run.stage("evaluate"):
                time.sleep(0.2)
    energy.flush()
    return run.run_id


def main(tracker: str) -> None:
    """Work, then log."""
    if tracker == "wandb":
        import wandb

        with wandb.init(project="energyd-example"):
            metrics = log_wandb(work())
    else:
        import mlflow

        with mlflow.start_run(run_name="energyd-example"):
            metrics = log_mlflow(work())
    for name, value in metrics.items():
        print(f"{name} {value:.6g}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mlflow")
