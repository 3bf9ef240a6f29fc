"""Do readers see everything, fresh, while the daemon samples at full rate and misses nothing?"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from energyd_client import clock
from real_daemon import Daemon, wait_for

if TYPE_CHECKING:
    from fake_nvml.build import FakeNvml

S = 1_000_000_000


def test_a_hundred_energyq_calls_all_succeed_fresh_and_the_sampler_misses_nothing(
    make_daemon: Callable[..., Daemon], fake_nvml: FakeNvml
) -> None:
    fake_nvml.control("devices 8\n")
    daemon = make_daemon(fake_nvml.env).start()
    offset = wait_for(lambda: daemon.query("SELECT offset_ns FROM boots"))[0]["offset_ns"]
    wait_for(lambda: daemon.query("SELECT count(DISTINCT device) AS n FROM samples")[0]["n"] >= 8)

    def ask(number: int) -> tuple[int, str]:
        """Age of the newest sample of the slowest GPU, in ns, when energyq had printed it.

        Every second one has a process of its own: the store is read the same, only Python starts less often.
        """
        sql = (
            "SELECT min(newest) AS newest, count(*) AS n FROM (SELECT max(s.t_ns) AS newest FROM samples s"
            " JOIN devices d USING (device) WHERE d.domain = 'gpu' GROUP BY device)"
        )
        began = clock.now_ns() + offset
        if number % 2:
            (row,) = daemon.query(sql)
            assert row["n"] == 8
            return began - row["newest"], ""
        out = daemon.run("energyq", "--store", str(daemon.store), "--format", "json", sql)
        if out.returncode != 0:
            return -1, out.stderr
        (row,) = json.loads(out.stdout)
        assert row["n"] == 8
        return began - row["newest"], ""

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, range(100)))
    assert [err for _, err in answers if err] == []
    # Counted from before energyq started, so that its own start-up is not charged to the store.
    assert max(age for age, _ in answers) <= 2 * S
    span = "SELECT max(t_ns) - min(t_ns) > 10000000000 AS long FROM samples"
    wait_for(lambda: daemon.query(span)[0]["long"])  # where a hundred take less
    assert daemon.stop() == 0
    assert daemon.query("SELECT count(*) AS n FROM gaps") == [{"n": 0}]
    rows = daemon.query(
        "SELECT device, count(*) AS n, min(s.t_ns) AS t0, max(s.t_ns) AS t1, count(DISTINCT s.t_ns) AS d"
        " FROM samples s JOIN devices USING (device) WHERE domain = 'gpu' GROUP BY device"
    )
    assert len(rows) == 8
    for row in rows:
        # The fake ring steps by exactly 20 ms; its stamps are whole microseconds of another clock.
        assert row["n"] == row["d"] == round((row["t1"] - row["t0"]) / 20e6) + 1
        assert row["t1"] - row["t0"] > 10 * S


def test_the_same_rows_are_seen_with_the_daemon_and_without_and_after_kill(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    daemon.finish(
        "with energy.run('r') as run:\n"
        "    with run.stage('a') as s:\n        time.sleep(0.5); s.count(label=3)\n"
        "    run.metric('acc', 0.5)\n"
    )
    sql = "SELECT stage, domain, energy_j, n_samples FROM stage_energy ORDER BY ALL"
    wait_for(lambda: daemon.query("FROM stages WHERE state = 'final'"))
    alive = daemon.query(sql)
    daemon.kill()
    assert daemon.query(sql) == alive
    assert daemon.query("SELECT name, value FROM metrics") == [{"name": "acc", "value": 0.5}]
    daemon.start(source="simulated")
    assert daemon.query(sql) == alive
    assert daemon.stop() == 0
    assert daemon.query(sql) == alive
    moved = daemon.store.rename(daemon.store.parent / "moved")
    out = daemon.run("energyq", "--store", str(moved), "--format", "json", sql)
    assert json.loads(out.stdout) == alive


def test_any_duckdb_tool_reads_the_catalogue_while_the_daemon_lives(daemon: Daemon) -> None:
    daemon.start(source="simulated")

    wait_for((daemon.store / "energy.duckdb").exists)
    newest = "SELECT max(t_ns) FROM samples"
    assert wait_for(lambda: daemon.plain(newest)[0]) > 0
    daemon.stop()


def test_samples_are_there_once_over_restarts_within_an_hour(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.start(source="simulated")
        wait_for(lambda: daemon.status()["samples"] > 100)
        daemon.stop()
    rows = daemon.query("SELECT count(*) AS n, count(DISTINCT (device, t_ns)) AS d FROM samples")
    assert rows[0]["n"] == rows[0]["d"] > 300
    daemon.start(source="simulated")
    again = daemon.query("SELECT count(*) AS n, count(DISTINCT (device, t_ns)) AS d FROM samples")
    assert again[0]["n"] == again[0]["d"] >= rows[0]["n"]
    wait_for(lambda: list((daemon.store / "live").glob("samples-*")))
    found = daemon.plain("SELECT count(*), count(DISTINCT (device, t_ns)) FROM samples")
    assert found[0] == found[1] >= rows[0]["n"]
    daemon.stop()


def test_live_subscribers_get_numbered_samples_and_the_last_values_at_once(daemon: Daemon) -> None:
    from energyd_client import protocol
    from energyd_client.subscriber import Subscriber

    daemon.start(source="simulated")
    process = daemon.program(
        "with energy.run('watched') as run:\n"
        "    with run.stage('train') as s:\n        s.count(label=7); time.sleep(4)\n"
    )
    wait_for(lambda: daemon.status()["open_stages"] == 1)
    seen: list[protocol.Message] = []
    with Subscriber(daemon.status()["publish"], [""]) as subscriber:
        for message in subscriber:
            seen.append(message)
            if isinstance(message, protocol.StageState) and message.state == "final":
                break
    process.communicate(timeout=30)
    stages = [m for m in seen if isinstance(m, protocol.StageState)]
    assert stages[0].stage == "train"  # the late comer was told of what is open
    assert stages[0].run == "watched"
    assert stages[-1].counts == {"label": 7}
    assert all(uj is not None and uj > 0 for uj in stages[-1].energy_uj.values())
    samples = [m for m in seen if isinstance(m, protocol.Samples) and m.device == 0]
    assert [m.n for m in samples] == list(range(samples[0].n, samples[0].n + len(samples)))
    assert any(isinstance(m, protocol.Health) for m in seen)
    assert any(isinstance(m, protocol.DeviceList) for m in seen)
    daemon.stop()


def test_what_start_tells_to_export_is_enough_for_energyq_status_and_stop(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    daemon.finish("with energy.run('r') as run:\n    with run.stage('a'): time.sleep(0.2)\n")
    wait_for(lambda: daemon.query("FROM stages WHERE state = 'final'"))
    found = daemon.run("energyq", "--format", "json", "SELECT name FROM stages")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [{"name": "a"}]
    assert daemon.run("energyd", "status").returncode == 0
    stopped = daemon.run("energyd", "stop")
    assert stopped.returncode == 0, stopped.stderr
