"""Does each run end, once, whoever speaks of it and when?"""

from __future__ import annotations

from typing import Any

import pytest

from energyd.stages import Incoming, Run, Stage
from energyd.tracker import REMEMBERED, Tracker
from energyd_client import protocol as p


class Book:
    """A tracker, told in few words."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.t_ns = 0

    def say(self, client: str, cls: Any, *fields: Any, uid: int = 1) -> str | None:
        """One marker; the code of its refusal."""
        self.t_ns += 10
        message = cls(self.t_ns, self.t_ns, *fields)
        refusal = self.tracker.apply(Incoming(client, message, self.t_ns, self.t_ns, uid=uid, pid=uid))
        return refusal.code if refusal is not None else None

    def gone(self, client: str, uid: int | None = 1) -> None:
        self.t_ns += 10
        self.tracker.client_gone(client, self.t_ns, 0, uid)

    def closed(self) -> list[tuple[str, str]]:
        """(name, status) of the runs whose row is written."""
        return [(row[1], row[4]) for row in self.tracker.rows["runs_log"]]


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_child_heard_after_its_runs_end_joins_the_ended_run(book: Book) -> None:
    book.say("parent", p.RunBegin, "r", "train")
    book.say("parent", p.RunEnd, "r", "ok")
    assert book.say("child", p.StageBegin, "r", "s", "late") is None
    assert book.say("child", p.StageEnd, "r", "s", "ok") is None
    assert book.tracker.runs == {}
    assert book.closed() == [("train", "ok")]
    assert book.tracker.stages["s"].state == "ended"
    assert book.say("child", p.RunLabels, "r", {"rank": 1}) == "not_found"
    assert book.say("other", p.RunBegin, "r", "again") == "conflict"


def test_a_run_that_only_children_spoke_of_ends_with_the_last_of_them(book: Book) -> None:
    for child in ("a", "b"):
        book.say(child, p.StageBegin, "r", f"s-{child}", "work")
        book.say(child, p.StageEnd, "r", f"s-{child}", "ok")
    book.gone("a")
    assert list(book.tracker.runs) == ["r"]
    book.gone("b")
    assert book.tracker.runs == {}
    assert book.closed() == [("r", "aborted")]


def test_a_parent_heard_after_its_child_has_gone_begins_its_run_with_the_childs_labels(book: Book) -> None:
    assert book.say("child", p.RunLabels, "r", {"rank": 1}) is None
    book.gone("child")
    assert book.say("parent", p.RunBegin, "r", "train", {"seed": 0}) is None
    assert book.tracker.runs["r"].labels == {"rank": 1, "seed": 0}
    assert book.say("parent", p.RunEnd, "r", "ok") is None
    assert book.closed()[-1] == ("train", "ok")


def test_another_user_who_claims_a_clients_id_ends_nothing_of_it(book: Book) -> None:
    book.say("c", p.RunBegin, "r", "train")
    book.say("c", p.StageBegin, "r", "s", "step")
    book.gone("c", uid=2)
    assert book.tracker.runs["r"].status == book.tracker.stages["s"].state == "open"
    assert book.say("x", p.StageEnd, "r", "s", "ok", uid=2) == "conflict"
    book.gone("c", uid=1)
    assert book.closed() == [("train", "aborted")]
    assert book.say("x", p.StageBegin, "r", "s2", "late", uid=2) == "conflict"  # though it has ended


def test_a_restart_ends_a_childrens_run_that_has_no_open_stage_and_keeps_one_that_has() -> None:
    runs = [Run(r, r, 5, None, 1, 1) for r in ("over", "going")]
    stages = [
        Stage(run_id="over", stage_id="s1", name="x", t0_ns=6, client="a", t1_ns=9, state="ended"),
        Stage(run_id="going", stage_id="s2", name="x", t0_ns=6, client="b"),
    ]
    book = Book()
    book.tracker.restore(runs, stages)
    assert book.closed() == [("over", "aborted")]
    assert book.tracker.ended["over"].t1_ns == 9
    book.gone("b")
    assert book.closed() == [("over", "aborted"), ("going", "aborted")]


def test_no_more_than_a_bounded_number_of_ended_runs_is_remembered(book: Book) -> None:
    for n in range(REMEMBERED + 5):
        book.say("c", p.RunBegin, f"r{n}", "short")
        book.say("c", p.RunEnd, f"r{n}", "ok")
    assert len(book.tracker.ended) == REMEMBERED
