"""Four machines, a lake on a fifth, and everything that goes wrong between them: is each joule there, once?

One link is cut, one daemon is killed, the lake is down when the hour is sealed, one wall clock is 5 s off,
one segment is shipped twice. Then the lake must hold what the four stores hold, row by row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from energyd.store import HOUR_NS, Layout
from energyd.store.columns import schema
from energyd.store.lake import parse
from energyd.store.read import open_lake as ask_lake
from energyd.store.read import open_reader
from energyd.store.write import Batch, HotStore
from energyd_client import clock
from fake_clock.build import FakeClock
from fake_clock.build import build as build_clock
from fleet.conftest import PATHS, S3, Postgres, initdb_of
from fleet.network import Network
from real_daemon import Daemon, wait_for

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="no network namespaces here: not root"),
              pytest.mark.timeout(400)]  # fmt: skip

WRONG_CLOCK_S = 5.0
SUMS = {
    "samples": "sum(power_mw), max(cum_uj), sum(cum_uj % 1000003)",
    "energies": "sum(energy_uj), sum(self_uj), 0",
    "stages_log": "sum(t1_ns - t0_ns), 0, 0",
    "markers": "sum(seq), 0, 0",
    "gaps": "sum(bridged_uj), sum(t1_ns - t0_ns), 0",
}


@dataclass
class Fleet:
    """Four hosts after all that."""

    network: Network
    daemons: list[Daemon]
    s3: S3
    url: str
    keys: Path
    run_id: str = ""
    hosts: list[str] = field(default_factory=list)  # ids, as the daemons are

    def ship(self, n: int) -> None:
        """Stop host n and ship what is left."""
        daemon = self.daemons[n]
        assert daemon.stop() == 0, daemon.log.read_text()
        done = subprocess.run(
            [*self.network.inside(self.network.nodes[n]), sys.executable, "-m", "energyd", "ship", "--store",
             str(daemon.store), "--lake", self.url, "--lake-keys", str(self.keys)],
            env=daemon.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def start_s() -> float:
    """How long it takes on this machine, now, to start a command of ours."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "energyd", "version"], check=True, capture_output=True)
    return time.monotonic() - began


