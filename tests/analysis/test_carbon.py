"""Is gCO2e the energy times what CodeCarbon's own table says, with the doubt carried and nothing assumed?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.conftest import ENV
from analysis.energy_store import MS, T0, S, Store

Energyq = Callable[..., "subprocess.CompletedProcess[str]"]
FRANCE = 56.039


@pytest.fixture
def root(store: Store) -> Path:
    """One run of 3.6 kJ (1 Wh), known to 5 %, and one still open."""
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.doubts[0] = (0.01, 0.05)
    store.power(0, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t: 180_000)
    store.run("r1", "kd", T0, T0 + 30 * S)
    store.stage("r1", "s1", "train", T0 + S, T0 + 21 * S)
    store.run("r2", "later", T0 + 30 * S, None)
    store.stage("r2", "s2", "train", T0 + 40 * S, None)
    return store.write()


def test_grams_are_kwh_times_pue_times_the_regions_factor_with_the_energys_doubt(
    root: Path, energyq: Energyq
) -> None:
    done = energyq("carbon", "kd", "--store", root, "--region", "FRA", "--pue", "1.2", "--price",
                   "0.30EUR/kWh", "--format", "json")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    [row] = json.loads(done.stdout)
    assert row["energy_kwh"] == pytest.approx(0.0012)
    assert row["co2e_g"] == pytest.approx(0.0012 * FRANCE)
    assert row["u_co2e_g"] == pytest.approx(0.05 * 0.0012 * FRANCE)
    assert (row["cost"], row["u_cost"]) == (pytest.approx(0.00036), pytest.approx(0.05 * 0.00036))
    assert (row["region"], row["factor_g_per_kwh"], row["factor_year"], row["currency"]) == (
        "FRA",
        FRANCE,
        2023,
        "EUR",
    )
    assert row["factor_source"].startswith("CodeCarbon ")


def test_the_text_names_factor_year_source_pue_and_what_the_doubt_leaves_out(
    root: Path, energyq: Energyq
) -> None:
    done = energyq("carbon", "kd", "--store", root, "--format", "table", ENERGYQ_REGION="france")
    assert done.returncode == 0
    assert "factor: 56.039 gCO2e/kWh (France 2023, a yearly mean, CodeCarbon" in done.stdout
    assert "PUE: 1 (none was given" in done.stdout
    assert "the factor's own doubt is not known and not in it" in done.stdout
    assert "r1 kd 0.001000 0.05604 0.0028" in " ".join(done.stdout.split())


def test_an_unknown_energy_stays_null_with_its_reason_and_exits_4(root: Path, energyq: Energyq) -> None:
    done = energyq("carbon", "later", "--store", root, "--region", "USA", "--format", "json")
    assert done.returncode == 4
    [row] = json.loads(done.stdout)
    assert (row["co2e_g"], row["u_co2e_g"], row["reason"]) == (None, None, "gpu: open")
    table = energyq("carbon", "all", "--store", root, "--region", "USA", "--format", "table")
    assert (table.returncode, "unknown for later: gpu: still open" in table.stdout) == (4, True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "no region"),
        (["--region", "FRX"], "FRA (France)"),
        (["--region", "Germny"], "such as DEU (Germany)"),
        (["--region", "FRA", "--price", "cheap"], "not a price: 'cheap'"),
        (["--region", "FRA", "--pue", "0.5"], "0.5 is not in the range x>=1"),
    ],
)
def test_a_region_or_price_that_makes_no_sense_is_refused_with_a_cure(
    options: list[str], why: str, root: Path, energyq: Energyq
) -> None:
    done = energyq("carbon", "kd", "--store", root, *options, ENERGYQ_REGION="")
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_a_factor_is_what_codecarbon_itself_answers_offline() -> None:
    script = (
        "import logging; from energyq.factors import factor_of\n"
        "from codecarbon.core.emissions import Emissions; from codecarbon.core.units import Energy\n"
        "from codecarbon.external.geography import GeoMetadata; from codecarbon.input import DataSource\n"
        "import codecarbon.core.units\n"
        "own = Emissions(DataSource())\n"
        "for code in ('FRA', 'DEU', 'CHN', 'IND', 'POL'):\n"
        "    mine = factor_of(code)\n"
        "    geo = GeoMetadata(country_iso_code=code, country_name=mine.country)\n"
        "    kg = own.get_private_infra_emissions(Energy.from_energy(kWh=1), geo)\n"
        "    print(code, abs(1000 * kg - mine.g_per_kwh) < 1e-9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENV, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[-5:]] == [
        [code, "True"] for code in ("FRA", "DEU", "CHN", "IND", "POL")
    ]


def test_codecarbon_is_read_not_imported_and_without_it_the_cure_is_named(root: Path) -> None:
    script = (
        "import sys; import importlib.util as u; from energyq.cli import main; real = u.find_spec\n"
        f"code = main(['carbon', 'kd', '--store', {str(root)!r}, '--region', 'FRA', '--format', 'csv'])\n"
        "print(code, sorted({'codecarbon', 'pandas', 'pynvml'} & set(sys.modules)))\n"
        "import energyq.factors as f; f.find_spec = lambda name: None\n"
        f"sys.exit(main(['carbon', 'kd', '--store', {str(root)!r}, '--region', 'FRA']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENV, check=False
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.returncode == 78
    assert "CodeCarbon, which is not installed" in done.stderr
    assert "pip install" in done.stderr
