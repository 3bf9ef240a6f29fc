"""Is the generated lake one that daemons could have shipped, and is what the pages say of it current?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.figures import ROOT
from bench.fleet_cost import lines
from bench.lake_page import page
from bench.make_lake import DAY_S, make
from energyd.store.read import open_lake

FLEET = (ROOT / "docs" / "fleet.md").read_text()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    assert make(folder, hosts=2, devices=2, days=1) == 2 * 2 * DAY_S
    return folder


def test_every_energy_of_a_generated_lake_follows_from_its_samples(lake: Path) -> None:
    with open_lake(str(lake)) as reader:
        rows = reader.sql(
            "SELECT count(*), max(abs(energy_j(device, t0_ns, t1_ns) - energy_j)) FROM stage_energy"
        ).fetchall()
        (runs,) = reader.sql(
            "SELECT count(*), min(len(hosts)), bool_and(total_j > 0) FROM run_totals"
        ).fetchall()
    ((n, off),) = rows
    assert n == 4 * 5 * 2 * 2  # runs, stages, hosts, devices
    assert off < 1.5e-6
    assert runs == (4, 2, True)


def test_the_costs_on_the_page_are_those_of_the_command() -> None:
    told = FLEET.partition("<!-- cost begin")[2].partition("-->\n")[2].partition("<!-- cost end")[0]
    assert told.strip().splitlines() == lines(1000, 8)


def test_the_page_of_answers_is_that_of_its_figures() -> None:
    assert (ROOT / "docs" / "results" / "lake.md").read_text() == page() + "\n"
    found = json.loads((ROOT / "docs" / "results" / "lake.json").read_text())
    assert found["failed"] is None
