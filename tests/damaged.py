"""A store with a past, made once and copied for each damage; and what must be true of it afterwards."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from energyd.store import Layout
from energyd.store.read import Reader, open_reader
from energyd.store.write import HotStore
from real_daemon import Daemon, wait_for

OPEN_PROGRAM = """
run = energy.run("open").begin()
outer = run.stage("outer").begin()
assert energy.flush(20)
print(run.run_id, flush=True)
time.sleep(60)
"""


def flip(path: Path, at: float) -> None:
    """Turn one bit over; `at` is a share of the file's length."""
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(len(data) * at))] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, at: float) -> None:
    """Keep only the beginning."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * at)])


def zero(path: Path, at: float) -> None:
    """Overwrite 512 bytes with zeros, as a lost disk block reads."""
    data = bytearray(path.read_bytes())
    begin = int(len(data) * at)
    data[begin : begin + 512] = bytes(len(data[begin : begin + 512]))
    path.write_bytes(data)


DAMAGES = {"flip": flip, "cut": cut, "zero": zero}


def finished_run(daemon: Daemon, name: str = "r") -> str:
    """A whole run of two stages, seen final in the store."""
    run_id = daemon.finish(
        f"with energy.run({name!r}) as run:\n"
        "    with run.stage('a') as s: time.sleep(0.1); s.count(label=5)\n"
        "    with run.stage('b'): time.sleep(0.1)\n"
        "assert energy.flush(20)\nprint(run.run_id)"
    ).strip()
    final = f"SELECT count(*) AS n FROM stages WHERE run_id = '{run_id}' AND state = 'final'"
    wait_for(lambda: ask(daemon, final)[0]["n"] == 2)
    return run_id


@dataclass
class Template:
    """A store as a kill -9 left it: a sealed hour, a live hour, a log, a run in each, and one still open."""

    store: Path
    runs: dict[str, list[dict[str, Any]]]  # run_id: what its stages cost
    sealed: dict[str, bytes]
    host_id: str

    def copy(self, daemon: Daemon) -> Daemon:
        """That store in a daemon's place."""
        shutil.copytree(self.store, daemon.store)
        (daemon.store / "lock").unlink()
        return daemon


def reading(daemon: Daemon) -> Reader:
    """As `energyq` reads, without a process of its own. Use it in a `with`."""
    return open_reader(daemon.store, endpoint=daemon.endpoint)


def ask(daemon: Daemon, sql: str) -> list[dict[str, Any]]:
    """One answer."""
    with reading(daemon) as reader:
        return reader.sql(sql).dicts()


def costs(daemon: Daemon, run_id: str) -> list[dict[str, Any]]:
    """What each stage of a run cost on each device."""
    with reading(daemon) as reader:
        return costs_in(reader, run_id)


def costs_in(reader: Reader, run_id: str) -> list[dict[str, Any]]:
    """The same of a store that is open."""
    return reader.sql("FROM stage_energy WHERE run_id = ? ORDER BY stage, device", [run_id]).dicts()


def sealed_bytes(store: Path) -> dict[str, bytes]:
    """Every sealed file that counts."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.glob("sealed/*/*/*.parquet"))}


def make_template(daemon: Daemon) -> Template:
    """Three daemons one after the other; what the first saw is sealed, what the second, in live files too."""
    daemon.start(source="simulated")
    runs = {run: costs(daemon, run) for run in [finished_run(daemon, "sealed")]}
    assert daemon.stop() == 0
    hot = HotStore(Layout(daemon.store))
    hour = hot.hour(0)
    hot.seal(hour, hour + 1)
    hot.close()
    daemon.start(source="simulated")
    live = finished_run(daemon, "live")
    assert daemon.stop() == 0
    daemon.start(source="simulated")
    program = daemon.program(OPEN_PROGRAM)
    assert program.stdout is not None
    program.stdout.readline()
    fresh = finished_run(daemon, "fresh")
    runs |= {run: costs(daemon, run) for run in (live, fresh)}
    wait_for(lambda: (daemon.store / "hot.duckdb.wal").stat().st_size > 20_000)
    daemon.kill()
    program.kill()
    program.communicate()
    (boot,) = ask(daemon, "SELECT DISTINCT host_id FROM raw_boots")
    return Template(daemon.store, runs, sealed_bytes(daemon.store), boot["host_id"])
