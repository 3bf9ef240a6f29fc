"""Does compare call the same load the same, other loads other, and say by what it judged?"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader
from energyq.compare import Comparison, compare
from energyq.find import Refused
from energyq.student import Part, half_width, t_quantile

Energyq = Callable[..., "subprocess.CompletedProcess[str]"]


def judged(root: Path, a: str, b: str, repeatability: float = 0.005, **how: bool) -> Comparison:
    with open_reader(root) as reader:
        return compare(reader, a, b, repeatability, **how)


def runs_of(
    store: Store, watts: list[float], *, device: int = 0, doubt: float | None = 0.002, **own: Any
) -> list[str]:
    """One run of one second after the other, each at its own constant power; their ids."""
    first = len({r[0] for _, r in store.rows.get("runs_log", [])})
    if device not in store.logs:
        store.device(device, **own)
        store.domain("gpu", own.get("origin", "measured"), own.get("source", "ring"))
    if doubt is not None:
        store.doubts[device] = (doubt, 0.05)
    ids = [f"r{first + i:03}" for i in range(len(watts))]
    for number, power_w in enumerate(watts, first):
        begin, power_mw = T0 + 2 * S * number, round(1000 * power_w)
        store.power(device, range(begin, begin + 2 * S, 20 * MS), lambda t, mw=power_mw: mw)
    store.power(device, [T0 + 2 * S * (first + len(watts))], lambda t: 0)
    return ids


def plain_runs(
    store: Store, watts: list[float], labels: dict[str, Any] | None = None, **own: Any
) -> list[str]:
    """Runs with one stage each."""
    device = own.get("device", 0)
    ids = runs_of(store, watts, **own)
    for run_id in ids:
        begin = T0 + 2 * S * int(run_id[1:]) + 500 * MS
        store.run(run_id, "load", begin, begin + S, labels=json.dumps(labels or {}))
        store.stage(run_id, f"{run_id}-s", "train", begin, begin + S, devices=[device])
    return ids


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (30, 2.04227), (120, 1.97993), (1e9, 1.95996)],
)
def test_students_t_is_that_of_the_tables(freedom: float, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=2e-5)


def test_welchs_interval_is_that_of_a_worked_example() -> None:
    """Two samples of n = 10 and 15 with variances 4 and 9: ν = 22.99, t = 2.0687."""
    assert half_width([Part(4 / 10, 9), Part(9 / 15, 14)]) == pytest.approx(2.0687, abs=1e-4)
    assert half_width([]) == 0


def test_pairs_whose_load_spreads_between_runs_are_hardly_ever_called_different_and_3_percent_is(
    store: Store,
) -> None:
    """0.5 % between runs, as on real boards. Twenty pairs of a real load: test_same_load_recorded.py."""
    chance = random.Random(7)
    ids = plain_runs(store, [300 * chance.gauss(1, 0.005) for _ in range(12)])
    more = plain_runs(store, [309 * chance.gauss(1, 0.005) for _ in range(3)])
    with open_reader(store.write()) as reader:
        same = [compare(reader, a, b, 0.005).significant for a, b in zip(ids[::2], ids[1::2], strict=True)]
        other = [compare(reader, a, b, 0.005).significant for a, b in zip(ids[:3], more, strict=True)]
    assert same.count(True) <= 1
    assert same.count(None) == 0
    assert other.count(True) >= 2


def test_a_single_pair_says_what_it_knows_of_executions_and_what_it_assumes_of_runs(
    store: Store, energyq: Energyq
) -> None:
    a, b = plain_runs(store, [300.0, 303.0], doubt=0.004)
    root = store.write()
    found = judged(root, a, b)
    assert (found.difference_j, found.ratio) == (pytest.approx(3.0), pytest.approx(1.01))
    assert found.u_measured_j == pytest.approx(((0.004 * 300) ** 2 + (0.004 * 303) ** 2) ** 0.5)
    assert (found.executions_differ, found.significant) == (True, False)
    assert found.repeatability == 0.005
    assert found.ratio_low < 1 < found.ratio_high
    assert judged(root, a, b, 0.0).significant is True
    text = energyq("compare", a, b, "--store", root).stdout
    assert "B − A: +3.000 J ± 4.5 J (95 %)" in text
    assert "significant at 95 %: no" in text
    assert (
        "by the doubt of measurement of one run each, and 0.5 % between runs as usual (--repeatability)"
        in text
    )
    assert "these executions did take different energy (± 1.7 J, doubt of measurement alone)" in text
    assert "which says little about the programs: only repeated runs tell how they spread" in text
    assert "same devices" in text


def test_runs_on_both_sides_are_judged_by_their_own_spread(store: Store) -> None:
    wide = [300 * x for x in (0.97, 1.03, 1.0, 0.98, 1.02)]
    plain_runs(store, wide, {"student": "1B", "seed": 0}, doubt=0.0001)
    plain_runs(store, [1.02 * w for w in wide], {"student": "7B", "seed": 0}, doubt=0.0001)
    plain_runs(store, [1.2 * w for w in wide], {"student": "13B", "seed": 0}, doubt=0.0001)
    root = store.write()
    found = judged(root, "student=1B,seed=0", "student=7B,seed=0")
    assert (found.a.n_runs, found.b.n_runs, found.repeatability) == (5, 5, None)
    assert found.basis == "Welch's test on the spread between 5 and 5 runs"
    assert (found.executions_differ, found.significant) == (True, False)
    sd = 300 * 0.0254951
    assert found.u_difference_j == pytest.approx(
        t_quantile(7.9969) * sd * ((1 + 1.02**2) / 5) ** 0.5, rel=1e-3
    )
    assert judged(root, "student=1B", "student=13B").significant is True


def test_doubt_of_measurement_is_a_floor_under_values_that_lie_close_by_luck(store: Store) -> None:
    plain_runs(store, [300.0, 300.001, 300.0], {"x": "a"}, doubt=0.02)
    plain_runs(store, [303.0, 303.001, 303.0], {"x": "b"}, doubt=0.02)
    found = judged(store.write(), "x=a", "x=b")
    assert found.significant is False


def test_one_run_against_several_takes_their_spread(store: Store) -> None:
    plain_runs(store, [300.0, 306.0, 294.0, 300.0], {"x": "a"})
    [b] = plain_runs(store, [309.0])
    [c] = plain_runs(store, [345.0])
    root = store.write()
    found = judged(root, "x=a", b)
    assert found.basis == "the spread between the 4 runs of A, taken for the other side too"
    variance = 24 * (1 + 1 / 4)
    assert found.u_difference_j == pytest.approx(t_quantile(3) * variance**0.5, rel=1e-3)
    assert (found.significant, judged(root, "x=a", c).significant) == (False, True)
    assert judged(root, c, "x=a").u_difference_j == pytest.approx(judged(root, "x=a", c).u_difference_j)


def stepped(store: Store, scale: list[float], n: int = 8, **own: Any) -> list[str]:
    """Runs of one stage `train` with n equal steps; power in step i is 300 W × scale × (1 or 1.04)."""
    ids = runs_of(store, [300 * x for x in scale], **own)
    for run_id, x in zip(ids, scale, strict=True):
        begin = T0 + 2 * S * int(run_id[1:]) + 500 * MS
        store.run(run_id, "steps", begin, begin + S)
        store.stage(run_id, f"{run_id}-t", "train", begin, begin + S)
        for i in range(n):
            at = begin + i * 100 * MS
            step_uj = round(30e6 * x * (1.04 if i % 2 else 1))
            store.stage(run_id, f"{run_id}-{i}", "step", at, at + 100 * MS, parent_id=f"{run_id}-t",
                        energies={"energy_uj": step_uj})  # fmt: skip
    return ids


def test_repeated_stages_inside_one_run_each_tell_the_spread(store: Store) -> None:
    a, b = stepped(store, [1.0, 1.01], doubt=0.001)
    root = store.write()
    found = judged(root, a, b)
    assert found.basis == (
        "the spread between repeats of train/step inside one run each, "
        "and 0.5 % between runs as usual (--repeatability)"
    )
    sd = 30 * 0.04 / 2 * (8 / 7) ** 0.5
    parts = [Part(8 * (sd * x) ** 2, 7) for x in (1, 1.01)] + [Part((1.5 * x) ** 2) for x in (1, 1.01)]
    assert found.u_difference_j == pytest.approx(half_width(parts), rel=1e-4)
    steps = judged(root, f"{a}/train/step", f"{b}/step")
    assert (steps.a.stage, steps.b.stage, steps.a.n_stages) == ("train/step", "train/step", 8)
    assert steps.a.energy_j == pytest.approx(30 * 1.02)
    parts = [Part((sd * x) ** 2 / 8, 7) for x in (1, 1.01)] + [Part((0.153 * x) ** 2) for x in (1, 1.01)]
    assert steps.u_difference_j == pytest.approx(half_width(parts), rel=1e-4)


def test_few_repeats_or_repeats_at_the_same_time_are_not_taken_for_a_spread(store: Store) -> None:
    few = stepped(store, [1.0, 1.01], n=4)
    ranks = runs_of(store, [300.0, 300.0])
    for run_id in ranks:
        begin = T0 + 2 * S * int(run_id[1:]) + 500 * MS
        store.run(run_id, "ranks", begin, begin + S)
        for i in range(8):
            store.stage(run_id, f"{run_id}-{i}", "rank", begin, begin + S)
    root = store.write()
    for a, b in (few, ranks):
        assert str(judged(root, a, b).basis).startswith("the doubt of measurement of one run each")


def test_on_different_boards_the_sensors_own_errors_are_in_the_doubt(store: Store, energyq: Energyq) -> None:
    [a] = plain_runs(store, [300.0], device=0, name="H100", driver="580")
    [b] = plain_runs(store, [315.0], device=1, name="H200", driver="590")
    [c] = plain_runs(store, [315.0], device=0)
    root = store.write()
    across, same = judged(root, a, b, allow_mixed=True), judged(root, a, c)
    assert (same.same_board, same.significant) == (True, True)
    assert (across.same_board, across.significant) == (False, False)
    assert across.u_measured_j == pytest.approx(((0.05 * 300) ** 2 + (0.05 * 315) ** 2) ** 0.5)
    assert "MIXED, hardware: H100 / H200" in across.warnings
    assert "MIXED, driver: 580 / 590" in across.warnings
    assert (
        "different devices: their sensors' own errors are in the doubt"
        in energyq("compare", a, b, "--store", root, "--allow-mixed").stdout
    )


def test_unlike_runs_are_refused_with_what_differs_unless_mixing_is_allowed(
    store: Store, energyq: Energyq
) -> None:
    [a] = plain_runs(store, [300.0], {"tokenizer": "t1", "train_config": "c1"}, name="H100", driver="580")
    [b] = plain_runs(store, [303.0], {"tokenizer": "t2", "train_config": "c1"})
    [c] = plain_runs(store, [303.0], device=1, name="H200", driver="590")
    root = store.write()
    done = energyq("compare", a, b, "--store", root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "these runs are not alike: tokenizer: t1 / t2" in done.stderr
    assert "--allow-mixed" in done.stderr
    mixed = energyq("compare", a, b, "--store", root, "--allow-mixed")
    assert (mixed.returncode, mixed.stderr) == (0, "")
    assert "warning: MIXED, tokenizer: t1 / t2" in mixed.stdout
    with (
        open_reader(root) as reader,
        pytest.raises(Refused, match="hardware: H100 / H200; driver: 580 / 590"),
    ):
        compare(reader, a, c, 0.0)
    silent = judged(root, a, c, allow_mixed=True).warnings
    assert "tokenizer is not told by B: nobody knows whether it is the same" in silent


def test_an_upgraded_driver_makes_runs_on_one_board_unlike(store: Store) -> None:
    [a] = plain_runs(store, [300.0], driver="580")
    store.add("devices", device=0, t_ns=T0 + 2 * S, uuid="gpu-0", domain="gpu", name="test gpu",
              source="ring", origin="measured", driver="590", max_step_ns=100 * MS)  # fmt: skip
    [b] = plain_runs(store, [303.0])
    with open_reader(store.write()) as reader, pytest.raises(Refused, match="driver: 580 / 590"):
        compare(reader, a, b, 0.0)


def test_a_doubt_larger_than_the_energy_gives_no_bounds_and_no_significance(store: Store) -> None:
    a, b = plain_runs(store, [300.0, 600.0], doubt=9.0)
    found = judged(store.write(), a, b)
    assert (found.ratio, found.ratio_low, found.ratio_high) == (2.0, None, None)
    assert (found.significant, found.executions_differ) == (False, False)


def test_what_is_not_measured_on_one_side_is_warned_of(store: Store) -> None:
    [a] = plain_runs(store, [300.0])
    [b] = plain_runs(store, [300.0], device=1, source="replay", origin="replayed")
    hour, row = store.rows["energies"][-1]
    store.rows["energies"][-1] = (hour, (*row[:15], ["replayed", "shared_gpu"], *row[16:]))
    found = judged(store.write(), a, b, allow_mixed=True)
    assert any("gpu measured" in w and "gpu replayed" in w for w in found.warnings)
    assert any(w.startswith("B is shared_gpu: another run or process used the GPU") for w in found.warnings)


def test_without_doubt_and_repeats_there_is_no_verdict_and_the_reason(store: Store, energyq: Energyq) -> None:
    a, b = plain_runs(store, [300.0, 330.0], doubt=None)
    root = store.write()
    found = judged(root, a, b)
    assert (found.difference_j, found.significant, found.u_difference_j) == (pytest.approx(30), None, None)
    assert "neither doubt nor repetitions are known: no verdict" in found.warnings
    done = energyq("compare", a, b, "--store", root)
    assert done.returncode == 0
    assert "significant at 95 %: not known" in done.stdout


def test_a_side_without_an_energy_leaves_the_difference_unknown_and_exits_4(
    store: Store, energyq: Energyq
) -> None:
    [a] = plain_runs(store, [300.0])
    store.run("r900", "later", T0 + S, None)
    store.stage("r900", "x", "train", T0 + S, None)
    done = energyq("compare", a, "r900", "--store", store.write())
    assert done.returncode == 4
    assert "B − A: unknown, since a side has no energy" in done.stdout
    assert "warning: B leaves out later (r900): gpu: still open" in done.stdout


@pytest.mark.parametrize(
    ("a", "b", "code", "why"),
    [
        ("r000", "r000", 2, "are the same: nothing to compare"),
        ("x=a", "r001", 2, "are both made of run r001"),
        ("r000", "nope", 1, "no run is called or begins with 'nope'"),
        ("r000", "x=zz", 1, "no run has x=zz"),
        ("r000/train", "r001/eval", 1, "r001 has no stage 'eval'"),
        ("r000", "all", 2, "`all` is no side"),
    ],
)
def test_the_same_on_both_sides_or_nothing_is_refused_with_a_cure(
    a: str, b: str, code: int, why: str, store: Store, energyq: Energyq
) -> None:
    plain_runs(store, [300.0, 300.0], {"x": "a"})
    done = energyq("compare", a, b, "--store", store.write())
    assert (done.returncode, done.stdout) == (code, "")
    assert why in done.stderr
    assert "cure:" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_two_stages_of_one_run_may_be_compared_and_labels_may_hold_slashes(store: Store) -> None:
    [run_id] = runs_of(store, [300.0])
    begin = T0 + 500 * MS
    store.run(run_id, "kd", begin, begin + S, labels=json.dumps({"model": "org/olmo", "lr": 0.5}))
    store.stage(run_id, "s1", "train", begin, begin + 400 * MS)
    store.stage(run_id, "s2", "eval", begin + 400 * MS, begin + S)
    root = store.write()
    found = judged(root, "model=org/olmo,lr=0.5/train", "name=kd/eval")
    assert (found.a.stage, found.b.stage, found.ratio) == ("train", "eval", pytest.approx(1.5))
    with open_reader(root) as reader, pytest.raises(Refused, match="are the same"):
        compare(reader, "model=org/olmo", "name=kd", 0.0)


def test_json_has_units_in_its_keys_and_every_figure(store: Store, energyq: Energyq) -> None:
    a, b = plain_runs(store, [300.0, 330.0])
    root = store.write()
    told = json.loads(energyq("compare", a, b, "--store", root, "--format", "json").stdout)
    assert told == json.loads(json.dumps(asdict(judged(root, a, b))))
    assert (told["significant"], told["a"]["energy_j"], told["confidence"]) == (True, 300.0, 0.95)
    assert energyq("compare", a, b, "--store", root, "--format", "csv").returncode == 2
