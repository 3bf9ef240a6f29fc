"""How long do answers over a fleet take: 64 hosts of 8 GPUs, 30 days, one sample a second, 1.3 billion rows?

    python tests/bench/lake.py [--lake FOLDER] [--ledger URL] [--quick] [--out DIR]

Asked of the bare folder (make_lake.py's) through energyq's own door, each question in a process of its own;
with --ledger (and a Python that has the extra `fleet`) of DuckLake on PostgreSQL, all but the one that reads
every sample, into a file of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, run
from bench.make_lake import DAY_S, FIRST_DAY, host_name, make

TARGET_S: Final = 5.0
DAY: Final = "make_timestamp((t1_ns // 1000)::BIGINT)::DATE"
QUESTIONS: Final = {
    "energy by run, host and day (every stage of the fleet)": (
        f"SELECT run_id, host, {DAY} AS day, sum(energy_j) AS j FROM stage_energy GROUP BY ALL", TARGET_S),
    "energy by host and day": (
        f"SELECT host, {DAY} AS day, sum(energy_j) AS j FROM stage_energy GROUP BY ALL", TARGET_S),
    "what each run took, all its hosts added up (run_totals)": (
        "SELECT run_id, total_j, hosts FROM run_totals", None),
    "what one run took on each of its hosts (run_hosts)": (
        "FROM run_hosts WHERE run_id = 'run-000-0-000'", None),
    "one device's power, a minute at a time, on one day (from samples)": (
        "SELECT t_ns // 60000000000 AS minute, avg(power_mw) / 1e3 AS w FROM samples"
        " WHERE host = '{host}' AND day = '{day}' AND device = {device} GROUP BY 1", TARGET_S),
    "energy of one host on one day, from samples": (
        "SELECT device, (max(cum_uj) - min(cum_uj)) / 1e6 AS j FROM samples"
        " WHERE host = '{host}' AND day = '{day}' GROUP BY 1", TARGET_S),
    "energy of every device on every day, from all samples": (
        "SELECT host, device, day, (max(cum_uj) - min(cum_uj)) / 1e6 AS j FROM samples GROUP BY ALL", None),
}  # fmt: skip
CHILD: Final = """
import json, re, resource, sys, time
import duckdb
from energyd.store.read import open_lake
began = time.perf_counter()
with open_lake(sys.argv[1]) as reader:
    opened = time.perf_counter() - began
    took = []
    for _ in range(2):
        began = time.perf_counter()
        rows = reader.sql(sys.argv[2]).fetchall()
        took.append(time.perf_counter() - began)
        if took[0] > 10:
            break
    opened_files = None
    if "FROM samples" in sys.argv[2] and took[0] < 10:  # of what was learnt, all are read once
        plan = reader.sql("EXPLAIN ANALYZE " + sys.argv[2]).fetchall()[0][1]
        opened_files = int(re.search(r"Total Files Read: (\\d+)", plan)[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
json.dump({"opened": opened, "took": took, "rows": len(rows), "peak_mib": peak, "files": opened_files,
           "duckdb": duckdb.__version__}, sys.stdout)
"""
MORE: Final = (
    ("--lake", {"type": Path, "help": "a lake that make_lake.py has made; else a small one is made"}),
    ("--ledger", {"help": "postgresql://…, where that lake is registered"}),
)


def measure(bench: Bench, scratch: Path) -> None:
    """All questions over the folder, or the chosen ones over the ledger."""
    lake = bench.options.lake
    hosts, devices, days = 64, 8, 30
    if lake is None:
        hosts, devices, days = (2, 2, 2) if bench.options.quick else (hosts, devices, days)
        lake = scratch / "lake"
        make(lake, hosts, devices, days)
    samples = hosts * devices * days * DAY_S
    files = list((lake / "samples").rglob("*.parquet"))
    size = sum(p.stat().st_size for p in files)
    bench.raw["bytes_a_sample"] = size / samples
    bench.add("samples in the lake", samples / 1e6, "M", note=f"{hosts} hosts, {devices} GPUs, {days} days")
    bench.add("size of its samples", size / 1e9, "GB", note=f"{size / samples:.2f} bytes a sample")
    name, url = ("ledger", bench.options.ledger) if bench.options.ledger else ("folder", str(lake))
    for what, (question, target) in QUESTIONS.items():
        if name == "folder" or "all samples" not in what:
            date = time.strftime("%Y-%m-%d", time.gmtime((FIRST_DAY + days // 2) * DAY_S))
            place = hosts // 2
            found = ask(url, question.format(host=host_name(place), day=date, device=place * 256 + 1))
            bench.raw[f"{name}: {what}"] = found
            again = f"again {found['took'][-1]:.2f} s; " if len(found["took"]) > 1 else ""
            note = f"of it opening {found['opened']:.2f} s; {again}{found['rows']} rows; "
            if found["files"] is not None:
                note += f"plan: {found['files']} of {len(files):,} files read; "
            # What somebody waits who asks: what was learnt is read once, by the first question of a reader.
            bench.add(f"{name}: {what}", found["opened"] + found["took"][0], "s", target=target,
                      note=note + f"{found['peak_mib']:.0f} MiB")  # fmt: skip


def ask(url: str, question: str) -> dict[str, Any]:
    """One question in a process of its own; ENERGYD_FLEET_PYTHON: the one that can ask a ledger."""
    python = os.environ.get("ENERGYD_FLEET_PYTHON", sys.executable) if "://" in url else sys.executable
    done = subprocess.run(
        [python, "-c", CHILD, url, question], env=child_env(), capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    run(
        "lake_ledger" if "--ledger" in sys.argv else "lake",
        "how long do answers over a fleet take?",
        __doc__,
        measure,
        more=MORE,
    )
