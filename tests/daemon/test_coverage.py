"""Does a stage's stated random doubt hold the truth, without being lazily wide?"""

from __future__ import annotations

import numpy as np
import pytest

from daemon.closed_form import MS, SENSOR_NS, S, random_load
from daemon.coverage import LENGTH_NS, SOURCES, energies, info, measure


@pytest.mark.parametrize("source", SOURCES)
def test_the_stated_random_doubt_holds_the_truth_and_is_not_lazily_wide(source: str) -> None:
    coverage = measure(source, 500)
    assert len(coverage.u_j) >= 2000
    assert coverage.lower_bound >= 0.93, coverage.share
    assert coverage.width <= 3


def test_instant_power_of_a_load_at_its_own_period_is_flagged_aliased_where_a_counter_exists() -> None:
    rng = np.random.default_rng(2)
    device = info("instant", SENSOR_NS, 500 * MS, SENSOR_NS // 2, has_counter=True)
    off = held = 0
    for _ in range(80):
        load = random_load(rng, LENGTH_NS, near_s=0.1 * rng.uniform(0.998, 1.002))
        windows = [(5 * S, 15 * S), (8 * S, 34 * S)]
        for row, (a, b) in zip(energies(rng, device, load, windows), windows, strict=True):
            truth_uj = float(load.energy_j(b) - load.energy_j(a)) * 1e6
            if abs(row["integral_uj"] - truth_uj) > 0.03 * truth_uj:
                off += 1
                assert "aliased" in row["flags"], row
                assert row["method"] == "counter"
                assert "instant integral" in row["note"]
                held += abs(row["energy_uj"] - truth_uj) <= row["u_random_uj"]
            else:  # a sensor whose window is its period sees everything
                assert abs(row["energy_uj"] - truth_uj) <= 0.035 * truth_uj
    assert off >= 60
    assert held / off > 0.9
