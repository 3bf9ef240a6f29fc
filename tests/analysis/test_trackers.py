"""What is logged into a tracker where the store knows something, and where it does not?"""

from __future__ import annotations

import pytest

from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import ReadError
from energyq.trackers import MAX_PATHS, figures


def machine(store: Store, cpu_state: str) -> Store:
    """A GPU at 200 W, and a CPU that is absent or unreadable."""
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + 30 * S + 1, 20 * MS), lambda t: 200_000)
    store.domain("cpu", cpu_state, None, "energy_uj is for root only")
    store.domain("dram", "absent", None, "no dram zone")
    store.run("r1")
    return store


def test_an_energy_that_is_not_known_is_left_out_and_the_reason_is_logged(store: Store) -> None:
    machine(store, "unreadable").stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    metrics, texts = figures("r1", store=store.write())
    assert metrics["energy/train/gpu_joules"] == 2000
    assert not {"energy/joules", "energy/train/joules", "energy/train/mean_watts"} & set(metrics)
    assert texts["energy/reason"] == "cpu: unreadable, energy_uj is for root only"


def test_stages_of_one_path_are_added_up(store: Store) -> None:
    machine(store, "absent")
    store.stage("r1", "s1", "evaluate", T0 + 1 * S, T0 + 2 * S)
    store.stage("r1", "s2", "evaluate", T0 + 5 * S, T0 + 7 * S)
    metrics, texts = figures("r1", store=store.write())
    assert metrics["energy/evaluate/joules"] == 600
    assert metrics["energy/evaluate/seconds"] == 3
    assert metrics["energy/evaluate/mean_watts"] == 200
    assert metrics["energy/joules"] == 600
    assert texts["energy/sources"] == "gpu ring"


def test_a_run_with_a_stage_a_step_does_not_flood_its_tracker_and_says_what_is_left_out(
    store: Store,
) -> None:
    machine(store, "absent")
    for i in range(MAX_PATHS + 5):
        store.stage("r1", f"s{i}", f"step {i}", T0 + (i + 1) * 100 * MS, T0 + (i + 2) * 100 * MS)
    metrics, texts = figures("r1", store=store.write())
    assert sum(name.endswith("/joules") for name in metrics) == MAX_PATHS + 1
    assert texts["energy/left_out"].startswith("5 stages")


def test_a_run_that_is_not_there_is_an_error_with_its_cure(store: Store) -> None:
    with pytest.raises(ReadError, match=r"no run nobody(.|\n)*cure"):
        figures("nobody", store=machine(store, "absent").write(), timeout_s=0)
