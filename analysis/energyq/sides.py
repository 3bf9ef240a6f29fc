"""Which runs or stages does one side of a comparison mean, and what does the store know of them?

RUN            one run: an id, its beginning, or a name (its latest run)
key=value,…    every ended run with these labels; `name=…` is the run's name
SIDE/PATH      one stage of those: its path, or the end of it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from energyq.find import NotFound, Refused, find_run, question
from energyq.notes import spoken

if TYPE_CHECKING:
    from energyd.store.read import Reader

Row = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One side: the word for its runs, and its known rows (of runs, or of stages on `path`)."""

    word: str
    run_ids: list[str]
    path: str | None
    rows: list[Row]
    inner: list[Row] = field(default_factory=list)  # all stages of a single run, or below its stage
    devices: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "RUN: why" of rows without an energy

    @property
    def per_run(self) -> dict[str, list[Row]]:
        """Rows by run; of a whole run there is one, of a stage as many as it was repeated."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["run_id"], []).append(row)
        return found


class _NoStage(NotFound):
    """The run is there, but no one stage of it goes by that word."""


def find_sides(reader: Reader, *words: str) -> list[Side]:
    """The sides meant. Raises NotFound where there is none, Refused where it makes no sense.

    The store is asked about all of them at once: a plan of the views takes DuckDB longer to make than to
    follow (`compare` of two short runs: 0.30 s of a core in SQL, not 0.43).
    """
    meant = [_resolve(reader, word) for word in words]
    runs = {"runs": sorted({run_id for _, run_ids, _ in meant for run_id in run_ids})}
    stages = reader.sql(question("compare_stages"), runs).dicts()
    whole = any(path is None for _, _, path in meant)
    totals = reader.sql(question("compare_totals"), runs).dicts() if whole else []
    return [_side(reader, *which, stages, totals) for which in meant]


def _side(
    reader: Reader, head: str, run_ids: list[str], path: str | None, stages: list[Row], totals: list[Row]
) -> Side:
    stages, totals = ([r for r in rows if r["run_id"] in run_ids] for rows in (stages, totals))
    if path is None:
        found, inner = totals, stages
    else:
        found = [s for s in stages if s["path"] == path]
        inner = [s for s in stages if s["path"].startswith(path + "/")]
    known = [r for r in found if r["total_j"] is not None and r["status"] != "open"]
    skipped = [
        f"{r['run']} ({r['run_id']}): {spoken(r['reason'] or r['status'])}" for r in found if r not in known
    ]
    devices = reader.sql(question("compare_devices"), {"runs": run_ids}).dicts()
    return Side(head, run_ids, path, known, inner if len(run_ids) == 1 else [], devices, skipped)


def _resolve(reader: Reader, word: str) -> tuple[str, list[str], str | None]:
    """(word for the runs, their ids, path of the stage).

    A `/` may belong to a name or label: the first reading that fits holds.
    """
    first: Exception | None = None
    for head, tail in _readings(word):
        try:
            run_ids = _runs(reader, head)
            return head, run_ids, None if tail is None else _path(reader, run_ids, head, tail)
        except NotFound as error:
            # A run that is there but lacks the stage says more than a name that is nowhere.
            first = error if first is None or isinstance(error, _NoStage) else first
    raise NotFound(str(first))


def _readings(word: str) -> Iterator[tuple[str, str | None]]:
    yield word, None
    for place, letter in enumerate(word):
        if letter == "/" and 0 < place < len(word) - 1:
            yield word[:place], word[place + 1 :]


def _runs(reader: Reader, head: str) -> list[str]:
    if "=" in head:
        wanted = dict(part.partition("=")[::2] for part in head.split(","))
        found = [r["run_id"] for r in reader.sql(question("compare_labels")).dicts() if _has(r, wanted)]
        if found:
            return found
        raise NotFound(
            f'no run has {head} in {reader.store}\n  cure: energyq "SELECT name, labels FROM runs"'
        )
    run_id = find_run(reader, head)
    if run_id is None:
        raise Refused("`all` is no side of a comparison\n  cure: a run, or key=value for several")
    return [run_id]


def _has(run: Row, wanted: dict[str, str]) -> bool:
    labels = {"name": run["name"], **json.loads(run["labels"] or "{}")}
    return all(key in labels and _plain(labels[key]) == value for key, value in wanted.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _path(reader: Reader, run_ids: list[str], head: str, tail: str) -> str:
    paths: set[str] = {s["path"] for s in reader.sql(question("compare_stages"), {"runs": run_ids}).dicts()}
    if tail in paths:
        return tail
    ends = sorted(p for p in paths if p.endswith("/" + tail))
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise _NoStage(
            f"{tail!r} may mean {len(ends)} stages of {head}\n  cure: one of {', '.join(ends[:4])}"
        )
    raise _NoStage(f"{head} has no stage {tail!r}\n  cure: `energyq stages {run_ids[0]}` lists them")
