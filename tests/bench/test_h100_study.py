"""Does the true-shape study measure what it says, go on where it stopped, and count as it says?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench import overhead_gpu
from bench.h100 import budgets, claims, page, poster, study
from bench.h100.figures import Kind, Value
from bench.h100.piece import archives
from energyd_pipelines import h100, h100_config, h100_teacher, h100_windows, starved
from energyd_pipelines.errors import AGAIN, DistillError
from energyd_pipelines.examples import Counts
from energyd_pipelines.h100_windows import Variant, Work
from energyd_pipelines.logit_cache import LogitCache

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

BENCH = Path(__file__).parent
QUICK = ("pretend=true", "window_s=0.05", "idle_s=0", "repeats=1", "examples=8", "length=32", "labels=8")


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYD_DISABLE", "1")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "windows.jsonl").read_text().splitlines()]


def script(name: str, *options: str, env: dict[str, str]) -> str:
    env = {
        **env,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("ENERGYD_DISABLE", None)
    command = [sys.executable, str(BENCH / name), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_piece_beside_a_daemon_becomes_a_page_with_energies_from_its_store(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    words = ("part=students", "pretend=true", "window_s=0.2", "repeats=1", "modes=[sft]")
    places = ("--out", str(tmp_path / "o"), "--cache", str(tmp_path / "c"))
    script("h100_study.py", "run", *places, *words, env=fake_nvml.env)
    (archive,) = (tmp_path / "o").iterdir()
    assert archive.stat().st_size < 1_000_000
    script("h100_study.py", "report", str(tmp_path / "o"), env=fake_nvml.env)
    text = (tmp_path / "o.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| tiny sft |")]
    cells = [cell.strip() for cell in row.split("|")]
    watts, j_label = float(cells[3].split()[0]), float(cells[6].split()[0])
    low, high = 120, 640  # of the curve that the fake library plays
    assert low <= watts <= high
    assert j_label > 0
    assert "Fake H100" in text
    assert "The frontier (students that learn for real): not measured." in text


def test_every_part_measures_its_variants_and_the_teachers_cache_is_the_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("teacher", "eager", "students"):
        assert h100.run([*QUICK, f"part={part}", f"out={tmp_path}", "batches=4"]) == 0
    found = {line["variant"]: line for line in lines(tmp_path)}
    assert not any(line.get("error") for line in found.values())
    assert {v for v in found if v.split()[1] != "prerun"} == {
        "tiny logits", "tiny graph 4", "tiny eager 4", "tiny sft", "tiny kd", "tiny evaluate", "tiny starved",
    }  # fmt: skip
    assert found["tiny kd"]["cache_by"] == "teacher"
    cache = LogitCache.open(tmp_path / "cache")
    assert (cache.n_examples, cache.k) == (8, 8)
    sft, logits, graph = found["tiny sft"], found["tiny logits"], found["tiny graph 4"]
    assert sft["positions"] == sft["steps"] * 4 * 32
    assert 0 < sft["label"] < sft["positions"]
    assert "label" not in graph
    assert graph["generated"] == graph["steps"] * 4 * 8
    assert graph["positions"] > graph["generated"]
    assert logits["label_per_s"] * logits["seconds"] == pytest.approx(logits["label"])


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*QUICK, "part=students", "modes=sft,evaluate", f"out={tmp_path}"]
    (tmp_path / "windows-before.jsonl").write_text(
        json.dumps({"variant": "tiny sft", "repeat": 0}) + "\n"
        + json.dumps({"variant": "tiny evaluate", "repeat": 0, "error": "OutOfMemoryError: x"}) + "\n"
    )  # fmt: skip
    assert h100.run(words) == 0
    assert [line["variant"] for line in lines(tmp_path)] == ["tiny evaluate"]
    assert h100.run(words) == 0
    assert len(lines(tmp_path)) == 1


def test_only_archives_of_windows_are_read_whatever_else_lies_beside_them(tmp_path: Path) -> None:
    mine = ["students-20261124T193721Z.tar.gz", "eager-20261124T195021Z.tar.gz"]
    for name in (*mine, "same-load.tar.gz", "frontier-20261124T195021Z.tar.gz", "accuracy.tar.gz"):
        (tmp_path / name).touch()
    assert {path.name for path in archives(tmp_path)} == set(mine)


def piece(tmp_path: Path, **settings: Any) -> h100_config.Piece:
    config = h100_config.load(["pretend=true", "window_s=0", "repeats=2", f"out={tmp_path}"])
    return h100_config.piece_of(h100_config.replace(config, **settings))


def variant(name: str, start: Any) -> Variant:
    return Variant(name, "student.train", start)


def one() -> Iterator[Work]:
    while True:
        yield Work(Counts(4, 3, 2))


def test_what_fails_is_a_line_with_its_reason_and_the_piece_goes_on(tmp_path: Path) -> None:
    def fails() -> Iterator[Work]:
        yield Work(Counts(1, 1, 1))
        raise MemoryError("no room\nsecond line")

    here = piece(tmp_path)
    assert h100_windows.rounds(here, [variant("a", one), variant("b", fails)]) == {"b"}
    found = lines(tmp_path)
    assert [line.get("error") for line in found if line["variant"] == "b"] == ["MemoryError: no room"]
    assert [line["label"] for line in found if line["variant"] == "a"] == [2, 2]


def test_a_piece_out_of_time_begins_nothing_and_says_what_is_left(tmp_path: Path) -> None:
    here = piece(tmp_path, minutes=-1)
    h100_windows.rounds(here, [variant("a", one)])
    assert here.left == ["a #0", "a #1"]
    assert not (tmp_path / "windows.jsonl").exists()
    assert h100.run([*QUICK, "part=students", "modes=sft", "minutes=-1", f"out={tmp_path}"]) == AGAIN


def test_where_no_graph_can_be_recorded_the_static_cache_alone_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = h100_teacher.generate

    def without_graphs(*given: Any, graph: bool, **named: Any) -> Any:
        if graph:
            raise RuntimeError("operation not permitted when stream is capturing")
        return true(*given, graph=graph, **named)

    monkeypatch.setattr(h100_teacher, "generate", without_graphs)
    assert h100.run([*QUICK, "part=generate", "batches=4", f"out={tmp_path}"]) == 0
    found = [
        (line["variant"], bool(line.get("error")))
        for line in lines(tmp_path)
        if "prerun" not in line["stage"]
    ]
    assert found == [("tiny graph 4", True), ("tiny static 4", False)]


def test_unknown_words_get_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="unknown key windows_s"):
        h100.run(["windows_s=3"])
    with pytest.raises(DistillError, match="part is 'student'"):
        h100.run(["part=student"])


NO_DOUBT = {"u_total_j": None, "u_random_j": None}


def kind(name: str, stage: str, unit: str, j_per: float, *, starve: float = 0.0, **facts: Any) -> Kind:
    """Two windows of exactly that many joules a token."""
    windows = [
        {unit: 1000 * n, "positions": 3000 * n if unit == "label" else 1000 * n, "seconds": 10.0,
         "energy": {"total_j": j_per * 1000 * n, "gpu_j": 5000.0, "seconds": 10.0, **NO_DOUBT},
         "starved": starved.Starved(share=starve), "store": "a", "repeat": n, "board": "A"}
        for n in (1, 2)
    ]  # fmt: skip
    return Kind(name, {"stage": stage, **facts}, windows)


def test_the_page_counts_as_the_posters_formula_does() -> None:
    kinds = {
        k.name: k
        for k in (
            kind("1b sft", "student.train", "positions", 0.012),
            kind("1b kd", "student.train", "label", 0.036),  # 0.012 a position: as much as SFT
            kind("1b starved", "student.train", "label", 0.2, starve=0.6),
            kind("32b logits", "teacher.logits", "positions", 0.09),
            kind("32b eager 8", "teacher.generate", "generated", 3.0, batch=8, how="eager"),
            kind("32b graph 64", "teacher.generate", "generated", 0.36, batch=64, how="graph"),
        )
    }
    assert poster.best_generation(kinds) is kinds["32b graph 64"]
    assert poster.kwh(kinds["32b logits"], "positions", 199e6).mean == pytest.approx(199e6 * 0.09 / 3.6e6)
    text = page.thresholds(kinds)
    # The cache takes 4.975 kWh. SFT at 6.3 kWh / 0.026 J a position: 2.908 kWh; KD of 70 M labels: 0.7 kWh.
    saving = 6.3 * 0.012 / 0.026 - 0.7
    assert f"| {11 / 1.1:.1f} | {4.975 / saving:.2g} (" in text
    assert "| never |" in text  # at equal tokens nothing is saved
    # Generation: 9.94 M at 0.36 J is 0.994 kWh; synthetic students save as SFT does, by 6.3 - 5.35 kWh.
    assert f"{0.994 / (0.95 * 0.012 / 0.026):.2g} (" in text
    assert "is caught by the STARVED flag (down" in page.steps(kinds)
    assert f"{5.74 / (5.38e6 * 0.36 / 3.6e6):.2f}" in page.logged(kinds)
    assert "| 8 | 3 ± 0 (150) | – |" in page.generation(kinds)


@pytest.mark.parametrize(
    ("saving", "wanted"),
    [(Value(2.0, 0.5), "5 (4 to 6.7)"), (Value(1.0, 2.0), "10, inside noise (from 3.3, no upper bound)"),
     (Value(-1.0, 0.5), "never"), (Value(-1.0, 2.0), "never, or inside noise"), (Value(None), "–")],
)  # fmt: skip
def test_a_break_even_has_an_interval_or_says_that_there_is_none(saving: Value, wanted: str) -> None:
    assert poster.break_even(Value(10.0), saving) == wanted


def test_a_difference_of_two_lone_windows_below_what_repeats_differ_is_no_saving() -> None:
    """KD 0.65 % below SFT, one window each: neither a ratio nor an N* may look sure of it."""
    kinds = {
        k.name: k
        for k in (
            kind("13b sft", "student.train", "positions", 0.1899),
            kind("13b kd", "student.train", "label", 0.1887 * 3),
            kind("32b logits", "teacher.logits", "positions", 0.09),
        )
    }
    sure = page.thresholds(kinds)
    assert "inside noise" not in sure
    assert "| 13b | " in sure
    for lone in kinds.values():
        del lone.windows[1:]
    assert kinds["13b sft"].j_per("positions").half == pytest.approx(0.1899 * 0.01)
    text = page.thresholds(kinds)
    assert "| 13b * | " in text
    assert "inside noise (from " in text
    ratio = page.steps(kinds).partition("takes ")[2].partition(" times")[0]
    assert ratio == "0.9937 ± 0.014"


def seen_by(k: Kind, *boards: str, common: float = 0.06) -> Kind:
    """The same windows, each of a board whose sensor may be wrong by that share, and by nothing else."""
    for window, board in zip(k.windows, boards, strict=True):
        doubt = {"u_total_j": common * window["energy"]["total_j"], "u_random_j": 0.0}
        window.update(board=board, energy={**window["energy"], **doubt})
    return k


def test_what_a_sensor_has_wrong_cancels_on_one_board_and_not_between_two() -> None:
    sft, kd, elsewhere = (
        seen_by(kind("1b", "student.train", "positions", j), *boards).j_per("positions")
        for j, boards in ((0.02, "AA"), (0.03, "AA"), (0.03, "BB"))
    )
    assert sft.half == pytest.approx(0.06 * 0.02)
    assert kd.over(sft).mean == pytest.approx(1.5)
    assert kd.over(sft).half == pytest.approx(0, abs=1e-12)
    assert elsewhere.over(sft).half == pytest.approx(1.5 * 0.06 * 2**0.5)
    assert kd.less(sft).half == pytest.approx(0.06 * 0.01)
    assert kd.plus(sft).half == pytest.approx(0.06 * 0.05)
    assert elsewhere.plus(sft).half == pytest.approx(0.06 * (0.02**2 + 0.03**2) ** 0.5)
    assert kd.beside(sft).half == pytest.approx(0, abs=1e-12)
    assert elsewhere.beside(sft).half == pytest.approx(0.03 * 0.06 * 2**0.5)
    half_here = seen_by(kind("1b", "student.train", "positions", 0.03), "A", "B").j_per("positions")
    assert half_here.half == pytest.approx(0.03 * 0.06 / 2**0.5)
    assert half_here.over(sft).half == pytest.approx(1.5 * 0.06 / 2**0.5)


def test_a_break_even_knows_how_much_of_the_doubt_both_sides_share() -> None:
    saving = Value(2.0, 0.1, {"A": 0.4})
    assert poster.break_even(Value(10.0, 0.5, {"A": 2.0}), saving) == "5 (4.7 to 5.4)"  # as if without
    assert poster.break_even(Value(10.0, 0.5), Value(2.0, 0.1)) == "5 (4.7 to 5.4)"
    assert poster.break_even(Value(10.0, 0.5, {"B": 2.0}), saving) == "5 (3.7 to 6.7)"


def test_a_step_is_compared_in_pairs_of_one_model_load() -> None:
    """The second board draws 4 % more for both: that is no doubt about how they compare."""
    both = [kind("1b", "student.train", "positions", j) for j in (0.021, 0.02)]
    for k in both:
        second = k.windows[1]
        second["store"] = "b"
        second["energy"] = {**second["energy"], "total_j": 1.04 * second["energy"]["total_j"]}
    ratio = both[0].over(both[1], "positions")
    assert ratio.mean == pytest.approx(1.05)
    assert ratio.half == pytest.approx(0, abs=1e-9)
    del both[0].windows[1]
    lone = both[0].over(both[1], "positions")
    assert lone.half is not None
    assert lone.half > 0.02


def three_sizes(kd_of_sft: float, *, cache: float = 0.09, evaluate: bool = True) -> dict[str, Kind]:
    """Everything a page needs, a KD position taking `kd_of_sft` times what an SFT position takes."""
    found = [
        kind("32b logits", "teacher.logits", "positions", cache),
        kind("32b graph 64", "teacher.generate", "generated", 0.36, batch=64, how="graph"),
    ]
    for size, j in zip(poster.SIZES, (0.026, 0.0995, 0.19), strict=True):
        found += [
            kind(f"{size} sft", "student.train", "positions", j),
            kind(f"{size} kd", "student.train", "label", 3 * j * kd_of_sft),
        ]
        found += [kind(f"{size} evaluate", "evaluate", "positions", j / 4)] if evaluate else []
    return {k.name: k for k in found}


def verdicts(kinds: dict[str, Kind]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(claim, size) to (as logged, at equal positions, verdict)."""
    text = claims.claims(kinds, learnt=False)
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if " | " in line]
    return {(row[0].partition(" (")[0], row[1]): (row[3], row[4], row[5]) for row in rows}


