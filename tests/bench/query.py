"""How long do answers take from a store of hundreds of millions of samples? Asked through energyq's own door.

    python tests/bench/query.py [--store DIR] [--quick] [--out DIR]

Six days of 8 GPUs at 50 Hz with 10,000 stages on each of them (207 M samples, 1.7 GB), unless --store names
one that make_store.py has made. query_billion.py asks the same of 29 such days, query_year.py of 7 such days
after 358 of one sample a second. Each question has a process of its own, with one thread as always; a figure
is the best of four answers, and its note tells the first one, CPU seconds and peak memory. Every recomputed
stage is held against the energy that numpy found when the store was made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, memory_mib, run, run_child

DAY_NS: Final = 86_400_000_000_000
CASES: Final = {  # name: what make_store is told, bytes on disk, what is asked
    "query": ({"hz": 50, "days": 6, "n_stages": 10_000}, 1.7e9, "how long do answers take?"),
    "query_billion": ({"hz": 50, "days": 29, "n_stages": 10_000}, 8.2e9, "and of a billion samples?"),
    "query_year": (
        {"hz": 50, "days": 7, "n_stages": 10_000, "thin_days": 358}, 4.4e9,
        "and of a year, a week of it raw?",
    ),
}  # fmt: skip
OFF_BY_J: Final = 1e-6
OFF_BY_JOIN_J: Final = 0.1
"""The running integral is kept in whole µJ, rounded down at each step: of 50,000 steps, up to 0.05 J."""
ASKED: Final = (
    "CREATE OR REPLACE TEMP TABLE asked AS"
    " SELECT stage_id, device, t0_ns, t1_ns, integral_j AS known_j FROM stage_energy"
)
WINDOWS: Final = (
    "CREATE OR REPLACE TEMP TABLE asked AS SELECT (i % 8)::UTINYINT AS device,"
    " {day} + i * 80000000000 AS t0_ns, {day} + i * 80000000000 + {length} AS t1_ns FROM range(1000) t(i)"
)
ALIKE: Final = "SELECT count(*), count(energy_j), max(abs(energy_j - known_j)) FROM integrate('asked')"
# What everybody writes first: every step of power that a stage touches, cut to the stage, summed.
RANGE_JOIN: Final = """
WITH step AS (
  SELECT device, t_ns AS a, power_mw AS pa, lead(t_ns) OVER w AS b, lead(power_mw) OVER w AS pb
  FROM samples WHERE t_ns BETWEEN {day} AND {day} + 86400000000000 AND device = 3
  WINDOW w AS (PARTITION BY device ORDER BY t_ns)
),
cut AS (
  SELECT stage_id, known_j, greatest(a, t0_ns) - a AS u, least(b, t1_ns) - a AS v, b - a AS d, pa, pb
  FROM asked JOIN step ON step.device = asked.device AND a < t1_ns AND b > t0_ns
),
summed AS (
  SELECT stage_id, any_value(known_j) AS known_j,
    sum((pa * (v - u)::DOUBLE + (pb - pa) * (v::DOUBLE * v - u::DOUBLE * u) / (2 * d)) / 1e12) AS energy_j
  FROM cut GROUP BY stage_id
)
SELECT count(*), count(energy_j), max(abs(energy_j - known_j)) FROM summed
"""
ONE_DAY: Final = ASKED + " WHERE device = 3 AND t0_ns >= {day} AND t1_ns < {day} + 86400000000000"


@dataclass(frozen=True)
class Question:
    """One question; `before` makes what it asks of. `length_ns` is that of its windows."""

    sql: str
    before: str = ""
    length_ns: int = 0
    times: int = 4


QUESTIONS: Final = {
    "recompute": Question(ALIKE, ASKED, times=1),
    "stored": Question("SELECT device, count(*), sum(energy_j) FROM stage_energy GROUP BY ALL"),
    "minute": Question(
        "SELECT count(*), avg(power_mw), max(t_ns) FROM samples WHERE device = 3"
        " AND t_ns BETWEEN {mid} AND {mid} + 60000000000"
    ),
    "minute-all": Question(
        "SELECT device, count(*), avg(power_mw) FROM samples"
        " WHERE t_ns BETWEEN {mid} AND {mid} + 60000000000 GROUP BY ALL"
    ),
    "short": Question("SELECT count(energy_j) FROM integrate('asked')", WINDOWS, 1_000_000_000),
    "long": Question("SELECT count(energy_j) FROM integrate('asked')", WINDOWS, 1_000_000_000_000),
    "one": Question("SELECT energy_j(3, {mid}, {mid} + 1000000000)"),
    "count": Question("SELECT count(*) FROM samples"),
    "day": Question(ALIKE, ONE_DAY, times=2),
    "day-range-join": Question(RANGE_JOIN, ONE_DAY, times=1),
}


def ask(store: Path, name: str) -> dict[str, Any]:
    """Run one question in this process; seconds and MiB."""
    from energyd.store.read import open_reader

    question = QUESTIONS[name]
    began, busy = time.perf_counter(), time.process_time()
    with open_reader(store) as reader:
        opened, opened_cpu = time.perf_counter() - began, time.process_time() - busy
        newest = reader.newest_t_ns or 0
        day = newest - newest % DAY_NS - 3 * DAY_NS
        words = {"mid": day + 13 * 3_600_000_000_000 + 123_456_789, "day": day + 1_000_000_000}
        times, cpu, answer = [], [], []
        for _ in range(question.times):
            if question.before:
                reader.sql(question.before.format(**words, length=question.length_ns))
            began, busy = time.perf_counter(), time.process_time()
            answer = reader.sql(question.sql.format(**words)).fetchall()
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - busy)
    peak = memory_mib(os.getpid(), "VmHWM")  # ru_maxrss begins with that of who started us
    return {"open": opened, "open_cpu": opened_cpu, "first": times[0], "best": min(times), "cpu": min(cpu),
            "mib": peak, "answer": answer[0]}  # fmt: skip


def measure(bench: Bench, folder: Path) -> None:
    """All rows of one case."""
    store = bench.options.store or _made(folder, bench.name, quick=bench.options.quick)
    for name in QUESTIONS:
        try:
            bench.raw[name] = run_child(__file__, "--part", "ask", str(store), name, env=child_env())
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # its row says so, others are measured
            bench.raw[name] = {"why": str(error)[:200]}
    rows(bench, bench.raw)


def _made(folder: Path, case: str, *, quick: bool) -> Path:
    """The case's store, generated. Raises OSError where the disk has no room."""
    from bench.make_store import make

    told, size, _ = CASES[case]
    free = shutil.disk_usage(folder).free
    if quick:
        told = {"hz": 0.5, "days": 4, "n_stages": 20}
    elif free < 1.2 * size:
        raise OSError(f"{size / 1e9:.1f} GB for the store, {free / 1e9:.1f} GB free in {folder}: set TMPDIR")
    make(folder / "store", devices=8, **told)
    return folder / "store"


