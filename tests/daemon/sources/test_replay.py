"""Is a replay the recording, in time and in joules?"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest

from energyd.sources import Break, CounterRead, Event, Exhausted, PowerSamples, SourceError, TraceMarker
from energyd.sources.discover import discover
from energyd.sources.replay import ReplaySource
from energyd.sources.trace import load


def play(source: ReplaySource, seconds: float = 60) -> list[Event]:
    """All events until the trace is exhausted."""
    events: list[Event] = []
    deadline = time.monotonic() + seconds
    while not any(isinstance(event, Exhausted) for event in events):
        assert time.monotonic() < deadline
        events += source.read()
        time.sleep(0.01)
    return events


def curve(events: list[Event]) -> tuple[np.ndarray, np.ndarray]:
    mine = [event for event in events if isinstance(event, PowerSamples)]
    return np.concatenate([e.t_ns for e in mine]), np.concatenate([e.power_mw for e in mine])


def columns(path: Path) -> dict[str, np.ndarray]:
    with gzip.open(path, "rt") as file:
        return np.genfromtxt(file, delimiter=",", names=True, dtype=np.int64)


def write(path: Path, *rows: str) -> None:
    with gzip.open(path, "wt") as file:
        file.write("\n".join(rows) + "\n")


def test_the_square_waves_play_the_ring_sample_by_sample_in_trace_time(traces):
    source = ReplaySource(traces / "h100_square_waves", speed=100)
    source.open()
    events = play(source)
    source.close()
    recorded = columns(traces / "h100_square_waves/ring.csv.gz")
    t_ns, power_mw = curve(events)
    assert np.array_equal(t_ns - t_ns[0], recorded["t_ns"] - recorded["t_ns"][0])
    assert np.array_equal(power_mw, recorded["power_mw"])


def test_windows_become_markers_whose_energy_is_the_counters_within_one_percent(traces):
    folder = traces / "h100_square_waves"
    source = ReplaySource(folder, speed=200)
    source.open()
    (info,) = source.devices()
    events = play(source)
    t_ns, power_mw = curve(events)
    assert np.diff(t_ns).max() <= info.max_step_ns
    edges: dict[str, dict[str, int]] = {}
    for event in events:
        if isinstance(event, TraceMarker):
            assert event.run == "h100_square_waves"
            edges.setdefault(event.stage, {})[event.kind] = event.t_ns
    windows = json.loads((folder / "windows.json").read_text())
    assert set(edges) == {window["name"] for window in windows}
    running_j = np.concatenate([[0.0], np.cumsum(np.diff(t_ns) * (power_mw[1:] + power_mw[:-1]) / 2e12)])
    for window in windows:
        begin, end = edges[window["name"]]["begin"], edges[window["name"]]["end"]
        assert end - begin == window["end_ns"] - window["begin_ns"]
        joules = np.interp(end, t_ns, running_j) - np.interp(begin, t_ns, running_j)
        assert joules == pytest.approx(window["counter_j"], rel=0.01)


def test_a_trace_without_ring_plays_instant_power_with_its_tokens_and_its_counter(traces):
    source = ReplaySource(traces / "h100_llm_stages", speed=400)
    source.open()
    (info,) = source.devices()
    assert (info.source, info.origin) == ("replay", "replayed")
    assert "polled.csv.gz" in info.name
    events = play(source)
    ends = [e for e in events if isinstance(e, TraceMarker) and e.kind == "end"]
    assert [e.stage for e in ends][:2] == ["prerun", "sft_1B"]
    assert ends[1].counts == {"positions": 753_664}
    assert ends[0].counts == {}
    reads = [e for e in events if isinstance(e, CounterRead)]
    spans = np.diff([read.t_ns for read in reads])
    assert 165 <= len(reads) <= 180
    assert spans.min() >= 0.9e9
    assert (np.diff([read.energy_mj for read in reads]) >= 0).all()
    t_ns, power_mw = curve(events)
    joules = float(np.sum(np.diff(t_ns) * (power_mw[1:] + power_mw[:-1]) / 2e12))
    assert joules == pytest.approx((reads[-1].energy_mj - reads[0].energy_mj) / 1000, rel=0.03)


def test_at_speed_one_it_loops_for_ever_with_the_seam_as_a_break_and_no_markers_of_its_own(tmp_path):
    write(tmp_path / "ring.csv.gz", "t_ns,power_mw", *(f"{i * 20_000_000},{100_000 + i}" for i in range(11)))
    write(tmp_path / "counter.csv.gz", "t_ns,energy_mj", "0,5000", "100000000,5010")
    (tmp_path / "windows.json").write_text(json.dumps([{"name": "a", "begin_ns": 0, "end_ns": 10**8}]))
    source = ReplaySource(tmp_path)
    source.open()
    events: list[Event] = []
    deadline = time.monotonic() + 20
    while sum(isinstance(event, Break) for event in events) < 3:
        assert time.monotonic() < deadline
        events += source.read()
        time.sleep(0.01)
    t_ns, power_mw = curve(events)
    assert (np.diff(t_ns) == 20_000_000).all()
    assert power_mw[:12].tolist() == [*range(100_000, 100_011), 100_000]
    breaks = [event for event in events if isinstance(event, Break)]
    assert {(b.reason, b.counter_reset) for b in breaks} == {("loop", True)}
    assert sum(isinstance(event, CounterRead) for event in events) >= 3
    assert not [event for event in events if isinstance(event, TraceMarker | Exhausted)]


def test_only_the_gpu_is_replayed_and_the_other_domains_say_why_they_are_absent(traces):
    (source,) = discover(f"replay:{traces / 'h100_square_waves'}")
    states = {info.domain: (info.state, info.reason) for info in source.domains()}
    assert states["gpu"][0] == "replayed"
    assert states["cpu"][0] == states["dram"][0] == "absent"
    assert states["cpu"][1]


def nothing(folder: Path) -> None:
    (folder / "readme.txt").write_text("no trace")


def wrong_column(folder: Path) -> None:
    write(folder / "ring.csv.gz", "time,power_mw", "0,1", "1,2")


def not_a_number(folder: Path) -> None:
    write(folder / "ring.csv.gz", "t_ns,power_mw", "0,1", "1,two")


def not_gzip(folder: Path) -> None:
    (folder / "ring.csv.gz").write_text("t_ns,power_mw\n0,1\n1,2\n")


def cut_short(folder: Path) -> None:
    write(folder / "ring.csv.gz", "t_ns,power_mw", *(f"{i},{i * i}" for i in range(500)))
    whole = (folder / "ring.csv.gz").read_bytes()
    (folder / "ring.csv.gz").write_bytes(whole[: len(whole) // 2])


def back_in_time(folder: Path) -> None:
    write(folder / "ring.csv.gz", "t_ns,power_mw", "5,1", "3,2")


def bad_markers(folder: Path) -> None:
    write(folder / "ring.csv.gz", "t_ns,power_mw", "0,1", "1,2")
    (folder / "markers.json").write_text('[{"marker": "train:middle", "t_ns": 1}]')


def bad_windows(folder: Path) -> None:
    write(folder / "ring.csv.gz", "t_ns,power_mw", "0,1", "1,2")
    (folder / "windows.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (nothing, "neither"),
        (wrong_column, "ring.csv.gz"),
        (not_a_number, "ring.csv.gz"),
        (not_gzip, "ring.csv.gz"),
        (cut_short, "ring.csv.gz"),
        (back_in_time, "ring.csv.gz"),
        (bad_markers, "markers.json"),
        (bad_windows, "windows.json"),
    ],
)
def test_a_folder_that_is_no_trace_is_refused_with_what_where_and_cure(tmp_path, spoil, named):
    spoil(tmp_path)
    with pytest.raises(SourceError, match=named) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert len(text.splitlines()) <= 3


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        ReplaySource(tmp_path / "gone").open()


@pytest.mark.parametrize(
    ("trace", "sensor", "update_ms"), [("h100_square_waves", "ring", 20), ("h100_llm_stages", "instant", 100)]
)
def test_a_replay_says_which_sensor_was_recorded_and_how_often_that_was_new(
    traces: Path, trace: str, sensor: str, update_ms: float
) -> None:
    source = ReplaySource(traces / trace, 1.0, 0.5)
    source.open()
    (info,) = source.devices()
    source.close()
    assert info.sensors[0].sensor == sensor
    assert info.sensors[0].period_ns == pytest.approx(update_ms * 1e6, rel=0.1)
    assert info.sensors[1].sensor == "counter"