def test_a_conclusion_holds_or_flips_by_both_ways_to_divide_the_tokens() -> None:
    kinds = three_sizes(1.05)
    for lone in kinds.values():
        del lone.windows[1:]  # now each has the doubt of a repeat that there is not
    told = verdicts(kinds)
    # SFT of the 1B: 6.3 kWh. KD: 70 M labels at 3 x 0.026 x 1.05 J are 1.5925 kWh, the cache 4.975.
    once, equal, verdict = told["Used once, KD takes more energy than SFT", "1b"]
    assert once.partition(" ")[0] == f"{(1.5925 + 4.975) / 6.3:.4g}"
    assert equal.partition(" ")[0] == f"{1.05 + 4.975 / 6.3:.4g}"
    assert verdict == "holds"
    dearer = told["Used once, KD takes more energy than SFT", "13b"]
    assert dearer[2] == "flips as logged, holds at equal positions"
    half = "holds as logged, flips at equal positions"
    assert told["Reuse makes KD pay", "7b"][2] == half
    # As many positions of the same work save exactly nothing, whatever their doubt: that is no noise.
    assert told["Reuse makes Synthetic SFT pay", "7b"][1:] == ("never", half)
    assert told["Synthetic data generation is a near-fixed cost", "32b graph 64"][2].startswith("flips")
    dominates = told["SFT strictly dominates on the energy-quality frontier at 7B and 13B", ""]
    assert dominates[2].startswith("not measured")


