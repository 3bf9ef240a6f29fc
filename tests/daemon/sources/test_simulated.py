"""Are the simulated joules exact?"""

from __future__ import annotations

import time

import numpy as np
import pytest

from energyd.sources import CounterRead, PowerSamples, SourceError
from energyd.sources.discover import discover
from energyd.sources.simulated import CURVES, GRID_NS, SimulatedSource, energy_j

SECOND = 1_000_000_000
LATE_NS = 40 * 86_400 * SECOND  # a machine that has been up for 40 days


@pytest.mark.parametrize("uuid", CURVES)
@pytest.mark.parametrize("t0_ns", [0, 123_456_789, LATE_NS + 987_654_321])
def test_the_exact_energy_is_the_integral_of_the_power(uuid, t0_ns):
    t1_ns = t0_ns + 7_654_321_012
    t_ns = t0_ns + np.arange(0, t1_ns - t0_ns, 10_000, dtype=np.int64)
    middle_w = CURVES[uuid].power_mw(t_ns + 5_000) / 1000
    assert energy_j(uuid, t0_ns, t1_ns) == pytest.approx(float(np.sum(middle_w)) * 1e-5, rel=1e-4)


def test_the_curves_have_their_closed_form_values():
    assert energy_j("simulated:cpu-0", 0, 10 * SECOND) == pytest.approx(650)
    assert energy_j("simulated:gpu-0", 0, 10 * SECOND) == pytest.approx(3000)
    assert energy_j("simulated:gpu-0", 0, 5 * SECOND) == pytest.approx(1500 + 150 * 10 / np.pi)
    assert energy_j("simulated:gpu-1", 0, SECOND) == pytest.approx(600)
    assert energy_j("simulated:gpu-1", SECOND // 2, 3 * SECOND // 2) == pytest.approx(350)
    assert energy_j("simulated:gpu-2", 0, SECOND) == pytest.approx(200)
    assert energy_j("simulated:gpu-2", 0, 4 * SECOND) == pytest.approx(1200)


def test_samples_lie_on_the_grid_and_a_trapezoid_over_them_is_the_exact_energy():
    source = SimulatedSource()
    source.open()
    batches: dict[str, list[PowerSamples]] = {uuid: [] for uuid in CURVES}
    reads: list[CounterRead] = []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for event in source.read():
            if isinstance(event, PowerSamples):
                batches[event.uuid].append(event)
            elif isinstance(event, CounterRead):
                reads.append(event)
        time.sleep(0.05)
    for uuid, events in batches.items():
        t_ns = np.concatenate([e.t_ns for e in events])
        power_mw = np.concatenate([e.power_mw for e in events]).astype(float)
        assert (np.diff(t_ns) == GRID_NS).all()
        joules = float(np.sum(power_mw[1:] + power_mw[:-1])) / 2 * GRID_NS / 1e12
        exact_j = source.energy_j(uuid, int(t_ns[0]), int(t_ns[-1]))
        edge_j = 500 * 0.02 / 2 if uuid == "simulated:gpu-1" else 0
        assert joules == pytest.approx(exact_j, rel=1e-5, abs=edge_j * 1.01)
    mine = [read for read in reads if read.uuid == "simulated:gpu-0"]
    assert len(mine) >= 2
    counted_j = (mine[-1].energy_mj - mine[0].energy_mj) / 1000
    assert counted_j == pytest.approx(energy_j("simulated:gpu-0", mine[0].t_ns, mine[-1].t_ns), abs=0.002)


def test_every_device_and_domain_is_marked_as_simulated():
    (source,) = discover("simulated")
    assert {info.origin for info in source.devices()} == {"simulated"}
    assert {info.domain: info.state for info in source.domains()} == {
        "gpu": "simulated",
        "cpu": "simulated",
        "dram": "absent",
    }


@pytest.mark.parametrize("spec", ["", "nvml", "replay", "replay:", "auto:x", "simulated:x", "Auto"])
def test_an_unknown_source_is_refused_with_the_choices(spec):
    with pytest.raises(SourceError, match="auto, replay:DIR and simulated"):
        discover(spec)


@pytest.mark.parametrize(
    ("spec", "speed"), [("auto", 2), ("simulated", 0.5), ("replay:x", 0), ("replay:x", -1)]
)
def test_a_speed_that_makes_no_sense_is_refused(spec, speed):
    with pytest.raises(SourceError, match="--speed"):
        discover(spec, speed=speed)
