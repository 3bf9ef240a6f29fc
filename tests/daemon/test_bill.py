"""Does a bill add up only what may be added, and say why it does not?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from energyd.bill import lines
from energyd_client.bill import bill


def device(number: int, domain: str, origin: str = "measured") -> dict[str, Any]:
    return {"device": number, "domain": domain, "origin": origin}


def energy(number: int, energy_j: float | None, **more: Any) -> dict[str, Any]:
    energy_uj = None if energy_j is None else int(energy_j * 1e6)
    row = {
        "device": number, "energy_uj": energy_uj, "u_random_uj": 3_000_000,
        "u_total_uj": 5_000_000, "coverage": 1.0, "source": "ring", "flags": [], "reason": None,
        "overlap_ns": 0, "t0_ns": 0, "t1_ns": 10_000_000_000,
    }  # fmt: skip
    return row | more


def status(devices: list[dict[str, Any]], **states: tuple[str, str | None]) -> dict[str, Any]:
    domains = [{"domain": d, "state": s, "reason": r} for d, (s, r) in states.items()]
    return {"devices": devices, "domains": domains}


def cost(*energies: dict[str, Any]) -> dict[str, Any]:
    return {"state": "final", "energies": list(energies)}


TWO = status([device(0, "gpu"), device(1, "gpu"), device(2, "cpu", "estimated")], dram=("absent", "no RAPL"))


def test_doubts_of_boards_add_as_squares_and_the_estimated_share_is_told() -> None:
    found = bill(10, TWO, cost(energy(0, 100), energy(1, 200), energy(2, 100, source="codecarbon")), None)
    assert found.total_j == 400
    assert found.estimated_share == 0.25
    assert found.mean_w == 40
    assert found.u_random_j == pytest.approx(3 * math.sqrt(3))
    assert found.u_total_j == pytest.approx(5 * math.sqrt(3))
    gpu, cpu, dram = found.parts
    assert (gpu.energy_j, gpu.u_total_j) == (300, pytest.approx(5 * math.sqrt(2)))
    assert (cpu.origin, dram.reason) == ("estimated", "absent: no RAPL")


def test_the_common_doubt_of_cpu_packages_adds_linearly() -> None:
    packages = status([device(0, "cpu"), device(1, "cpu")], gpu=("absent", None))
    found = bill(10, packages, cost(energy(0, 10), energy(1, 10)), None)
    assert found.u_total_j == pytest.approx(math.sqrt(2 * 3**2 + (4 + 4) ** 2))


def test_one_unknown_energy_makes_the_total_unknown_with_its_reason() -> None:
    lost = energy(1, None, reason="gap_without_counter", u_random_uj=None, u_total_uj=None)
    found = bill(10, TWO, cost(energy(0, 100), lost, energy(2, 100)), None)
    assert (found.total_j, found.u_total_j, found.mean_w) == (None, None, None)
    assert found.reason == "gpu: gap_without_counter"
    assert any("–" in line and "gap_without_counter" in line for line in lines(found))


def test_a_domain_that_may_not_be_read_makes_the_total_unknown_and_an_absent_one_does_not() -> None:
    only_gpu = [device(0, "gpu")]
    denied = bill(10, status(only_gpu, cpu=("unreadable", "RAPL needs root")), cost(energy(0, 100)), None)
    assert (denied.total_j, denied.reason) == (None, "cpu: unreadable: RAPL needs root")
    without = bill(10, status(only_gpu, cpu=("absent", "none here")), cost(energy(0, 100)), None)
    assert (without.total_j, without.reason) == (100, None)


def test_without_a_daemon_or_a_final_figure_nothing_is_0() -> None:
    for found in (bill(10, None, None, None), bill(10, TWO, {"state": "ended", "energies": []}, None)):
        assert found.total_j is None
        assert found.reason
        assert {p.energy_j for p in found.parts} == {None}
        assert " 0 J" not in "\n".join(lines(found))


def test_idling_is_told_only_where_the_baseline_can_serve() -> None:
    rows = (energy(0, 300), energy(1, 300), energy(2, 100))
    rest = (energy(0, 50), energy(1, 60), energy(2, 40))
    assert bill(20, TWO, cost(*rows), cost(*rest)).idle_j == pytest.approx(20 * 15)
    short = energy(1, 60, flags=["too_short"])
    assert bill(20, TWO, cost(*rows), cost(rest[0], short, rest[2])).idle_j is None
    assert bill(20, TWO, cost(*rows), cost(rest[0], rest[2])).idle_j is None