def test_a_cheaper_kd_step_and_a_dear_cache_turn_the_verdicts() -> None:
    told = verdicts(three_sizes(0.5, cache=1.0))
    assert told["Used once, KD takes more energy than SFT", "13b"][2] == "holds"
    assert told["Reuse makes KD pay", "13b"][2] == "holds"
    assert told["Logit caching rivals its student's training", "13b"][2] == "holds"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(Value(1.2, 0.1), True), (Value(0.8, 0.1), False), (Value(1.05, 0.1), None), (Value(None), None)],
)
def test_what_lies_within_its_doubt_is_neither_above_nor_below(value: Value, wanted: bool | None) -> None:
    assert claims.above(value, 1) is wanted


def test_the_table_for_energyq_gives_the_pages_own_break_even(tmp_path: Path) -> None:
    from energyq.breakeven import break_even
    from energyq.study_csv import read_csv

    kinds = three_sizes(1.0)
    path = tmp_path / "h100-study.csv"
    path.write_text(budgets.table(kinds))
    answers = {(a.pipeline, a.student, a.stop): a for a in break_even(read_csv(str(path)))}
    for pipeline in ("kd", "synthetic"):
        here = budgets.sides(kinds, pipeline, "7b", budgets.LOGGED)
        assert here is not None
        assert here.teacher.mean is not None
        assert here.saving.mean is not None
        asked = answers[pipeline, "7B", budgets.LOGGED]
        assert asked.n_star == pytest.approx(here.teacher.mean / here.saving.mean, rel=1e-4)
    # A KD step at the cost of an SFT step saves nothing on as many positions.
    assert answers["kd", "1B", budgets.EQUAL].saving_j == pytest.approx(0, abs=1e3)
    assert {s.partition(".")[0] for e in read_csv(str(path)).executions for s in e.stages} == {
        "student", "teacher", "evaluate"
    }  # fmt: skip


