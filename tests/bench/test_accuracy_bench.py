"""Does the accuracy benchmark measure what it says, and does its report count as it says?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench.accuracy import details, report, sections, variants
from bench.accuracy.plan import FREE, TICK, one_at_a_time, plan
from bench.accuracy.raw import Load, read_all, save
from bench.accuracy.recorders import Poll
from bench.accuracy.stats import rows_of, summarise
from real_daemon import wait_for

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

BENCH = Path(__file__).parent
GRID = 100_000_000


def run(script: str, *options: str, env: dict[str, str]) -> str:
    command = [sys.executable, str(BENCH / script), *options]
    done = subprocess.run(command, env={**env, "PYTHONPATH": os.pathsep.join(sys.path)},
                          capture_output=True, text=True, timeout=110, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made_up(name: str, answers: dict[str, list[float]], *, length_s: float = 1.0, kind: int = TICK) -> Load:
    """300 W all along, the counter steps every 100 ms; one window a second for each answer (J)."""
    steps = np.arange(400, dtype=np.int64)
    a: dict[str, Any] = {"tick_k": steps, "tick_mj": steps * 30_000}
    a["tick_prev_ns"], a["tick_now_ns"] = steps * GRID - 1_000_000, steps * GRID + 1_000_000
    n = max(len(values) for values in answers.values())
    k0 = np.arange(n) * 10
    k1 = k0 + round(length_s * 10)
    a["win_kind"], a["win_length_s"] = np.full(n, kind, dtype=np.int8), np.full(n, length_s)
    a["win_k0"], a["win_k1"] = (k0, k1) if kind == TICK else (np.full(n, -1), np.full(n, -1))
    a["win_t0_ns"], a["win_t1_ns"] = k0 * GRID, k1 * GRID
    for tool, values in answers.items():
        w = np.arange(len(values))
        a[f"tool:{tool}:w"], a[f"tool:{tool}:energy_j"] = w, np.array(values)
        for edge, t_ns in (("begin", k0), ("begun", k0), ("end", k1), ("ended", k1)):
            a[f"tool:{tool}:{edge}_ns"] = t_ns[w] * GRID
    return Load(name, {"began_ns": 1, "tools": {}, "seconds": 40}, a)


def test_the_whole_benchmark_runs_over_the_fake_library_and_energyd_is_close(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    out = run(
        "accuracy/run.py", "--out", str(tmp_path / "raw"), "--loads", "cpu-fake", "--seconds-per-load", "7",
        "--scale", "0.2", "--only-tools", "energyd-stage,poster-average,poster-instant,polled-instant",
        env=fake_nvml.env,
    )  # fmt: skip
    assert "cpu-fake: kept" in out, out
    (load,) = read_all(tmp_path / "raw")
    edges = np.rint(load.tick_ns() / GRID).astype(int) * GRID
    truth = np.array([fake_nvml.energy_j(0, int(edges[0]), int(t)) for t in edges])
    assert (load["tick_mj"] - load["tick_mj"][0]) / 1000 == pytest.approx(truth, abs=0.01)
    for tool in ("energyd-ring", "energyd-stage"):
        rows = rows_of([load], tool)
        assert not rows.missing.any()
        assert len(rows.pick(1.0, TICK)) >= 5
        assert summarise(rows.pick(5.0)).p95 < 0.01
        assert abs(summarise(rows.pick(1.0)).mean) < 0.03
    assert rows_of([load], "poster-average").pick(0.2).missing.all()
    text = report.report(tmp_path / "raw")
    assert "### Windows of 5 s" in text
    assert "ZeusMonitor window | no result: not run" in text
    assert "--loads cpu-fake" in text
    assert "trapezoid, lag 0" in text


def test_what_an_unsynced_edge_loses_is_reported_for_a_pretended_queue(fake_nvml: FakeNvml) -> None:
    out = run("sync_edges.py", "--pretend", "--repeats", "2", "--queues", "0.2", env=fake_nvml.env)
    rows = {
        line.split(" | ")[1]: line.split(" | ") for line in out.splitlines() if line.startswith("| 0.2 s")
    }
    assert set(rows) == {"manual", "synced", "unsynced", "after-unsynced", "after-synced"}
    assert float(rows["synced"][4]) == pytest.approx(1, abs=0.1)
    assert float(rows["unsynced"][4]) < 0.2


def test_zero_joules_and_no_answer_count_as_missing_and_not_as_an_error() -> None:
    load = made_up("square-50ms", {"zeus-window": [0.0, np.nan, 303.0, 300.0]})
    found = summarise(rows_of([load], "zeus-window").pick(1.0))
    assert (found.n, found.missing) == (4, 0.5)
    assert found.p50 == pytest.approx(0.005)
    assert found.worst == pytest.approx(0.01)


def test_a_poll_with_interpolated_edges_covers_the_window_and_one_without_loses_its_ends() -> None:
    powers = iter([100_000] * 10_000)
    energies = []
    for edges in (False, True):
        poll = Poll(lambda: next(powers), 0.05, edges=edges)
        wait_for(lambda poll=poll: len(poll.samples(0, 1 << 62)) >= 12)
        poll.close()
        t_ns = poll.samples(0, 1 << 62)[:, 0]
        t0_ns, t1_ns = int(t_ns[2] + t_ns[3]) // 2, int(t_ns[9] + t_ns[10]) // 2
        energies.append(poll.energy_j(t0_ns, t1_ns) / ((t1_ns - t0_ns) / 1e9 * 100))
        assert poll.energy_j(int(t_ns[3]) + 1, int(t_ns[4]) - 1) is None or edges
    assert energies[0] == pytest.approx(6 / 7, abs=0.08)
    assert energies[1] == pytest.approx(1, abs=1e-6)


def test_a_tool_that_never_answers_has_a_rate_of_one_and_no_percentiles() -> None:
    load = made_up("idle", {"codecarbon": [0.0, 0.0]})
    found = summarise(rows_of([load], "codecarbon"))
    assert (found.missing, found.p50, found.p95) == (1.0, None, None)


def test_the_mean_of_repeats_weighs_every_joule_alike() -> None:
    load = made_up("bursts", {"energyd-ring": [330.0, 270.0, 306.0, 300.0]}, kind=FREE)
    rows = rows_of([load], "energyd-ring").pick(1.0, FREE)
    assert rows.reference_j == pytest.approx([300.0] * 4)
    assert summarise(rows).mean == pytest.approx(6 / 1200)
    assert summarise(rows).p50 == pytest.approx(0.01)


def test_a_free_window_is_judged_between_the_instants_at_which_the_tool_was_called() -> None:
    load = made_up("bursts", {"zeus-window": [300.0]}, kind=FREE)
    load.arrays["tool:zeus-window:end_ns"] = load.tool("zeus-window", "end_ns") + 50_000_000
    assert rows_of([load], "zeus-window").reference_j == pytest.approx([315.0])


def test_windows_whose_steps_are_not_known_well_are_left_out_for_every_tool() -> None:
    load = made_up("bursts", {"energyd-ring": [300.0] * 5, "nvitop-1s": [300.0] * 5})
    load["tick_prev_ns"][10] -= 60_000_000
    assert len(rows_of([load], "energyd-ring")) == len(rows_of([load], "nvitop-1s")) == 3


def test_targets_are_met_or_not_by_what_was_measured() -> None:
    good = made_up(
        "square-100ms", {"energyd-ring": [3003.0] * 9, "poster-instant": [2700.0] * 9}, length_s=10
    )
    bad = made_up("square-100ms", {"energyd-ring": [3060.0] * 9, "poster-instant": [2990.0] * 9}, length_s=10)
    for load, words, ratio in ((good, "yes", "100.0 times | yes"), (bad, "**no**", "0.2 times | **no**")):
        lines = sections.acceptance([load])
        assert words in next(line for line in lines if "at 10 s ≤ 1.3 %" in line)
        assert ratio in next(line for line in lines if "poster-instant" in line and "10 s" in line)
        assert "not measured" in next(line for line in lines if "at 30 s" in line)


def test_a_tool_that_is_not_installed_has_a_row_that_says_so(tmp_path: Path) -> None:
    load = made_up("idle", {"energyd-ring": [300.0]})
    load.meta["tools"] = {"nvitop-1s": ["not installed: No module named 'nvitop'"]}
    save(tmp_path, load)
    session = {
        "began": "2026",
        "tools": {"nvitop-1s@1": {"failed": "not installed: No module named 'nvitop'"}},
    }
    (tmp_path / "session-2026.json").write_text(json.dumps(session))
    text = report.report(tmp_path)
    assert text.count("no result: not installed: No module named 'nvitop'") == len(sections.LENGTHS)
    assert "- nvitop-1s@1: not installed" in text


def test_a_load_measured_twice_keeps_both_recordings(tmp_path: Path) -> None:
    for energy_j in (300.0, 303.0):
        save(tmp_path, made_up("idle", {"energyd-ring": [energy_j]}))
    assert sorted(rows_of(read_all(tmp_path), "energyd-ring").energy_j) == [300.0, 303.0]


def test_the_share_of_stages_within_their_stated_doubt_is_counted_per_figure() -> None:
    load = made_up("idle", {"energyd-stage": [303.0, 297.0, 300.0, 330.0]})
    load.arrays["ring_t_ns"] = np.arange(1, 2000) * 20_000_000
    load.arrays["ring_mw"] = np.full(1999, 300_000)
    # Called 5 ms late at both edges, at even power: nothing changes.
    for edge in ("begin_ns", "end_ns"):
        load.tool("energyd-stage", edge)[:] += 5_000_000
    load.arrays["stage:energy_j"] = load.tool("energyd-stage", "energy_j")
    load.arrays["stage:integral_j"] = np.array([300.0, 300.0, np.nan, 300.0])
    load.arrays["stage:u_random_j"] = np.full(4, 4.0)
    load.arrays["stage:u_integral_j"] = np.array([1.0, 1.0, np.nan, np.nan])
    load.meta["stage_words"] = [{"flags": ["aliased"], "method": "counter"}] * 2
    lines = details.doubt([load])
    assert any(line.startswith("| `energy_j` | 1 s | 4 | 4 | 75.0 % (") for line in lines)
    assert any(line.startswith("| `integral_j` | 1 s | 4 | 2 | 100.0 % (") for line in lines)
    assert lines[-1] == "Flags of these stages: aliased 2. Methods: counter 2."


def test_windows_stay_inside_the_steady_time_and_share_no_step_of_the_counter() -> None:
    windows = plan(seed=3, first_k=50, first_ns=5_000_000_000, ticks=450, period_ns=GRID)
    assert all(5_000_000_000 <= w.t0_ns < w.t1_ns <= 50_000_000_000 for w in windows)
    edges = [k for w in windows if w.kind == TICK for k in (w.k0, w.k1)]
    assert len(edges) == len(set(edges))
    assert sum(w.length_s == 0.2 and w.kind == FREE for w in windows) >= 50
    assert plan(seed=3, first_k=50, first_ns=5_000_000_000, ticks=450, period_ns=GRID) == windows


@pytest.mark.parametrize("length_s", [0.2, 5.0])
def test_a_tool_that_knows_one_window_at_once_gets_windows_that_do_not_touch(length_s: float) -> None:
    windows = plan(seed=3, first_k=50, first_ns=0, ticks=450, period_ns=GRID)
    kept = one_at_a_time([w for w in windows if w.length_s == length_s], 120_000_000)
    kept.sort(key=lambda w: w.t0_ns)
    assert len(kept) >= 4
    assert all(b.t0_ns >= a.t1_ns + 120_000_000 for a, b in pairwise(kept))


def test_variants_find_the_ring_that_reports_the_mean_since_its_last_sample() -> None:
    load = made_up("square-50ms", {"energyd-ring": [300.0] * 30}, length_s=0.2)
    stamps = np.arange(0, 2000) * 20_000_000
    power = np.where(stamps // 60_000_000 % 2 == 0, 100.0, 700.0)  # power of the 20 ms that follow a stamp
    energy = np.concatenate(([0.0], np.cumsum(power) * 0.02))
    load.arrays["tick_mj"] = np.round(np.interp(load.tick_ns(), stamps, energy[:-1]) * 1000).astype(np.int64)
    load.arrays["ring_t_ns"] = stamps[1:] - 4_000_000  # the store has taken 4 ms off
    load.arrays["ring_mw"] = np.round(power[:-1] * 1000).astype(np.int64)
    load.meta["lag_ns"] = 4_000_000
    exact = variants.errors(load, lambda one, at: variants.rectangle(one, at, 0.0))
    assert np.abs(exact[1:]).max() < 1e-4  # the first one begins before the ring does
    shifted = variants.errors(load, lambda one, at: variants.rectangle(one, at, 20e6))
    assert np.abs(shifted).max() > 0.05
    assert variants.best_lag_ms([load], variants.rectangle) == 0
    assert any("counter-anchored every 1 s" in line for line in variants.table([load]))


def test_the_report_that_is_kept_is_what_the_kept_raw_data_give() -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    script = Path(report.__file__)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run(
        [sys.executable, script, results / "accuracy-h100"],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    assert made.stdout == (results / "accuracy-h100.md").read_text()
