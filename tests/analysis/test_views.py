"""Do the views say what a stage and a run cost, and why not where they cannot?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.energy_store import HOUR, MS, T0, S, Store
from energyd.store import HOUR_NS
from energyd.store.read import open_reader

STAGE_ENERGY = [
    "run_id", "stage_id", "parent_id", "stage", "device", "domain", "t0_ns", "t1_ns", "energy_j", "counter_j",
    "self_j", "exclusive_j", "overlap_s", "mean_w", "coverage", "n_samples", "u_random_j", "u_total_j",
    "source", "flags", "method", "integral_j", "u_integral_j", "u_counter_j", "reason", "note",
]  # fmt: skip


def rows(root: Path, query: str, **params: Any) -> list[dict[str, Any]]:
    with open_reader(root) as reader:
        return reader.sql(query, params or None).dicts()


def one(root: Path, view: str, key: str) -> dict[str, Any]:
    column = "run_id" if view == "run_totals" else "stage_id"
    [row] = rows(root, f"FROM {view} WHERE {column} = $key", key=key)
    return row


def machine(store: Store, seconds: int = 60, cpu: str = "measured") -> Store:
    """GPU 200 W, CPU 50 W (RAPL or an estimate), no DRAM zone."""
    store.device(0)
    store.domain("gpu", "measured", "ring")
    store.power(0, range(T0, T0 + seconds * S + 1, 20 * MS), lambda t: 200_000)
    if cpu != "none":
        source = {"measured": "rapl", "estimated": "codecarbon"}[cpu]
        store.device(1, "cpu", source=source, origin=cpu, period_ns=S, max_step_ns=3 * S)
        store.domain("cpu", cpu, source, None if cpu == "measured" else "RAPL is not readable")
        store.power(1, range(T0, T0 + seconds * S + 1, S), lambda t: 50_000)
    store.domain("dram", "absent", None, "no dram zone")
    return store


def test_stage_energy_has_exactly_the_columns_that_are_promised(store: Store) -> None:
    with open_reader(machine(store, 1).write()) as reader:
        assert reader.sql("FROM stage_energy").columns == STAGE_ENERGY


def test_every_column_of_every_view_has_a_comment(store: Store) -> None:
    with open_reader(machine(store, 1).write()) as reader:
        assert [(v, c) for v, about, c, _, means in reader.views() if not (about and means)] == []


def test_a_stage_shows_joules_by_domain_watts_tokens_and_sources(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, counts={"positions": 9, "label": 1_000})
    row = one(store.write(), "stage_totals", "s1")
    assert (row["gpu_j"], row["cpu_j"], row["dram_j"], row["total_j"]) == (2000.0, 500.0, None, 2500.0)
    assert (row["seconds"], row["mean_w"], row["coverage"], row["estimated_j"]) == (10.0, 250.0, 1.0, 0.0)
    assert (row["counts"], row["tokens"], row["token_unit"], row["j_per_token"]) == (
        {"label": 1000, "positions": 9}, 1000, "label", 2.5,
    )  # fmt: skip
    assert row["domains"] == "gpu measured, cpu measured, dram absent"
    assert row["reason"] is None


def test_the_estimated_share_of_a_total_is_named(store: Store) -> None:
    machine(store, cpu="estimated")
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, energy_flags={1: ["estimated"]})
    row = one(store.write(), "stage_totals", "s1")
    assert (row["total_j"], row["estimated_j"]) == (2500.0, 500.0)
    assert row["domains"] == "gpu measured, cpu estimated, dram absent"
    assert "(estimated)" in row["sources"]
    assert row["flags"] == ["estimated"]


def test_an_unreadable_domain_makes_the_total_null_with_its_reason(store: Store) -> None:
    machine(store, cpu="none")
    store.domain("cpu", "unreadable", None, "energy_uj is for root only")
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = one(store.write(), "stage_totals", "s1")
    assert (row["gpu_j"], row["cpu_j"], row["total_j"], row["mean_w"]) == (2000.0, None, None, None)
    assert row["reason"] == "cpu: unreadable, energy_uj is for root only"
    assert "cpu unreadable" in row["sources"]


def test_an_absent_domain_is_left_out_of_the_total_and_named(store: Store) -> None:
    machine(store, cpu="none")
    store.domain("cpu", "absent", None, "a virtual machine without RAPL")
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = one(store.write(), "stage_totals", "s1")
    assert (row["total_j"], row["cpu_j"], row["reason"]) == (2000.0, None, None)
    assert row["domains"] == "gpu measured, cpu absent, dram absent"


def test_a_domain_is_judged_as_it_was_when_the_stage_ran(store: Store) -> None:
    """The daemon later ran without rights to RAPL: that must not spoil what was measured before."""
    machine(store)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, devices=[0])
    store.add("domains", t_ns=T0 + 40 * S, domain="cpu", state="unreadable", reason="not root")
    row = one(store.write(), "stage_totals", "s1")
    assert (row["total_j"], row["domains"]) == (2000.0, "gpu measured, cpu not charged, dram absent")


def test_a_domain_that_became_readable_spoils_only_what_ran_before(store: Store) -> None:
    machine(store, cpu="none")
    store.domain("cpu", "unreadable", None, "not root")
    store.add("domains", t_ns=T0 + 30 * S, domain="cpu", state="absent", reason="switched off")
    store.run("r1")
    store.stage("r1", "s1", "before", T0 + 10 * S, T0 + 20 * S)
    store.stage("r1", "s2", "after", T0 + 40 * S, T0 + 50 * S)
    root = store.write()
    assert one(root, "stage_totals", "s1")["total_j"] is None
    assert one(root, "stage_totals", "s2")["total_j"] == 2000.0
    assert [r["state"] for r in rows(root, "FROM domains WHERE domain = 'cpu'")] == ["absent"]


def test_one_unknown_gpu_of_two_makes_the_gpu_energy_null(store: Store) -> None:
    machine(store)
    store.device(2)
    store.power(2, range(T0 + 15 * S, T0 + 30 * S, 20 * MS), lambda t: 100_000)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S)
    row = one(store.write(), "stage_totals", "s1")
    assert (row["gpu_j"], row["cpu_j"], row["total_j"]) == (None, 500.0, None)
    assert row["reason"] == "gpu: before_first_sample"


def test_open_and_pending_stages_appear_with_null_and_a_flag_for_each_device(store: Store) -> None:
    machine(store)
    store.run("r1", t1=None)
    store.stage("r1", "s1", "train", T0 + 10 * S, None)
    store.stage("r1", "s2", "last", T0 + 50 * S, T0 + 61 * S, state="ended")
    found = rows(store.write(), "FROM stage_energy ORDER BY stage_id, device")
    assert [(r["stage_id"], r["device"], r["energy_j"], r["flags"]) for r in found] == [
        ("s1", 0, None, ["open"]), ("s1", 1, None, ["open"]),
        ("s2", 0, None, ["pending"]), ("s2", 1, None, ["pending"]),
    ]  # fmt: skip
    assert one(store.root, "stage_totals", "s1")["reason"] == "gpu: open; cpu: open"


def test_a_stage_without_devices_still_has_a_row_that_says_so(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, devices=[])
    row = one(store.write(), "stage_totals", "s1")
    assert (row["total_j"], row["reason"]) == (
        None, "nothing to add up: gpu not charged, cpu not charged, dram absent",
    )  # fmt: skip


def test_parents_count_their_descendants_tokens_and_stages_know_their_path(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "a", "train", T0 + S, T0 + 30 * S)
    for rank in range(2):
        store.stage(
            "r1", f"b{rank}", "rank", T0 + 2 * S, T0 + 20 * S, parent_id="a", counts={"label": 10 + rank}
        )
        store.stage(
            "r1", f"c{rank}", "step", T0 + 3 * S, T0 + 4 * S, parent_id=f"b{rank}", counts={"label": 100}
        )
    root = store.write()
    assert one(root, "stage_totals", "a")["tokens"] == 221
    assert one(root, "stage_totals", "b1")["tokens"] == 111
    step = one(root, "stages", "c1")
    assert (step["path"], step["depth"]) == ("train/rank/step", 2)
    [count] = rows(root, "FROM counts WHERE stage_id = 'b1'")
    assert (count["unit"], count["own_n"], count["total_n"]) == ("label", 11, 111)


def test_parents_that_form_a_ring_end_the_climb_and_lose_no_stage(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "a", "x", T0 + S, T0 + 2 * S, parent_id="b", counts={"label": 1})
    store.stage("r1", "b", "y", T0 + S, T0 + 2 * S, parent_id="a", counts={"label": 2})
    store.stage("r1", "c", "z", T0 + S, T0 + 2 * S, parent_id="c")
    found = rows(store.write(), "SELECT stage_id, tokens, total_j FROM stage_totals ORDER BY 1")
    assert [(r["stage_id"], r["tokens"]) for r in found] == [("a", 3), ("b", 3), ("c", None)]


@pytest.mark.parametrize(
    ("counts", "unit"),
    [
        ({"samples": 3, "positions": 2}, "positions"),
        ({"nonpad": 1, "generated": 4}, "generated"),
        ({"zebra": 1, "ant": 2}, "ant"),
        ({}, None),
    ],
)
def test_the_denominator_is_the_preferred_unit_and_null_without_one(
    store: Store, counts: dict[str, int], unit: str | None
) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, counts=counts)
    row = one(store.write(), "stage_totals", "s1")
    assert row["token_unit"] == unit
    assert row["j_per_token"] == (2500 / counts[unit] if unit else None)


def test_a_count_of_zero_gives_no_joules_per_token(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, counts={"label": 0})
    row = one(store.write(), "stage_totals", "s1")
    assert (row["tokens"], row["j_per_token"]) == (0, None)


def test_stages_that_overlap_are_counted_once_in_the_run(store: Store) -> None:
    """10–20 s and 15–30 s on both devices is 20 s of 250 W; 40–45 s stands alone; a child adds nothing."""
    machine(store)
    store.run("r1")
    store.stage("r1", "a", "one", T0 + 10 * S, T0 + 20 * S, counts={"label": 5})
    store.stage("r1", "b", "two", T0 + 15 * S, T0 + 30 * S, counts={"label": 6})
    store.stage("r1", "c", "three", T0 + 40 * S, T0 + 45 * S)
    store.stage("r1", "d", "child", T0 + 41 * S, T0 + 42 * S, parent_id="c", counts={"label": 1})
    row = one(store.write(), "run_totals", "r1")
    assert (row["gpu_j"], row["cpu_j"], row["total_j"]) == (5000.0, 1250.0, 6250.0)
    assert (row["staged_s"], row["mean_w"], row["n_stages"]) == (25.0, 250.0, 4)
    assert (row["tokens"], row["j_per_token"]) == (12, 6250 / 12)


def test_a_rank_on_a_gpu_that_the_stage_around_it_does_not_name_is_part_of_its_run_once(store: Store) -> None:
    """`train` names GPU 0 alone; its ranks are on 0 and 2, and within rank 2 a step is on 2 and 3."""
    machine(store)
    for device in (2, 3):
        store.device(device)
        store.power(device, range(T0, T0 + 60 * S + 1, 20 * MS), lambda t: 100_000)
    store.run("r1")
    store.stage("r1", "a", "train", T0 + 10 * S, T0 + 30 * S, devices=[0, 1])
    store.stage("r1", "b", "rank 0", T0 + 12 * S, T0 + 20 * S, parent_id="a", devices=[0, 1])
    store.stage("r1", "c", "rank 2", T0 + 12 * S, T0 + 22 * S, parent_id="a", devices=[1, 2])
    store.stage("r1", "d", "step", T0 + 13 * S, T0 + 14 * S, parent_id="c", devices=[1, 2, 3])
    store.stage("r1", "e", "inner", T0 + 13 * S, T0 + 14 * S, parent_id="d", devices=[0, 3])
    row = one(store.write(), "run_totals", "r1")
    # GPU 0: `train`, 20 s of 200 W; GPU 2: `rank 2`, 10 s, and GPU 3: `step`, 1 s, of 100 W each.
    assert (row["gpu_j"], row["cpu_j"], row["total_j"]) == (5100.0, 1000.0, 6100.0)


def test_a_stage_that_covers_the_others_stands_for_them_without_raw_samples(store: Store) -> None:
    machine(store)
    store.run("r1")
    store.stage("r1", "a", "whole", T0 + 10 * S, T0 + 30 * S)
    store.stage("r1", "b", "inside", T0 + 15 * S, T0 + 20 * S)
    store.stage("r1", "c", "after", T0 + 30 * S, T0 + 40 * S)
    store.samples.clear()
    row = one(store.write(), "run_totals", "r1")
    assert row["total_j"] == 7500.0


def test_a_run_with_an_open_stage_has_no_total_yet(store: Store) -> None:
    machine(store)
    store.run("r1", t1=None)
    store.stage("r1", "a", "done", T0 + 10 * S, T0 + 30 * S)
    store.stage("r1", "b", "going", T0 + 35 * S, None)
    row = one(store.write(), "run_totals", "r1")
    assert (row["status"], row["total_j"], row["reason"]) == ("open", None, "gpu: open; cpu: open")


def test_a_run_without_stages_is_still_a_run(store: Store) -> None:
    machine(store)
    store.run("r1")
    row = one(store.write(), "run_totals", "r1")
    assert (row["n_stages"], row["total_j"], row["tokens"]) == (0, None, None)


def test_the_closed_row_of_a_run_and_stage_takes_the_open_ones_place(store: Store) -> None:
    machine(store)
    store.run("r1", t1=None)
    store.run("r1", hour=HOUR - 1)
    store.stage("r1", "s1", "train", T0 + 10 * S, None)
    store.stage("r1", "s1", "train", T0 + 10 * S, T0 + 20 * S, hour=HOUR - 1)
    root = store.write()
    assert [r["status"] for r in rows(root, "FROM runs")] == ["ok"]
    assert [r["state"] for r in rows(root, "FROM stages")] == ["final"]
    assert [r["energy_j"] for r in rows(root, "FROM stage_energy ORDER BY device")] == [2000.0, 500.0]


def test_devices_that_are_hot_and_sealed_appear_once_by_their_newest_row(store: Store) -> None:
    machine(store, 1)
    store.add("devices", HOUR - 1, device=0, t_ns=T0 - HOUR_NS, uuid="gpu-0", domain="gpu", name="old driver")
    for hour in (None, HOUR - 1):
        store.add("boots", hour, boot_id="b", t_ns=T0, offset_ns=0, host_id="h0")
    root = store.write()
    assert [r["name"] for r in rows(root, "FROM devices WHERE device = 0")] == ["test gpu"]
    assert len(rows(root, "FROM boots")) == 1


def test_replayed_joules_say_so_in_their_rows_domains_and_sources(store: Store) -> None:
    store.device(0, source="replay", origin="replayed")
    store.domain("gpu", "replayed", "replay")
    store.power(0, range(T0, T0 + 30 * S, 20 * MS), lambda t: 200_000)
    store.run("r1")
    store.stage("r1", "s1", "train", T0 + S, T0 + 2 * S, energy_flags={0: ["replayed"]})
    store.stage("r1", "s2", "open", T0 + S, None)
    root = store.write()
    assert one(root, "stage_totals", "s1")["domains"] == "gpu replayed, cpu absent, dram absent"
    assert one(root, "stage_totals", "s1")["flags"] == ["replayed"]
    assert "replayed" in one(root, "stage_totals", "s2")["flags"]
