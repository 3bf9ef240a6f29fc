"""Is everything that the daemon knows in its answers, and nothing kept for ever?

A recorder over a real store, its rounds turned by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import energyd_client
from energyd import timeline
from energyd.accounting import SETTLE_NS
from energyd.answers import POWER_VALUES, Answers, curve
from energyd.config import Config
from energyd.energy import DeviceLog, Totals
from energyd.finals import ASKED_LATE_NS
from energyd.inbox import FLUSH_AT, Inbox
from energyd.keeping import SEAL_AFTER_NS
from energyd.ledger import Ledger
from energyd.recorder import Recorder
from energyd.sources import Break
from energyd.stages import Incoming
from energyd.store import HOUR_NS, Layout
from energyd.store.live import LiveFiles
from energyd.store.load import load
from energyd.store.write import CLIENT_MEMORY_NS, HotStore, StoreError
from energyd.timeline import Timeline
from energyd_client import clock
from energyd_client import protocol as p
from real_daemon import wait_for

MS = 1_000_000


class Silent:
    """A voice that keeps what it said."""

    def __init__(self) -> None:
        self.acks: dict[str, int] = {}

    def refuse(self, client: str, refusal: p.Refusal) -> None:
        raise AssertionError(refusal)

    def acknowledge(self, acks: dict[str, int]) -> None:
        self.acks.update(acks)

    def publish(self, topic: str, message: p.Message) -> None:
        pass


class Desk:
    """A recorder and who answers for it."""

    def __init__(self, folder: Path) -> None:
        layout = Layout(folder)
        line = timeline.begin(None, None)
        self.store = HotStore(layout)
        loaded = load(layout, self.store, clock.boot_id(), line.now_ns() // HOUR_NS)
        self.voice = Silent()
        self.recorder = Recorder(
            self.store, LiveFiles(layout), line, Ledger(line, {}, "reboot"), Inbox(), self.voice, loaded
        )
        config = Config(store=folder, endpoint="ipc://e", spool=folder)
        self.ask = Answers(config, self.recorder, dict)

    def say(self, client: str, *markers: p.Marker) -> None:
        now = self.recorder.timeline.now_ns()
        self.recorder.inbox.put_markers([Incoming(client, m, now, now, uid=1, pid=1) for m in markers])
        self.recorder.tick()

    def later(self, ns: int) -> None:
        line = self.recorder.timeline
        self.recorder.timeline = Timeline(line.boot_id, line.offset_ns + ns)
        self.recorder.keeping.next_seal = 0.0
        self.recorder.tick()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


BEGIN = (p.RunBegin(1, 1, "r", "train"), p.StageBegin(2, 1, "r", "s", "read", None, []))
END = (p.StageEnd(3, 1, "r", "s", "ok"), p.RunEnd(4, 1, "r", "ok"))


def stage_rows(desk: Desk) -> list[tuple[str, str]]:
    return [(row[1], row[8]) for row in desk.ask.tail()["rows"]["stages_log"]]


def test_a_stage_charged_to_no_device_is_found_when_it_is_final(desk: Desk) -> None:
    desk.say("c", *BEGIN)
    opened = desk.ask(p.AskStage(1, "s"))
    assert isinstance(opened, dict)
    assert opened == {
        "stage_id": "s", "state": "open", "t0_ns": opened["t0_ns"], "t1_ns": None, "energies": [],
    }  # fmt: skip
    desk.say("c", *END)
    desk.later(SETTLE_NS)
    final = desk.ask(p.AskStage(1, "s", True))
    assert isinstance(final, dict)
    assert final["t1_ns"] > final["t0_ns"] == opened["t0_ns"]
    assert (final["state"], final["energies"], final["power"]) == ("final", [], {})
    unknown = desk.ask(p.AskStage(1, "t"))
    assert isinstance(unknown, p.Refusal)
    assert unknown.code == "not_found"


def test_a_stage_whose_hour_was_sealed_meanwhile_can_still_be_asked_for_but_not_for_ever(desk: Desk) -> None:
    line = desk.recorder.timeline
    to_the_hour_ns = HOUR_NS - line.now_ns() % HOUR_NS
    desk.recorder.timeline = Timeline(line.boot_id, line.offset_ns + to_the_hour_ns - ASKED_LATE_NS // 2)
    desk.say("c", *BEGIN, *END)
    desk.later(SETTLE_NS)
    assert desk.ask(p.AskStage(1, "s"))["state"] == "final"  # type: ignore[index]
    desk.later(ASKED_LATE_NS // 2 + SEAL_AFTER_NS)
    assert desk.store.fetch("SELECT count(*) FROM stages_log") == [(0,)]  # sealed
    assert desk.ask(p.AskStage(1, "s"))["state"] == "final"  # type: ignore[index]
    desk.later(HOUR_NS)
    assert isinstance(desk.ask(p.AskStage(1, "s")), p.Refusal)


def log_of(t_ms: list[int], power_mw: list[int]) -> DeviceLog:
    log = DeviceLog(0, 40 * MS, Totals())
    log.append(np.array(t_ms, np.int64) * MS, np.array(power_mw, np.int32))
    return log


def test_a_curve_gives_each_value_the_time_of_the_stage_that_it_stands_for() -> None:
    log = log_of([0, 20, 40, 60, 200, 220, 240], [100, 200, 300, 400, 500, 600, 700])
    found = curve(log, 10 * MS, 230 * MS, 100)
    assert found["t_ns"] == [t * MS for t in (20, 40, 60, 200, 220, 240)]
    assert found["power_mw"] == [200, 300, 400, 500, 600, 700]
    assert found["dt_ns"] == [t * MS for t in (10, 20, 20, 0, 20, 10)]  # 140 ms of 220 are a gap


def test_a_curve_of_too_many_values_is_joined_without_losing_time_or_energy() -> None:
    log = log_of(list(range(0, 20_000, 20)), [100 * (k % 7) for k in range(1000)])
    whole, joined = (curve(log, 15 * MS, 19_000 * MS, room) for room in (2000, 100))
    assert len(whole["t_ns"]) > 900
    assert 90 <= len(joined["t_ns"]) <= 100
    assert sum(joined["dt_ns"]) == sum(whole["dt_ns"]) == 18_985 * MS
    energies = [sum(map(math.prod, zip(c["power_mw"], c["dt_ns"], strict=True))) for c in (whole, joined)]
    assert energies[1] == pytest.approx(energies[0], rel=3e-3)  # each joined value is rounded to 1 mW


def test_the_page_says_how_many_values_of_power_an_answer_has() -> None:
    page = (Path(energyd_client.__file__).parents[1] / "PROTOCOL.md").read_text()
    assert f"At most {POWER_VALUES:,} values".replace(",", " ") in page


def test_a_stage_and_a_run_that_end_while_commits_are_refused_stay_in_every_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.say("c", *BEGIN)

    def refused(batch: Any) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store, "commit", refused)
        desk.say("c", *END)
        desk.later(SETTLE_NS)
        assert desk.recorder.tracker.stages == {}
        assert desk.ask(p.AskStage(1, "s"))["state"] == "ended"  # type: ignore[index]
        assert ("s", "ended") in stage_rows(desk)
        assert [row[4] for row in desk.ask.tail()["rows"]["runs_log"]] == ["ok"]
        assert desk.voice.acks == {"c": 2}
    desk.recorder.tick()
    assert desk.ask(p.AskStage(1, "s"))["state"] == "final"  # type: ignore[index]
    assert stage_rows(desk)[-1] == ("s", "final")
    assert desk.voice.acks == {"c": 4}


def test_a_client_silent_for_a_week_is_forgotten_in_memory_as_in_the_store(desk: Desk) -> None:
    desk.say("old", p.RunBegin(1, 1, "r1", "x"))
    desk.later(CLIENT_MEMORY_NS)
    desk.say("new", p.RunBegin(1, 1, "r2", "x"))
    assert len(desk.recorder.clients) == 2
    for _ in range(2):  # begun in an hour's first 5 s (SEAL_AFTER_NS), the hour before is sealed first
        desk.later(HOUR_NS)
    assert desk.store.fetch("SELECT client FROM clients") == [("new",)]
    assert (len(desk.recorder.clients), desk.recorder.clients.stored("new")) == (1, 1)


def test_samples_alone_wait_longer_than_what_somebody_waits_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energyd.recorder.COMMIT_S", 0.001)
    monkeypatch.setattr("energyd.recorder.CALM_S", 1e9)
    recorder, rounds, looks = desk.recorder, [0], [0]
    tick, awaited = recorder.tick, recorder._awaited

    def count_rounds() -> None:
        tick()
        rounds[0] += 1

    def count_looks() -> bool:
        looks[0] += 1
        return awaited()

    monkeypatch.setattr(recorder, "tick", count_rounds)
    monkeypatch.setattr(recorder, "_awaited", count_looks)
    recorder.start()
    try:
        wait_for(lambda: rounds[0] == 1)
        recorder.inbox.put_events([Break("", clock.now_ns(), "lost")])
        seen = looks[0]
        wait_for(lambda: looks[0] > seen + 3)
        assert rounds[0] == 1
        assert recorder.inbox.waiting == 1
        now = recorder.timeline.now_ns()
        recorder.inbox.put_markers([Incoming("c", p.RunBegin(1, now, "r", "n"), now, now, uid=1, pid=1)])
        wait_for(lambda: desk.voice.acks == {"c": 1})
        assert recorder.inbox.waiting == 0
    finally:
        recorder.stop()


def test_a_stage_that_is_settled_after_its_rounds_commit_is_in_every_answer_until_the_next_one(
    desk: Desk,
) -> None:
    seqs = iter(range(2, 1_000_000))
    words: list[p.Marker] = [p.RunBegin(1, 1, "r", "flood")]
    names = [f"s{k}" for k in range(FLUSH_AT)]
    for stage_id in names:
        words.append(p.StageBegin(next(seqs), 1, "r", stage_id, "step", None, []))
        words.append(p.StageEnd(next(seqs), 1, "r", stage_id, "ok"))
    recorder = desk.recorder
    past = recorder.timeline.now_ns() - 10 * SETTLE_NS
    recorder.inbox.put_markers([Incoming("c", m, past, past, uid=1, pid=1) for m in words])
    recorder.tick()
    settled = set(names) - set(recorder.tracker.stages)
    assert settled  # after the commit, so that no row of theirs is stored yet
    assert desk.store.fetch("SELECT count(*) FROM stages_log") == [(0,)]
    assert {stage_id for stage_id, _ in stage_rows(desk)} == set(names)
    assert desk.ask.status()["pending_stages"] == len(names)
    answer = desk.ask(p.AskStage(1, min(settled)))
    assert isinstance(answer, dict)
    assert answer["state"] == "ended"


def test_markers_in_a_flood_are_acknowledged_before_their_stages_are_settled_and_none_is_left_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seqs = iter(range(2, 1_000_000))
    pairs = [(f"s{k}", next(seqs), next(seqs)) for k in range(FLUSH_AT)]
    words: list[p.Marker] = [p.RunBegin(1, 1, "r", "flood")]
    for stage_id, begin, end in pairs:
        words.append(p.StageBegin(begin, 1, "r", stage_id, "step", None, []))
        words.append(p.StageEnd(end, 1, "r", stage_id, "ok"))
    recorder = desk.recorder
    past = recorder.timeline.now_ns() - 10 * SETTLE_NS  # all are due at once
    recorder.inbox.put_markers([Incoming("c", m, past, past, uid=1, pid=1) for m in words])
    pending: list[int] = []
    monkeypatch.setattr(desk.voice, "acknowledge", lambda acks: pending.append(len(recorder.tracker.stages)))
    monkeypatch.setattr("energyd.recorder.SETTLE_BUSY_S", 0.0)
    recorder.tick()
    assert pending == [len(pairs)]
    assert desk.ask.status()["pending_stages"] == len(pairs)
    stored = desk.store.fetch("SELECT count(*) FROM open_stages WHERE state = 'ended'")
    assert stored == [(len(pairs),)]
    recorder.tick()  # settles on after its commit
    recorder.tick()
    assert desk.ask.status()["pending_stages"] == 0
    assert desk.store.fetch("SELECT count(*) FROM stages_log") == stored
    assert desk.store.fetch("SELECT count(*) FROM open_stages") == [(0,)]
