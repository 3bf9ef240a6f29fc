"""Do totals carry the doubt of their parts, and does net of idle carry its baseline's?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from math import hypot, sqrt
from pathlib import Path
from typing import Any

import pytest

from analysis.conftest import ENV, on_terminal
from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader

Energyq = Callable[..., "subprocess.CompletedProcess[str]"]


def one(root: Path, query: str) -> dict[str, Any]:
    with open_reader(root) as reader:
        [row] = reader.sql(query).dicts()
    return row


def stage_of(root: Path, stage_id: str) -> dict[str, Any]:
    return one(root, f"FROM stage_totals WHERE stage_id = '{stage_id}'")


def net_of(root: Path, stage_id: str, device: int = 0) -> dict[str, Any]:
    return one(root, f"FROM stage_net WHERE stage_id = '{stage_id}' AND device = {device}")


def machine(store: Store, gpus: int = 2, cpus: int = 1) -> Store:
    """GPUs of 200 W and CPUs of 50 W for a minute."""
    for number in range(gpus + cpus):
        domain = "gpu" if number < gpus else "cpu"
        store.device(number, domain)
        watts = 200_000 if domain == "gpu" else 50_000
        store.power(number, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t, mw=watts: mw)
    store.domain("gpu", "measured", "ring")
    store.domain("cpu", "measured" if cpus else "absent", "rapl" if cpus else None)
    store.domain("dram", "absent")
    store.run("r1")
    return store


def test_independent_random_and_systematic_parts_of_several_boards_add_as_a_root_of_squares(
    store: Store,
) -> None:
    machine(store).doubts.update({0: (0.03, 0.05), 1: (0.01, 0.02), 2: (0.0, 0.1)})
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = stage_of(store.write(), "s1")
    random = hypot(60.0, 20.0)
    systematic = sqrt((100**2 - 60**2) + (40**2 - 20**2) + 50**2)
    assert row["total_j"] == 4500.0
    assert row["u_random_j"] == pytest.approx(random)
    assert row["u_total_j"] == pytest.approx(hypot(random, systematic))


def test_cpu_packages_share_one_power_model_so_their_systematic_parts_add_linearly(store: Store) -> None:
    machine(store, gpus=0, cpus=2).doubts.update({0: (0.03, 0.05), 1: (0.03, 0.05)})
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = stage_of(store.write(), "s1")
    assert row["u_random_j"] == pytest.approx(hypot(15, 15))
    assert row["u_total_j"] == pytest.approx(hypot(15, 15, 2 * 20))


def test_one_doubt_that_is_not_stated_leaves_the_sum_without_one(store: Store) -> None:
    machine(store).doubts.update({0: (0.03, 0.05), 1: (0.01, 0.02)})
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = stage_of(store.write(), "s1")
    assert (row["total_j"], row["u_random_j"], row["u_total_j"]) == (4500.0, None, None)


def test_memory_is_no_part_of_the_total_and_its_doubt_neither(store: Store) -> None:
    machine(store, gpus=1, cpus=0).doubts[0] = (0.03, 0.05)
    store.device(1, "dram")
    store.power(1, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t: 10_000)
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = stage_of(store.write(), "s1")
    assert (row["total_j"], row["dram_j"], row["u_random_j"], row["u_total_j"]) == (
        2000.0,
        100.0,
        60.0,
        100.0,
    )


def test_pieces_of_one_device_add_random_parts_as_a_root_and_systematic_parts_linearly(store: Store) -> None:
    machine(store, gpus=1, cpus=0).doubts[0] = (0.03, 0.05)
    store.stage("r1", "a", "one", T0 + 10 * S, T0 + 20 * S)
    store.stage("r1", "b", "two", T0 + 30 * S, T0 + 40 * S)
    row = one(store.write(), "FROM run_totals")
    assert row["total_j"] == 4000.0
    assert row["u_random_j"] == pytest.approx(hypot(60, 60))
    assert row["u_total_j"] == pytest.approx(hypot(60, 60, 80 + 80))


def test_a_piece_of_overlapping_stages_counts_their_common_time_once_in_its_systematic_part(
    store: Store,
) -> None:
    machine(store, gpus=1, cpus=0).doubts[0] = (0.03, 0.05)
    store.stage("r1", "a", "one", T0 + 10 * S, T0 + 20 * S)
    store.stage("r1", "b", "two", T0 + 15 * S, T0 + 30 * S)
    row = one(store.write(), "FROM run_totals")
    assert row["total_j"] == 4000.0
    assert row["u_random_j"] == pytest.approx(hypot(60, 90))
    assert row["u_total_j"] == pytest.approx(hypot(60, 90, 0.04 * 4000))


def test_the_share_of_a_total_that_is_estimated_is_a_column(store: Store) -> None:
    machine(store, gpus=1)
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, energy_flags={1: ["estimated"]})
    store.stage("r1", "s2", "open", T0 + 50 * S, None)
    root = store.write()
    assert stage_of(root, "s1")["estimated_share"] == 500 / 2500
    assert stage_of(root, "s2")["estimated_share"] is None


def idler(store: Store) -> Store:
    """One GPU: 70 W for 10 s, 120 W for 10 s, then 520 W."""
    store.device(0)
    store.domain("gpu", "measured", "ring")
    times = range(T0, T0 + 60 * S + 1, 20 * MS)
    store.power(0, times, lambda t: 70_000 if t < T0 + 10 * S else 120_000 if t < T0 + 20 * S else 520_000)
    store.run("r1")
    return store


def test_net_of_idle_prefers_the_context_baseline_and_carries_both_doubts(store: Store) -> None:
    idler(store).doubts[0] = (0.01, 0.05)
    store.stage("r1", "i", "prerun.idle", T0 + 2 * S, T0 + 9 * S)
    store.stage("r1", "c", "prerun.context", T0 + 12 * S, T0 + 17 * S)
    store.stage("r1", "j", "prerun", T0 + 17 * S, T0 + 18 * S)
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S)
    row = net_of(store.write(), "s1")
    assert (row["energy_j"], row["baseline"], row["baseline_id"], row["baseline_w"]) == (
        5200.0, "prerun.context", "c", 120.0,
    )  # fmt: skip
    assert (row["net_j"], row["reason"]) == (4000.0, None)
    assert row["u_baseline_w"] == pytest.approx(1.2)
    assert row["u_net_j"] == pytest.approx(hypot(52.0, 12.0))


def test_without_a_context_baseline_the_latest_prerun_before_the_stage_serves(store: Store) -> None:
    idler(store)
    store.stage("r1", "i", "prerun.idle", T0 + 2 * S, T0 + 4 * S)
    store.stage("r1", "p", "prerun", T0 + 12 * S, T0 + 17 * S)
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S)
    store.stage("r1", "s0", "early", T0 + 5 * S, T0 + 6 * S)
    store.stage("r1", "q", "prerun.idle", T0 + 50 * S, T0 + 55 * S)
    root = store.write()
    assert (net_of(root, "s1")["baseline"], net_of(root, "s1")["u_net_j"]) == ("prerun", None)
    assert (net_of(root, "s0")["baseline"], net_of(root, "s0")["net_j"]) == ("prerun.idle", 0.0)
    assert net_of(root, "q")["reason"] == "it is a baseline itself"


def test_a_baseline_that_cannot_serve_leaves_net_unknown_with_the_reason(store: Store) -> None:
    idler(store)
    store.stage("r1", "s0", "early", T0 + S, T0 + 2 * S)
    store.stage("r1", "c", "prerun.context", T0 + 12 * S, T0 + 17 * S)
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S)
    hour, row = store.rows["energies"][1]
    store.rows["energies"][1] = (hour, (*row[:9], S, *row[10:]))  # overlap_ns of the baseline
    root = store.write()
    assert net_of(root, "s0")["reason"] == "no baseline before it on this device"
    why = "prerun.context cannot serve: another stage ran on the device meanwhile"
    found = net_of(root, "s1")
    assert (found["net_j"], found["baseline_w"], found["reason"]) == (None, None, why)


def test_work_inside_a_prerun_stage_and_another_runs_prerun_are_no_baselines(store: Store) -> None:
    idler(store)
    store.run("r2")
    store.stage("r2", "p2", "prerun", T0 + 2 * S, T0 + 8 * S)
    store.stage("r1", "p", "prerun", T0 + 12 * S, T0 + 19 * S)
    store.stage("r1", "w", "load model", T0 + 13 * S, T0 + 14 * S, parent_id="p")
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S)
    found = net_of(store.write(), "s1")
    assert found["reason"] == "prerun cannot serve: a stage that is no prerun ran inside it"


def terminal(root: Path, *args: str, columns: int) -> list[str]:
    """Lines of `energyq` on a terminal of so many columns."""
    command = [sys.executable, "-W", "error", "-m", "energyq", *args, "--store", str(root)]
    env = {k: v for k, v in ENV.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    return re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(command, env, columns)).splitlines()


def report(store: Store) -> Path:
    """A GPU with doubts and an estimated CPU, stages with flags and tokens."""
    idler(store).doubts.update({0: (0.01, 0.05), 1: (0.02, 0.4)})
    store.device(1, "cpu", source="codecarbon", origin="estimated")
    store.domain("cpu", "estimated", "codecarbon", "RAPL is for root only")
    store.power(1, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t: 50_000)
    flags = {0: ["aliased"], 1: ["estimated", "shared_cpu"]}
    store.stage("r1", "c", "prerun.context", T0 + 12 * S, T0 + 17 * S, energy_flags={1: ["estimated"]})
    store.stage(
        "r1", "s1", "student.train", T0 + 30 * S, T0 + 40 * S, counts={"label": 123_456}, energy_flags=flags
    )
    return store.write()


@pytest.mark.parametrize("command", [["stages"], ["stages", "--net"], ["runs"]])
def test_on_80_columns_a_table_keeps_joules_and_doubt_and_says_what_it_left_out(
    command: list[str], store: Store
) -> None:
    root = report(store)
    narrow, wide = (terminal(root, *command, columns=c) for c in (80, 250))
    rule = next(i for i, line in enumerate(narrow) if "──" in line)
    heads = narrow[rule - 1]
    below = next(i for i, line in enumerate(narrow) if line.startswith(("¹", "net:")))
    assert max(len(line) for line in narrow[:below]) <= 80
    for name in ("total J", "± J", "est. %", "J/token"):
        assert name in heads
    assert any(line.startswith("no room for: source, ") for line in narrow)
    assert not any(line.startswith("no room for") for line in wide)
    assert any("source" in line for line in wide if "total J" in line)
    if "--net" in command:
        assert "net J" in heads


def test_flags_are_footnotes_in_words_and_the_line_below_says_which_doubt_is_shown(
    store: Store, energyq: Energyq
) -> None:
    lines = energyq("stages", "--store", report(store), "--format", "table").stdout.splitlines()
    train = next(line for line in lines if "student.train" in line)
    assert train.split()[:2] == ["student.train", "¹·²"]
    assert (
        "¹ aliased: power swings near the sensor's own period, so readings of instant power mislead" in lines
    )
    assert any(line.startswith("² shared_cpu: another run went on meanwhile") for line in lines)
    assert train.split()[2:8] == ["10.00", "5,200", "500.0", "5,700", "53", "8.77"]
    share = 100 * hypot(52, 10, sqrt(260**2 - 52**2), sqrt(200**2 - 10**2)) / 5700
    assert any(
        line.startswith("±: random part of the doubt, k = 2 (95 %); with the sensors'") for line in lines
    )
    assert any(f"common error ± {share:.2g} to " in line for line in lines)
    assert "est. %: share of the total that is an estimate, not a measurement" in lines


def test_stages_net_shows_what_went_beyond_idling_and_from_which_stage(
    store: Store, energyq: Energyq
) -> None:
    root = report(store)
    text = energyq("stages", "--net", "--store", root, "--format", "table").stdout
    assert "net: total less the power of prerun.context for the same seconds" in text
    assert "no net for prerun.context: it is a baseline itself" in text
    [first, train] = json.loads(energyq("stages", "--net", "--store", root, "--format", "json").stdout)
    assert (first["net_j"], train["net_j"], train["baselines"]) == (None, 4000.0, "prerun.context")
    assert train["u_net_j"] == pytest.approx(hypot(52, 12, 10, 10))
    assert "net_j" not in json.loads(energyq("stages", "--store", root, "--format", "json").stdout)[0]


def test_net_takes_any_stage_as_its_baseline(store: Store, energyq: Energyq) -> None:
    idler(store)
    store.stage("r1", "w", "warm up", T0 + 22 * S, T0 + 24 * S)
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S)
    root = store.write()
    own = json.loads(energyq("net", "--idle", "warm up", "--store", root, "--format", "json").stdout)
    assert [(r["stage"], r["net_j"], r["baseline_w"]) for r in own] == [
        ("warm up", None, None),
        ("train", 0.0, 520.0),
    ]
    plain = json.loads(energyq("net", "--store", root, "--format", "json").stdout)
    assert {r["reason"] for r in plain} == {"no baseline before it on this device"}
    assert "no baseline before it" in energyq("net", "--store", root, "--format", "table").stdout


def test_explain_shows_both_figures_with_their_doubts_the_method_and_the_note(
    store: Store, energyq: Energyq
) -> None:
    idler(store).doubts[0] = (0.002, 0.05)
    both = {
        "energy_uj": 5_230_000_000, "counter_uj": 5_230_000_000, "method": "counter",
        "integral_uj": 5_200_000_000, "u_integral_uj": 90_000_000, "u_counter_uj": 12_000_000,
        "note": "instant power aliases here: the counter's figure is kept",
    }  # fmt: skip
    store.stage("r1", "s1", "train", T0 + 30 * S, T0 + 40 * S, energies=both, energy_flags={0: ["aliased"]})
    root = store.write()
    lines = [" ".join(x.split()) for x in energyq("explain", "s1", "--store", root).stdout.splitlines()]
    assert "figure integral 5200.000000 J ± 90 J" in lines
    assert "figure counter 5230.000000 J ± 12 J; kept" in lines
    assert "note instant power aliases here: the counter's figure is kept" in lines
    assert any(x.startswith("energy 5230.000000 J ± 10 J stored, by the hardware counter;") for x in lines)
    assert "doubt ± 10 J random, ± 260 J with the sensor's own error (k = 2)" in lines
    assert any(x.startswith("again") and x.endswith("from raw samples: the same") for x in lines)
    assert any("the integral differs by -30.000000 J (-0.57 %)" in x for x in lines)
    done = energyq("verify", "--store", root)
    assert (done.returncode, done.stdout) == (0, ""), "the integral beside it follows from the samples"