def test_what_was_measured_too_seldom_or_not_at_all_is_said_by_the_page() -> None:
    kinds = three_sizes(1.0, evaluate=False)
    del kinds["7b kd"].windows[1:]
    text = page.missing(kinds, learnt=False)
    assert "- 1 of 3 repeats: 7b kd." in text
    (never,) = [line for line in text.splitlines() if "Not measured at all" in line]
    assert "1b evaluate" in never
    assert "32b eager 8," in never
    assert "7b kd" not in never
    assert "frontier" not in page.missing(kinds, learnt=True)
    table = page.against(kinds)
    assert "| Evaluation | 7b | 0.68 | not known | – | – | not measured |" in table
    assert "| Student training (KD) | 7b | 16.35 | not known | – | – | in no log" in table


def test_the_overheads_ratio_is_that_of_paired_rounds_with_a_bootstrap_interval() -> None:
    dice = np.random.default_rng(1)
    drift = 1 + 0.2 * np.sin(np.arange(40))  # common to a round: it must not widen the interval
    bare = 0.2 * drift * (1 + 0.001 * dice.standard_normal(40))
    measured = 0.2004 * drift * (1 + 0.001 * dice.standard_normal(40))
    middle, low, high = overhead_gpu.ratio(measured, bare)
    assert low < middle < high
    assert middle == pytest.approx(1.002, abs=5e-4)
    assert high - low < 0.0015