def rows(bench: Bench, found: dict[str, dict[str, Any]]) -> None:
    """What was found, a row each. A wrong energy has no speed."""
    for name, allowed_j in (("recompute", OFF_BY_J), ("day", OFF_BY_J), ("day-range-join", OFF_BY_JOIN_J)):
        n, known, off_j = found[name].get("answer", (0, 0, 0.0))
        if "answer" in found[name] and not (n == known > 0 and off_j <= allowed_j):
            found[name] = {"why": f"wrong: {known} of {n} energies, off by up to {off_j} J"}

    def add(name: str, what: str, which: str = "best", unit: str = "ms", note: str = "", **more: Any) -> None:
        it = found[name]
        said = "{:,.0f} ms of CPU, {:,.0f} ms at first, {:,.0f} MiB".format(
            *(1000 * it.get(k, 0) for k in ("cpu", "first")), it.get("mib", 0)
        )
        bench.add(what, it[which] * {"ms": 1000, "s": 1, "MiB": 1}[unit] if which in it else None, unit,
                  note=it.get("why") or said + note, **more)  # fmt: skip

    whole = bench.name == "query"  # the target is for 200 M samples: it reads all of them
    samples = found["count"].get("answer", (0,))[0]
    stages, _, off_j = found["recompute"].get("answer", (0, 0, 0.0))
    add("recompute", f"{stages:,} energies recomputed in SQL from {samples:,} samples", unit="s",
        target=8 if whole else None, note=f"; off by at most {off_j:.1e} J")  # fmt: skip
    add("recompute", "its memory at the peak", "mib", "MiB", target=3072)
    add("stored", "the same as stored, `stage_energy`", target=50)
    add("minute", "power of one device over a minute", target=50)
    add("minute-all", "power of all devices over a minute", target=50)
    add("one", "energy of one window, `energy_j`")
    long, short = found["long"], found["short"]
    why = long.get("why") or short.get("why")
    bench.add("CPU for 1,000 windows of 1,000 s, over that for 1,000 windows of 1 s",
              None if why else long["cpu"] / short["cpu"], "times", target=1.25,
              note=why or f"{long['cpu'] * 1000:.0f} ms against {short['cpu'] * 1000:.0f} ms")  # fmt: skip
    peer = found["day-range-join"]
    about = (
        peer.get("why") or f"the join takes {peer['mib']:,.0f} MiB and is off by {peer['answer'][2]:.2f} J"
    )
    peer_ms = 1000 * peer["best"] if "best" in peer else None
    add("day", "energies of one device's stages of a day recomputed", note=f"; {about}",
        peer="range join with lead()", peer_figure=peer_ms)  # fmt: skip
    opened = [it["open"] for it in found.values() if "open" in it]
    bench.add("opening the store, without a daemon", 1000 * min(opened) if opened else None, "ms",
              note=f"median {1000 * sorted(opened)[len(opened) // 2]:,.0f} ms" if opened else "")  # fmt: skip


def main(name: str, doc: str | None) -> None:
    """One case's main."""
    more = [("--store", {"type": Path, "help": "a store that make_store.py has made"})]
    run(name, CASES[name][2], doc, measure, more=more,
        parts={"ask": lambda store, question: ask(Path(store), question)})  # fmt: skip


if __name__ == "__main__":
    main("query", __doc__)
