"""Are two runs of one real load called different? An H100's power through 62 s of training a 1B model.

The ring's samples, as docs/results/accuracy-h100 keeps them, are replayed through a daemon. A run is three
whole steps; neighbours in time are pairs of one and the same load.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from energyd.store.read import open_reader
from energyq.compare import compare
from made_once import made_once
from real_daemon import Daemon

RECORDED = Path(__file__).parents[2] / "docs" / "results" / "accuracy-h100" / "train-1b.npz"
PAIRS, STEPS = 20, 3
MS, S = 1_000_000, 1_000_000_000


def step_ns(t_ns: np.ndarray, power_mw: np.ndarray) -> int:
    """The training step's length: the lag between 0.3 and 0.6 s at which power resembles itself most."""
    grid = np.arange(t_ns[0], t_ns[-1], 5 * MS)
    power = np.interp(grid, t_ns, power_mw)
    power -= power.mean()
    lags = range(300 // 5, 600 // 5)
    return 5 * MS * max(lags, key=lambda k: float(np.mean(power[k:] * power[:-k])))


def record(folder: Path) -> list[dict[str, int | str]]:
    """A trace to replay, with a window for each run."""
    with np.load(RECORDED) as recorded:
        t_ns, power_mw = recorded["ring_t_ns"], recorded["ring_mw"]
    steady = (t_ns > t_ns[0] + 4 * S) & (t_ns < t_ns[-1] - 6 * S)
    run_ns = STEPS * step_ns(t_ns[steady], power_mw[steady])
    first = int(t_ns[steady][0] - t_ns[0])
    windows: list[dict[str, int | str]] = [
        {"name": f"run-{k:02}", "begin_ns": first + k * run_ns, "end_ns": first + (k + 1) * run_ns}
        for k in range(2 * PAIRS)
    ]
    assert windows[-1]["end_ns"] < t_ns[steady][-1] - t_ns[0]
    # The same once more, with 3 % more power: what must be seen.
    length = int(t_ns[-1] - t_ns[0]) + 20 * MS
    windows += [
        {"name": f"more-{k:02}", "begin_ns": int(w["begin_ns"]) + length, "end_ns": int(w["end_ns"]) + length}
        for k, w in enumerate(windows)
    ]
    t_ns = np.concatenate((t_ns, t_ns + length))
    power_mw = np.concatenate((power_mw, np.rint(power_mw * 1.03).astype(power_mw.dtype)))
    (folder / "windows.json").write_text(json.dumps(windows))
    with gzip.open(folder / "ring.csv.gz", "wt") as file:
        file.write("t_ns,power_mw\n")
        file.writelines(f"{t},{p}\n" for t, p in zip(t_ns - t_ns[0], power_mw, strict=True))
    return windows


def replayed(folder: Path) -> Path:
    record(folder)
    daemon = Daemon(folder, {}).start("--speed", "40", source=f"replay:{folder}", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(timeout=60) == 0, daemon.log.read_text()
    return daemon.store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the daemon has made of that trace. At rest: nobody writes to it."""
    made: Path = made_once(tmp_path_factory, "recorded", replayed)
    return made


def verdicts(store: Path, pairs: list[tuple[str, str]]) -> tuple[int, int]:
    """How many pairs compare calls different: as programs, and as these executions alone."""
    with open_reader(store) as reader:
        (run,) = reader.sql("SELECT run_id FROM runs").dicts()
        sides = [[f"{run['run_id']}/{stage}" for stage in pair] for pair in pairs]
        told = [compare(reader, a, b, 0.005) for a, b in sides]
    assert {c.significant for c in told} <= {True, False}
    return sum(bool(c.significant) for c in told), sum(bool(c.executions_differ) for c in told)


def test_of_twenty_pairs_of_one_recorded_training_load_at_most_three_are_called_different(
    store: Path,
) -> None:
    significant, executions = verdicts(
        store, [(f"run-{2 * k:02}", f"run-{2 * k + 1:02}") for k in range(PAIRS)]
    )
    assert significant <= 3
    assert executions <= 3


def test_nor_are_runs_of_it_that_lie_half_a_minute_apart(store: Path) -> None:
    pairs = [(f"run-{k:02}", f"run-{k + PAIRS:02}") for k in range(0, PAIRS, 2)]
    significant, _ = verdicts(store, pairs)
    assert significant <= 1


def test_three_percent_more_power_is_seen_in_most_single_pairs(store: Path) -> None:
    pairs = [(f"run-{k:02}", f"more-{k:02}") for k in range(0, PAIRS, 2)]
    significant, executions = verdicts(store, pairs)
    assert significant > len(pairs) / 2
    assert executions > len(pairs) / 2