def test_the_overheads_page_joins_calls_and_judges_the_upper_bound() -> None:
    def raw(seed: int, times: float) -> dict[str, Any]:
        dice = np.random.default_rng(seed)
        steps = 0.2 * (1 + 0.002 * dice.standard_normal((3, 40, 5)))
        by_kind = dict(
            zip(overhead_gpu.KINDS, (steps * np.array([1, 1, times])[:, None, None]).tolist(), strict=True)
        )
        return {
            "machine": "m", "cores": 2, "torch": "t", "began": "d", "seconds": 1.0, "step": "s", "steps": 5,
            "s_per_step": by_kind, "stored": (5, 5), "limit": 1.003,
        }  # fmt: skip

    text = overhead_gpu.page([raw(1, 1.0), raw(2, 1.0)])
    assert "80 rounds of 3 blocks" in text
    assert len([line for line in text.splitlines() if line.endswith("| 400 |")]) == 3
    assert text.count(", below 1.003") == 2
    assert overhead_gpu.page([raw(1, 1.01)]).count("NOT below 1.003") == 2


def test_the_published_pages_are_what_their_stores_say() -> None:
    folder = BENCH.parents[1] / "docs" / "results" / "h100-study"
    assert sum(archive.stat().st_size for archive in folder.iterdir()) <= 20e6
    for suffix, text in study.written(folder).items():
        kept = folder.with_name(folder.name + suffix).read_text()
        assert kept == text, f"{folder.name}{suffix} is not current: make bench-study"


@pytest.mark.long
def test_the_overhead_benchmark_measures_steps_that_reach_the_store(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.json"
    text = script("overhead_gpu.py", "--pretend", "--rounds", "2", "--block-s", "0.2", "--raw", str(raw),
                  env=fake_nvml.env)  # fmt: skip
    found = json.loads(raw.read_text())
    assert [len(blocks) for blocks in found["s_per_step"].values()] == [2, 2, 2]
    assert all(len(block) == found["steps"] for blocks in found["s_per_step"].values() for block in blocks)
    assert found["stored"][1] >= 2 * found["steps"]
    assert "| measured / bare" in text
