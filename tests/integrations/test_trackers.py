"""Do Weights & Biases and MLflow hold the joules that the store holds?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from real_daemon import Daemon


def printed(text: str) -> dict[str, float]:
    """`energy/… NUMBER` lines of the example."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("energy/")]
    return {name: float(value) for name, value in lines}


def stored(daemon: Daemon) -> dict[str, float]:
    """What they should be, by SQL of its own."""
    rows = daemon.query("SELECT path, sum(total_j) AS j FROM stage_totals GROUP BY path")
    return {f"energy/{row['path']}/joules": row["j"] for row in rows}


def test_mlflow_keeps_each_stages_joules_in_its_files(daemon: Daemon, example: Callable[..., str]) -> None:
    files = daemon.store.parent / "mlruns"
    logged = printed(
        example("log_to_trackers.py", "mlflow", MLFLOW_TRACKING_URI=f"file:{files}",
                MLFLOW_ALLOW_FILE_STORE="true")
    )  # fmt: skip
    truth = stored(daemon)
    assert set(truth) == {"energy/train/joules", "energy/evaluate/joules"}
    for name, joules in truth.items():
        assert logged[name] == pytest.approx(joules, rel=1e-5)
        (file,) = files.glob(f"0/*/metrics/{name}")
        assert float(file.read_text().split()[1]) == pytest.approx(joules)
    assert logged["energy/train/joules_per_positions"] == pytest.approx(
        truth["energy/train/joules"] / 1000, rel=1e-5
    )
    (sources,) = files.glob("0/*/tags/energy.sources")
    assert "simulated" in sources.read_text()  # a number that is no measurement says so there too


def test_wandb_keeps_each_stages_joules_in_its_offline_file(
    daemon: Daemon, example: Callable[..., str]
) -> None:
    folder = daemon.store.parent / "w"
    folder.mkdir()
    logged = printed(
        example("log_to_trackers.py", "wandb", WANDB_MODE="offline", WANDB_DIR=str(folder),
                WANDB_SILENT="true", HOME=str(folder))
    )  # fmt: skip
    for name, joules in stored(daemon).items():
        assert logged[name] == pytest.approx(joules, rel=1e-5)
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert b"energy/train/joules" in file.read_bytes()
    assert b"simulated" in file.read_bytes()