def seeded(store: Path, to_the_end_s: float) -> str:
    """A new store whose time stands so long before an hour's end; its host id."""
    store.mkdir()
    hot = HotStore(Layout(store))
    end = (time.time_ns() // HOUR_NS + 1) * HOUR_NS
    now = end - round(to_the_end_s * 1e9)
    facts = {"boot_id": clock.boot_id(), "t_ns": now, "offset_ns": now - clock.now_ns(), "version": "0"}
    hot.hour(end // HOUR_NS - 1)
    hot.commit(Batch(rows={"boots": [tuple(facts.get(column) for column, _ in schema()["boots"])]}))
    host = hot.meta("host_id")
    hot.close()
    assert host is not None
    return host


def in_hub(network: Network, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*network.inside(network.hub), *command], stdout=quiet, stderr=quiet, **more)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    network = Network(4)
    network.up()
    folder = tmp_path_factory.mktemp("fleet")
    made: list[Any] = []
    try:
        yield _story(network, folder, made)
    finally:
        for one in made:
            process = one.process if isinstance(one, Daemon) else one
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        network.down()


def _story(network: Network, folder: Path, made: list[Any]) -> Fleet:
    s3 = S3(f"http://{network.hub_address}:5000")
    keys = s3.write_keys(folder / "keys")
    library = build_clock(folder)
    assert library is not None
    (folder / "clock").mkdir()
    wrong = FakeClock(library, folder / "clock")
    wrong.set(WRONG_CLOCK_S)
    fleet = Fleet(network, [], s3, f"s3://{s3.bucket}/lake", keys)
    to_the_end_s = 8 + 15 * start_s()  # four daemons and four programs come up before it
    for n, node in enumerate(network.nodes):
        (folder / node).mkdir()
        daemon = Daemon(folder / node, wrong.env if n == 3 else {})
        fleet.hosts.append(seeded(daemon.store, to_the_end_s))
        fleet.daemons.append(daemon)
        made.append(daemon)
        options = ("--lake", fleet.url, "--lake-keys", str(keys))
        daemon.spawn([*network.inside(node), *daemon.command(*options, source="simulated")])
    for daemon in fleet.daemons:
        wait_for(daemon.holder, 60)

    # A run of all four: made on the first, joined on the others, each with ranks that count their own tokens.
    lead = fleet.daemons[0].program(
        "with energy.run('span') as run:\n"
        "    print(run.run_id, flush=True)\n"
        "    with run.stage('rank 0') as s:\n"
        "        for _ in range(36): time.sleep(0.5); s.count(label=1)\n"
    )
    made.append(lead)
    assert lead.stdout is not None
    fleet.run_id = lead.stdout.readline().strip()
    programs = [lead, fleet.daemons[2].program(
        "with energy.run('mine') as run:\n    with run.stage('over the kill'): time.sleep(6)\n"
    )]  # fmt: skip
    made.append(programs[-1])

    # One dies with a stage open, and another daemon goes on from its store.
    victim = fleet.daemons[2]
    wait_for(lambda: victim.query("FROM stages WHERE state = 'open'"), 60)
    victim.kill()
    options = ("--lake", fleet.url, "--lake-keys", str(keys))
    victim.spawn([*network.inside(network.nodes[2]), *victim.command(*options, source="simulated")])
    wait_for(victim.holder, 60)

    for n, daemon in enumerate(fleet.daemons[1:], 1):
        daemon.env["ENERGYD_RUN_ID"] = fleet.run_id
        programs.append(daemon.program(
            f"with energy.stage('rank {n}') as s:\n"
            f"    for _ in range({20 + n}): time.sleep(0.5); s.count(label=10)\n"
        ))  # fmt: skip
    made.extend(programs)

    # The hour ends while nobody answers at the lake.
    for daemon in fleet.daemons:
        wait_for(lambda d=daemon: list((d.store / "outbox" / "samples").glob("*/*.parquet")), 60)
    wait_for(lambda: fleet.daemons[0].status()["lake"]["error"], 60)
    body = fleet.daemons[0].status()
    assert body["lake"]["waiting_files"] > 3
    assert body["lake"]["shipped_ns"] is None
    network.cut(2)
    made.append(in_hub(network, [sys.executable, "-c", SERVER, s3.bucket]))
    for n in (0, 2, 3):
        wait_for(lambda d=fleet.daemons[n]: d.status()["lake"]["waiting_files"] == 0, 90)
    assert fleet.daemons[1].status()["lake"]["waiting_files"] > 3
    network.mend(2)

    # One segment once more.
    first = fleet.daemons[0].store
    (sealed,) = (first / "sealed" / "samples").glob("*/*.parquet")
    again = first / "outbox" / "samples" / sealed.parent.name / sealed.name
    again.parent.mkdir(parents=True, exist_ok=True)
    os.link(sealed, again)
    wait_for(lambda: not again.exists(), 90)
    for process in programs:
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, out + err
    for n in range(4):
        fleet.ship(n)
    return fleet


SERVER = (
    # With its bucket from the first moment: a daemon that came before there was one would be told that it is
    # wrong for good, and ask again after ten minutes.
    "import sys; from moto.s3.models import s3_backends; from moto.server import main\n"
    "s3_backends['123456789012']['aws'].create_bucket(sys.argv[1], 'us-east-1')\n"
    "main(['-H', '0.0.0.0', '-p', '5000'])\n"
)


@pytest.fixture(scope="module")
def copy(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that lies in the lake, in a folder: DuckDB 2 has no S3 of its own."""
    folder = tmp_path_factory.mktemp("copy")
    code = (
        "import sys; from pathlib import Path\n"
        "from energyd.store.lake import address; from energyd.store.lake_files import open_lake\n"
        "from energyd.store.lake_keys import read_keys\n"
        "lake = open_lake(address(sys.argv[1]), read_keys(Path(sys.argv[2])))\n"
        "for name in lake.names():\n"
        "    file = Path(sys.argv[3], name); file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.write_bytes(lake.read(name))\n"
    )
    done = subprocess.run(
        [*fleet.network.inside(fleet.network.hub), sys.executable, "-c", code, fleet.url, str(fleet.keys),
         str(folder)], capture_output=True, text=True, timeout=90, check=False,
        env={**os.environ, "PYTHONPATH": PATHS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def told_by_stores(fleet: Fleet) -> dict[str, dict[str, tuple[Any, ...]]]:
    """{table: {host: (rows, sums of integers)}} of the four stores."""
    found: dict[str, dict[str, tuple[Any, ...]]] = {table: {} for table in SUMS}
    for host, daemon in zip(fleet.hosts, fleet.daemons, strict=True):
        with open_reader(daemon.store) as reader:
            for table, sums in SUMS.items():
                (row,) = reader.sql(f"SELECT count(*), {sums} FROM raw_{table}").fetchall()
                if row[0]:
                    found[table][host] = row
    return found


def test_what_four_hosts_measured_is_in_lake_and_ledger_once_and_a_run_of_all_adds_up(
    fleet: Fleet, copy: Path, request: pytest.FixtureRequest
) -> None:
    """One test, since workers would each build the fleet; the ledger, which not all have, last."""
    _the_lake_holds_what_the_stores_hold(fleet, copy)
    _the_spanning_run_adds_up(fleet, copy)
    _the_wrong_clock_is_told(fleet, copy)
    _the_ledger_holds_what_the_stores_hold(fleet, request.getfixturevalue("fleet_python"))


def _the_lake_holds_what_the_stores_hold(fleet: Fleet, copy: Path) -> None:
    stores = told_by_stores(fleet)
    assert all(len(stores[table]) == 4 for table in ("samples", "energies", "stages_log", "markers"))
    assert stores["gaps"].keys() >= {fleet.hosts[2]}  # it was dead for a while
    with ask_lake(str(copy)) as reader:
        for table, sums in SUMS.items():
            rows = reader.sql(f"SELECT host, count(*), {sums} FROM raw_{table} GROUP BY host").fetchall()
            assert {host: tuple(rest) for host, *rest in rows} == stores[table], table
        (twice,) = reader.sql(
            "SELECT count(*) - count(DISTINCT (host, device, t_ns)) FROM samples"
        ).fetchall()
        assert twice == (0,)


def _spanning_run_of_stores(fleet: Fleet) -> tuple[int, int]:
    """(µJ, tokens) of the run of all, each host's own store asked."""
    total_j, tokens = 0.0, 0
    for daemon in fleet.daemons:
        with open_reader(daemon.store) as one:
            (run,) = one.sql("FROM run_totals WHERE run_id = $1", [fleet.run_id]).dicts()
            assert run["total_j"] is not None, run["reason"]
            total_j, tokens = total_j + run["total_j"], tokens + run["tokens"]
    assert tokens == 36 + 10 * (21 + 22 + 23)
    return round(total_j * 1e6), tokens


def _the_spanning_run_adds_up(fleet: Fleet, copy: Path) -> None:
    with ask_lake(str(copy)) as reader:
        (run,) = reader.sql("FROM run_totals WHERE run_id = $1", [fleet.run_id]).dicts()
    assert (round(run["total_j"] * 1e6), run["tokens"]) == _spanning_run_of_stores(fleet)
    assert (run["run"], run["hosts"]) == ("span", sorted(fleet.hosts))


def _the_wrong_clock_is_told(fleet: Fleet, copy: Path) -> None:
    with ask_lake(str(copy)) as reader:
        query = "SELECT host, clock_s, clock_doubt_s FROM run_hosts WHERE run_id = $1"
        told = {host: (s, u) for host, s, u in reader.sql(query, [fleet.run_id]).rows}
    for n, host in enumerate(fleet.hosts):
        off, doubt = told[host]
        assert abs(off - (WRONG_CLOCK_S if n == 3 else 0)) <= doubt + 0.1, (n, off, doubt)
        assert doubt < 3


def _the_ledger_holds_what_the_stores_hold(fleet: Fleet, fleet_python: str) -> None:
    """Registered by two at once, from one node; asked from another."""
    network = fleet.network
    server = Postgres(initdb_of())
    env = {**os.environ, "PYTHONPATH": PATHS}
    keys = fleet.s3.write_keys(fleet.keys.with_name("ledger-keys"), PGPASSWORD="secret")

    def asked(query: str) -> Any:
        done = subprocess.run(
            [*network.inside(network.nodes[1]), fleet_python, "-m", "energyq", "--lake", ledger,
             "--lake-keys", str(keys), "--format", "json", query],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    try:
        server.start(network.hub_address, network.inside(network.hub))
        ledger = server.make("ledger")
        command = [*network.inside(network.nodes[0]), fleet_python, "-m", "energyd", "register", "--lake",
                   fleet.url, "--ledger", ledger, "--lake-keys", str(keys)]  # fmt: skip
        both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=180)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        lake = [parse(k) for k in _names(fleet)]
        added = sum(int(text.split(" segments added")[0].split()[-1]) for text in said)
        assert added == len([k for k in lake if k])
        stores = told_by_stores(fleet)
        for table, sums in SUMS.items():
            query = f"SELECT host, [count(*), {sums}] AS row FROM raw_{table} GROUP BY host"
            rows = {r["host"]: tuple(r["row"]) for r in asked(query)}
            assert rows == {host: tuple(row) for host, row in stores[table].items()}, table
        (run,) = asked(f"SELECT total_j, tokens, hosts FROM run_totals WHERE run_id = '{fleet.run_id}'")
        assert (round(run["total_j"] * 1e6), run["tokens"]) == _spanning_run_of_stores(fleet)
        assert run["hosts"] == sorted(fleet.hosts)
    finally:
        server.stop()


def _names(fleet: Fleet) -> list[str]:
    code = (
        "import sys; from pathlib import Path\n"
        "from energyd.store.lake import address; from energyd.store.lake_files import open_lake\n"
        "from energyd.store.lake_keys import read_keys\n"
        "print('\\n'.join(open_lake(address(sys.argv[1]), read_keys(Path(sys.argv[2]))).names()))\n"
    )
    done = subprocess.run(
        [*fleet.network.inside(fleet.network.hub), sys.executable, "-c", code, fleet.url, str(fleet.keys)],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": PATHS},
    )  # fmt: skip
    return done.stdout.split()
