"""Is each marker delivered once, whatever dies, hangs or talks nonsense meanwhile?"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import pytest

import energyd_client as energy
from energyd_client import lifetime, outbox, reach, sender
from energyd_client.errors import PermissionRefused
from energyd_client.protocol import Hello, Refusal
from read_spool import read_spool


def test_acks_empty_the_spool_and_a_clean_exit_removes_it(workplace, daemon):
    program = "import energyd_client as e\nwith e.run('r') as r:\n    with r.stage('a'): pass\n"
    done = workplace.run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]
    assert workplace.spools() == []
    assert daemon.heard[-1].TYPE == "bye"


@pytest.mark.fault(
    "No daemon",
    seen="One warning; the program runs on.",
    lost="Power of that time; markers stay in the spool.",
)
def test_without_a_daemon_the_program_runs_with_one_warning_and_leaves_its_spool(workplace):
    program = (
        "import energyd_client as e\n"
        "with e.run('r') as r:\n"
        "    for i in range(100):\n"
        "        with r.stage('a') as s: s.count(n=1)\n"
        "print('trained')\n"
    )
    done = workplace.run(program)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    first, second = done.stderr.splitlines()
    assert first == (
        f"energyd is not reachable at {workplace.endpoint}: there is no such socket; this run is not measured"
    )
    assert "energyd start" in second
    (spool,) = workplace.spools()
    hello, markers = read_spool(spool)
    assert hello.client == spool.stem
    assert len(markers) == 303


def test_without_daemon_and_without_spool_only_the_missing_daemon_is_told(workplace):
    workplace.spool.rmdir()
    done = workplace.run("import energyd_client as e\nwith e.run('r'): pass\n")
    assert done.returncode == 0
    assert "not measured" in done.stderr
    assert "kept on disk" not in done.stderr


def test_a_missing_spool_folder_is_warned_of_once_and_markers_are_sent_all_the_same(
    workplace, daemon, caplog
):
    workplace.spool.rmdir()
    for _ in range(2):
        with energy.run("r"):
            pass
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "run_end"] * 2
    assert [r.getMessage().count("not kept on disk") for r in caplog.records] == [1]
    assert energy.losses() == {"unspooled": 4}


@pytest.mark.fault(
    "No permission on the socket",
    seen="One warning: `permission denied`, with the path and the cure.",
    lost="Nothing is measured; markers stay in the spool.",
)
def test_a_socket_without_permission_is_named_as_such(workplace, daemon):
    Path(workplace.endpoint[6:]).chmod(0)
    pid = os.fork()
    if pid == 0:  # root may use every socket, so a child stops being root
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            found = reach.obstacle(workplace.endpoint)
            os._exit(0 if isinstance(found, PermissionRefused) and found.reason == "permission denied" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_socket_file_that_nobody_listens_on_is_named_as_such(workplace):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(workplace.endpoint[6:])
    done = workplace.run("import energyd_client as e\nwith e.run('r'): pass\n")
    assert done.returncode == 0
    assert "no daemon listens" in done.stderr


def test_a_daemon_that_starts_late_gets_everything(make_daemon, caplog, until):
    with energy.run("r") as run, run.stage("a"):
        until(lambda: caplog.records)
    daemon = make_daemon().start()
    assert energy.flush(15)
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]


def test_an_idle_client_greets_a_restarted_daemon_of_its_own_accord(make_daemon, until):
    daemon = make_daemon().start()
    with energy.run("r"):
        assert energy.flush(10)
        daemon.stop()
        daemon.start()
        until(lambda: [m.TYPE for m in daemon.heard].count("hello") == 2)
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "run_end"]


def test_markers_that_credit_kept_back_at_the_end_are_left_to_the_spool_without_a_goodbye(
    workplace, make_daemon
):
    daemon = make_daemon(credit=2)
    daemon.acking = False
    daemon.start()
    workplace.run("import energyd_client as e\nr = e.run('r').begin()\nfor i in range(9): r.metric('m', i)\n")
    assert len(daemon.markers) == 2
    assert "bye" not in [m.TYPE for m in daemon.heard]
    (spool,) = workplace.spools()
    assert len(read_spool(spool)[1]) == 10


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_daemon_that_dies_before_its_commit_gets_the_rest_again_after_its_restart(make_daemon, until):
    daemon = make_daemon().start()
    with energy.run("r") as run:
        assert energy.flush(10)
        daemon.acking = False
        for i in range(50):
            with run.stage(f"s{i}"):
                pass
        until(lambda: len(daemon.markers) == 101)
        daemon.stop()
        daemon.forget_unacked()
        assert daemon.types() == ["run_begin"]
        daemon.acking = True
        daemon.start()
        with run.stage("after"):
            pass
    assert energy.flush(20)
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, 106))
    assert daemon.types() == ["run_begin"] + ["begin", "end"] * 51 + ["run_end"]


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_a_daemon_that_dies_after_its_commit_and_before_its_ack_stores_nothing_twice(make_daemon, until):
    daemon = make_daemon().start()
    daemon.acking = False
    with energy.run("r"):
        pass
    until(lambda: len(daemon.markers) == 2)
    daemon.stop()
    daemon.acking = True
    daemon.start()
    assert energy.flush(20)
    assert daemon.types() == ["run_begin", "run_end"]
    assert [m.TYPE for m in daemon.heard].count("hello") >= 2


def test_a_daemon_that_answers_late_is_greeted_again(make_daemon, monkeypatch, until, caplog):
    monkeypatch.setattr("energyd_client.sender.WELCOME_S", 0.1)
    daemon = make_daemon().start()
    daemon.greet = False
    with energy.run("r"):
        until(lambda: caplog.records)
    assert "no answer to our greeting" in caplog.records[0].getMessage()
    daemon.greet = True
    assert energy.flush(15)
    assert daemon.types() == ["run_begin", "run_end"]


def test_no_more_than_the_credit_is_ever_unacknowledged(make_daemon):
    daemon = make_daemon(credit=50).start()
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(2_000):
            stage.count(n=1)
    assert energy.flush(30)
    assert daemon.types().count("count") == 2_000
    assert daemon.most_unacked == 50


def test_garbage_from_the_daemon_is_ignored_and_counted(make_daemon, until):
    daemon = make_daemon().start()
    with energy.run("r") as run:
        assert energy.flush(10)
        nonsense = [b"", b"\xc1", b"\x93", msgpack.packb({"type": "ack", "seq": "x"}), msgpack.packb([1])]
        nonsense += [msgpack.packb({"type": "welcome", "v": 1}), os.urandom(500)]
        for data in nonsense:
            daemon.say(data)
        until(lambda: energy.losses().get("garbage", 0) >= len(nonsense))
        with run.stage("a"):
            pass
    assert energy.flush(10)
    assert daemon.types() == ["run_begin", "begin", "end", "run_end"]


@pytest.mark.fault("A client of another protocol version")
def test_a_daemon_of_another_protocol_stops_the_sending_with_one_warning(make_daemon, caplog, until):
    daemon = make_daemon()
    daemon.version_refused = True
    daemon.start()
    with energy.run("r"):
        until(lambda: lifetime.opened().muted)
    assert energy.flush(2) is False
    assert daemon.markers == []
    (record,) = caplog.records
    assert "upgrade the client" in record.getMessage()
    box = lifetime.opened()
    lifetime.close()
    hello, kept = read_spool(box.spool.path)  # for a daemon that understands it
    assert hello.client == box.client
    assert [m.TYPE for m in kept] == ["run_begin", "run_end"]


@pytest.mark.fault("kill -9 of daemon and clients at random moments")
def test_kill_nine_leaves_a_spool_with_every_marker_whose_call_returned(workplace):
    program = (
        "import energyd_client as e, time\n"
        "run = e.run('r').begin()\n"
        "for i in range(500):\n"
        "    run.stage(f's{i}').begin().end()\n"
        "print('all returned', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=workplace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline() == b"all returned\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    (spool,) = workplace.spools()
    hello, markers = read_spool(spool)
    assert isinstance(hello, Hello)
    assert hello.pid == process.pid
    assert [m.seq for m in markers] == list(range(1, 1003))


def test_os_exit_right_after_a_marker_leaves_it_in_the_spool(workplace, daemon):
    workplace.run("import os, energyd_client as e\nwith e.run('r'): pass\nos._exit(0)\n")
    (spool,) = workplace.spools()
    assert [m.TYPE for m in read_spool(spool)[1]] == ["run_begin", "run_end"]


def test_memory_stays_bounded_without_a_daemon_and_the_spool_gives_the_rest_back_in_order(
    make_daemon, monkeypatch, until
):
    monkeypatch.setattr(outbox, "HELD_MARKERS", 100)
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(5_000):
            stage.count(n=1)
        assert len(lifetime.opened().fresh) == 100
        daemon = make_daemon().start()
        assert energy.flush(30)
    assert energy.flush(10)
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, 5_006))
    assert energy.losses() == {}


def test_without_daemon_and_spool_what_memory_cannot_hold_is_lost_and_counted(
    workplace, make_daemon, monkeypatch, caplog
):
    workplace.spool.rmdir()
    monkeypatch.setattr(outbox, "HELD_MARKERS", 10)
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(100):
            stage.count(n=1)
    assert energy.losses()["lost"] == 105 - 10
    daemon = make_daemon().start()
    assert energy.flush(15) is False  # not everything is acknowledged
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, 11))
    assert any("markers are lost" in r.getMessage() for r in caplog.records)


def test_a_program_that_ends_beside_a_hanging_daemon_ends_soon(workplace, make_daemon):
    daemon = make_daemon().start()
    daemon.acking = False
    start = time.monotonic()
    done = workplace.run("import energyd_client as e\nwith e.run('r'): pass\n", timeout_s=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 10  # not a measurement: a hang would take for ever
    assert len(workplace.spools()) == 1


def test_no_marker_wakes_the_sender_which_finds_it_all_the_same(daemon, monkeypatch, until):
    wakes = []
    real = sender.Sender.wake
    monkeypatch.setattr(sender.Sender, "wake", lambda self: (wakes.append(1), real(self)))
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(1_000):
            stage.count(n=1)
    until(lambda: len(daemon.markers) == 1_004)
    assert wakes == []


def test_what_a_busy_daemon_turns_away_is_sent_again_in_order_after_the_next_ack(make_daemon, until):
    daemon = make_daemon()
    busy, first = True, 101  # the first that is turned away; what follows is so too, until it comes again

    def refuse(marker):
        nonlocal first
        if not busy and marker.seq == first:
            first = 10**9
        return Refusal("busy", "too many") if marker.seq >= first else None

    daemon.refuse = refuse
    daemon.start()
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(300):
            stage.count(n=1)
        until(lambda: len(daemon.markers) >= 99)
        busy = False
    assert energy.flush(20)
    (stored,) = daemon.stored.values()
    assert [m.seq for m in stored] == list(range(1, stored[-1].seq + 1))
    assert daemon.types().count("count") == 300
    assert energy.losses() == {}


def test_a_busy_daemon_that_owes_no_ack_is_greeted_again(make_daemon, monkeypatch, until):
    monkeypatch.setattr(sender, "SILENCE_S", 0.2)
    daemon = make_daemon()
    busy, first = True, 1  # what follows the first is turned away too, until that comes again

    def refuse(marker):
        nonlocal first
        if not busy and marker.seq == first:
            first = 10**9
        return Refusal("busy", "too many of others") if marker.seq >= first else None

    daemon.refuse = refuse
    daemon.start()
    with energy.run("r"):
        until(lambda: [m.TYPE for m in daemon.heard].count("hello") >= 2)
        busy = False
    assert energy.flush(20)
    assert daemon.types() == ["run_begin", "run_end"]
