"""Does the picture fit its terminal, whatever there is to show?"""

from __future__ import annotations

import pytest
from rich.console import Console

from energyd.top_look import PLAIN, Look, rates
from energyd.top_state import TopState
from energyd.top_view import curve, screen
from energyd_client.protocol import DeviceList

from .test_top_state import T0, S, device, health, samples, stage


def drawn(
    state: TopState, width: int, height: int, local_ns: int = 2 * S, look: Look = PLAIN, frozen: bool = False
) -> list[str]:  # fmt: skip
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    body, foot = screen(state, local_ns, 0, width, height, look=look, frozen=frozen)
    with console.capture() as captured:
        console.print(body)
        console.print(foot)
    return captured.get().splitlines()


@pytest.fixture
def busy() -> TopState:
    """Eight GPUs, a CPU, a deep tree of stages and many finished ones."""
    state = TopState()
    rows = [device(i, name="NVIDIA H100 80GB HBM3") for i in range(8)] + [
        device(8, "cpu", origin="estimated")
    ]
    state.take(health(S, devices=rows), S)
    for i in range(9):
        state.take(samples(i, T0 + S, 10**9), S)
    for i in range(40):
        above = f"s{i - 1}" if i % 5 else None
        state.take(stage(f"s{i}", parent_id=above, run_id=f"run-{i // 20}", begin_uj={0: 0, 8: 0}), S)
    for i in range(30):
        state.take(stage(f"f{i}", state="final", status="ok", t1_ns=T0 + 2 * S, energy_uj={0: 1}), S)
    return state


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (100, 30), (200, 60)])
def test_the_picture_fits_with_eight_gpus_and_seventy_stages(busy: TopState, width: int, height: int) -> None:
    rows = drawn(busy, width, height)
    assert len(rows) <= height
    assert max(map(len, rows)) <= width
    text = "\n".join(rows)
    assert "gpu7" in text
    assert "more open" in text
    assert "FINISHED" in text


@pytest.mark.parametrize(("width", "height"), [(60, 20), (40, 8), (20, 5), (1, 1)])
def test_a_tiny_terminal_raises_nothing(busy: TopState, width: int, height: int) -> None:
    assert drawn(busy, width, height)


def test_before_anything_is_heard_it_says_that_it_listens() -> None:
    text = "\n".join(drawn(TopState(), 80, 24, 0))
    assert "listening" in text
    assert "no device heard of yet" in text
    assert "no open stage" in text


def test_a_machine_without_gpu_has_no_gpu_column_but_the_reason() -> None:
    state = TopState()
    domains = [{"domain": "gpu", "state": "absent", "source": None, "reason": "no NVIDIA driver"}]
    state.take(health(S, devices=[device(0, "cpu")], domains=domains), S)
    text = "\n".join(drawn(state, 80, 24))
    assert "gpu   – absent: no NVIDIA driver" in text
    assert " GPU " not in text


@pytest.mark.parametrize(
    ("origin", "words"),
    [("simulated", "sim = simulated"), ("replayed", "replay = a recorded trace"), ("estimated", "est")],
)
def test_power_that_nobody_measured_is_marked_and_explained(origin: str, words: str) -> None:
    state = TopState()
    state.take(health(S, devices=[device(0, origin=origin)]), S)
    rows = drawn(state, 80, 24)
    mark = words.split(" ", maxsplit=1)[0]
    assert any("GPU " + mark in row for row in rows)
    assert any(words in row for row in rows)


def test_a_silent_device_shows_a_dash_and_the_reason() -> None:
    state = TopState()
    state.take(DeviceList(1, [device(0)]), 0)
    state.take(samples(0, T0, 1), 0)
    (row,) = [r for r in drawn(state, 80, 24, 9 * S) if r.startswith("gpu0")]
    assert "– no sample for 9.0 s" in row
    assert "400 W" not in row


def test_a_stage_that_failed_says_so_and_a_pending_one_too() -> None:
    state = TopState()
    state.take(health(S), S)
    state.take(stage("train", state="final", status="error", t1_ns=T0 + 2 * S, energy_uj={0: 5_000_000}), S)
    state.take(stage("test", state="ended", status="ok", t1_ns=T0 + 3 * S), S)
    text = "\n".join(drawn(state, 80, 24))
    assert "✗ train (error)" in text
    assert "pending" in next(row for row in text.splitlines() if "✓ test" in row)


def test_curves_are_built_of_eighths_from_0_to_the_top() -> None:
    assert curve([0, 50, 100, None], 1, 100) == ["▁▄█·"]
    assert curve([25, 75, 100], 2, 100) == [" ▄█", "▄██"]
    assert curve([0.0], 1, 0.0) == ["▁"]


def two_stages() -> TopState:
    state = TopState()
    state.take(health(S, devices=[device(0)]), S)
    state.take(samples(0, T0 + S, 1_000_000_000), S)
    state.take(stage("cheap", t0_ns=T0, begin_uj={0: 900_000_000}), S)
    state.take(stage("dear", t0_ns=T0 + 1, begin_uj={0: 0}), S)
    state.take(samples(0, T0 + 2 * S, 8_200_000_000), 2 * S)
    return state


def test_stages_stand_in_the_order_asked_for() -> None:
    state = two_stages()

    def order(look: Look) -> list[str]:
        return [name for row in drawn(state, 80, 24, look=look) for name in ("cheap", "dear") if name in row]

    assert order(Look()) == ["cheap", "dear"]
    assert order(Look("energy")) == ["dear", "cheap"]
    assert order(Look("J/token")) == ["cheap", "dear"]  # unknown for both: as they began
    assert Look().next_order().order == "energy"


def test_what_was_watched_is_told_in_kwh_and_in_the_coins_that_are_set() -> None:
    state = two_stages()
    # 7.2 kJ since the first word: 0.002 kWh.
    assert any(r.startswith("watched 1.0 s: 7.20 kJ = 0.00200 kWh") for r in drawn(state, 80, 24))
    assert not any("gCO2e" in r or "GCO2E" in r for r in drawn(state, 160, 50))
    told = "\n".join(drawn(state, 160, 50, look=Look(rates=rates(400, "0.30EUR/kWh"))))
    assert "0.800 gCO2e · 0.000600 EUR" in told
    dear = next(row for row in told.splitlines() if "dear" in row)
    assert "0.00228" in dear  # 8.2 kJ in kWh,
    assert "0.911" in dear  # in grams,
    assert "0.000683" in dear  # and in euros


def test_a_frozen_picture_says_so_at_any_width() -> None:
    for width in (60, 80, 160):
        assert "FROZEN" in drawn(two_stages(), width, 24, frozen=True)[0]


def test_a_price_that_is_none_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"cure: --price 0\.30/kWh"):
        rates(None, "cheap")
