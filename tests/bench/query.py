"""How long do answers take from a store of hundreds of millions of samples? A table, through energyq's door.

    python tests/bench/query.py STORE

STORE is one that make_store.py has made. Each question runs in a process of its own (one thread, as always):
opening the store, the first answer, the best of four, its CPU seconds, and the process's peak memory. Every
recomputed stage is held against the energy that numpy found when the store was generated.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

STAGES: Final = (
    "SELECT count(*), count(energy_j), max(abs(energy_j - known_j)) FROM integrate('asked')",
    "CREATE OR REPLACE TEMP VIEW asked AS"
    " SELECT device, t0_ns, t1_ns, integral_j AS known_j FROM stage_energy",
)
MINUTE: Final = (
    "SELECT count(*), avg(power_mw), max(t_ns) FROM samples WHERE device = 3"
    " AND t_ns BETWEEN {mid} AND {mid} + 60000000000",
    "",
)
WINDOWS: Final = (
    "CREATE OR REPLACE TEMP TABLE asked AS SELECT (i % 8)::UTINYINT AS device,"
    " {day} + i * 80000000000 AS t0_ns, {day} + i * 80000000000"
)
QUESTIONS: Final[dict[str, tuple[str, str, str]]] = {
    # name: (question, what is made before it, target)
    "every stage recomputed from samples, `integrate`": (*STAGES, "8 s, 3 GB"),
    "every stage as stored, `energies` summed by device": (
        "SELECT device, count(*), sum(energy_uj) FROM raw_energies GROUP BY ALL", "", "50 ms",
    ),
    "every stage as stored, `stage_energy`": (
        "SELECT device, count(*), sum(energy_j) FROM stage_energy GROUP BY ALL", "", "-",
    ),
    "one minute of power of one device": (*MINUTE, "50 ms"),
    "one minute of power of all devices": (
        "SELECT device, count(*), avg(power_mw) FROM samples"
        " WHERE t_ns BETWEEN {mid} AND {mid} + 60000000000 GROUP BY ALL", "", "50 ms",
    ),
    "energy of one stage of 1 s, `energy_j`": ("SELECT energy_j(3, {mid}, {mid} + 1000000000)", "", "-"),
    "energy of one stage of 1,000 s, `energy_j`": (
        "SELECT energy_j(3, {mid}, {mid} + 1000000000000)", "", "-",
    ),
    "1,000 windows of 1 s on a day, `integrate`": (
        "SELECT count(energy_j) FROM integrate('asked')",
        WINDOWS + " + 1000000000 AS t1_ns FROM range(1000) t(i)", "as the next",
    ),
    "1,000 windows of 1,000 s on a day, `integrate`": (
        "SELECT count(energy_j) FROM integrate('asked')",
        WINDOWS + " + 1000000000000 AS t1_ns FROM range(1000) t(i)", "as the one before",
    ),
    "count of all samples": ("SELECT count(*) FROM samples", "", "-"),
}  # fmt: skip


def ask(store: Path, name: str) -> dict[str, Any]:
    """Run one question in this process."""
    from energyd.store.read import open_reader

    question, before, _ = QUESTIONS[name]
    began = time.perf_counter()
    with open_reader(store) as reader:
        opened = time.perf_counter() - began
        newest = reader.newest_t_ns or 0
        day = newest - newest % 86_400_000_000_000 - 3 * 86_400_000_000_000
        words = {"mid": day + 13 * 3_600_000_000_000 + 123_456_789, "day": day + 1_000_000_000}
        times, cpu, answer = [], [], []
        for _ in range(1 if "every stage recomputed" in name else 4):
            if before:
                reader._con.execute(before.format(**words))
            began, busy = time.perf_counter(), time.process_time()
            answer = reader.sql(question.format(**words)).fetchall()
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"open": opened, "first": times[0], "best": min(times), "cpu": min(cpu),
            "mib": peak, "answer": str(answer[:1])}  # fmt: skip


def main(store: Path) -> None:
    load = os.getloadavg()[0]  # where others compute too, believe the CPU seconds
    print(f"{platform.machine()}, {os.cpu_count()} cores (load {load:.1f}), one thread asked; {store}\n")
    print("| question | target | open s | first s | best s | best CPU s | peak MiB | answer |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, (_, _, target) in QUESTIONS.items():
        done = subprocess.run(
            [sys.executable, __file__, str(store), name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"| {name} | {target} | failed: {done.stderr.strip().splitlines()[-1]} |", flush=True)
            continue
        row = json.loads(done.stdout)
        figures = " | ".join(f"{row[k]:.3f}" for k in ("open", "first", "best", "cpu"))
        print(f"| {name} | {target} | {figures} | {row['mib']:.0f} | {row['answer']} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2])))
    else:
        main(Path(sys.argv[1]))
