"""Does every kind of bad input get one clear error, and lose nothing?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from energyd_client import clock, protocol
from real_daemon import Daemon, wait_for


@pytest.fixture
def running(daemon: Daemon) -> Daemon:
    return daemon.start(source="simulated")


def foreground(daemon: Daemon, *options: str, store: Any = None, **env: str) -> tuple[int, str]:
    """Exit code and stderr of an `energyd start` that is expected to fail."""
    command = [sys.executable, "-m", "energyd", "start", "--foreground"]
    command += ["--store", str(store or daemon.store), *options]
    environment = {**daemon.env, **env}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return out.returncode, out.stderr


class Raw:
    """A socket that says what it likes."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def ask(self, *frames: bytes) -> dict[str, Any]:
        self.socket.send_multipart(frames)
        assert self.socket.poll(5_000), "no answer"
        answer: dict[str, Any] = msgpack.unpackb(self.socket.recv(), strict_map_key=False)
        return answer

    def hello(self, **change: Any) -> dict[str, Any]:
        hello = protocol.Hello(
            protocol.VERSION, "raw", os.getpid(), 1, clock.boot_id(), clock.timens_inode(), "0"
        )
        packed = msgpack.unpackb(protocol.pack(hello))
        return self.ask(msgpack.packb({**packed, **change}))

    def close(self) -> None:
        self.socket.close()
        self.context.term()


@pytest.fixture
def raw(running: Daemon) -> Any:
    peer = Raw(running.endpoint)
    yield peer
    peer.close()


def still_measures(daemon: Daemon) -> None:
    """The daemon is as well as before: a whole run goes through it."""
    run_id = daemon.finish(
        "with energy.run('after') as run:\n with run.stage('s'): time.sleep(0.2)\nprint(run.run_id)"
    ).strip()
    wait_for(lambda: daemon.query(f"FROM stages WHERE run_id = '{run_id}' AND state = 'final'"))


@pytest.mark.fault(
    "No place to write at start",
    seen="`start` ends with exit code 78 and names path, uid and cure.",
    lost="Nothing; nothing was begun.",
)
def test_a_store_that_cannot_be_written_is_named_with_uid_and_cure(daemon: Daemon, tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, err = foreground(daemon, store=blocked / "store")
    assert code == 78
    assert str(blocked) in err
    assert f"uid {os.geteuid()}" in err
    assert "cure:" in err
    assert "Traceback" not in err


@pytest.mark.fault("No place to write at start")
def test_a_store_without_permission_is_refused(daemon: Daemon, tmp_path: Any) -> None:
    if os.geteuid() != 0:
        code, err = foreground(daemon, store="/proc/energyd")
    else:  # root may write everywhere but where nobody can
        code, err = foreground(daemon, store="/sys/energyd")
    assert code == 78
    assert "cannot write" in err


@pytest.mark.fault("No place to write at start")
@pytest.mark.parametrize("which", ["store", "socket"])
def test_a_lock_file_that_may_not_be_opened_is_named_with_the_cure(daemon: Daemon, which: str) -> None:
    daemon.store.mkdir()
    lock = daemon.store / "lock" if which == "store" else Path(daemon.endpoint[len("ipc://") :] + ".lock")
    if os.geteuid() != 0:
        lock.touch(mode=0)
    else:  # root may open every file; a link it does not follow
        lock.symlink_to("/dev/null")
    code, err = foreground(daemon)
    assert code == 78
    assert "Traceback" not in err
    assert f"cannot write {lock}" in err
    assert "cure:" in err


@pytest.mark.fault(
    "A second daemon",
    seen="`already running: pid P holds …`, exit code 1.",
    lost="Nothing; the first goes on.",
)
def test_a_second_daemon_on_one_store_is_refused_and_the_first_goes_on(running: Daemon) -> None:
    code, err = foreground(running, "--source", "simulated", ENERGYD_ENDPOINT=running.endpoint + "2")
    assert code == 1
    assert "already running" in err
    assert str(running.holder()["pid"]) in err
    still_measures(running)


@pytest.mark.fault("A second daemon")
def test_a_second_daemon_on_one_endpoint_is_refused_and_steals_nothing(
    running: Daemon, tmp_path: Any
) -> None:
    code, err = foreground(running, "--source", "simulated", store=tmp_path / "other")
    assert code == 1
    assert f"pid {running.holder()['pid']}" in err
    assert "ENERGYD_ENDPOINT" in err
    assert "cure: unset" in err
    still_measures(running)


def test_an_unknown_source_is_refused_with_the_choices(daemon: Daemon) -> None:
    code, err = foreground(daemon, "--source", "thermometer")
    assert code == 78
    assert "thermometer" in err
    assert "replay:" in err


def test_a_trace_that_is_not_there_is_refused(daemon: Daemon, tmp_path: Any) -> None:
    code, err = foreground(daemon, "--source", f"replay:{tmp_path / 'none'}")
    assert code == 78
    assert str(tmp_path / "none") in err


def test_a_socket_path_that_is_too_long_or_not_ipc_is_refused(daemon: Daemon) -> None:
    code, err = foreground(daemon, ENERGYD_ENDPOINT="ipc:///tmp/" + "x" * 120)
    assert (code, "too long" in err) == (78, True)
    code, err = foreground(daemon, ENERGYD_ENDPOINT="tcp://0.0.0.0:5555")
    assert (code, "only ipc://" in err) == (78, True)


def test_malformed_sql_gets_duckdbs_line_and_exit_2(running: Daemon) -> None:
    out = running.run("energyq", "--store", str(running.store), "SELEC 1")
    assert out.returncode == 2
    assert "SELEC" in out.stderr
    assert "Traceback" not in out.stderr
    assert out.stdout == ""


def test_an_unknown_run_or_stage_is_named(running: Daemon) -> None:
    out = running.run("energyq", "--store", str(running.store), "stages", "no-such-run")
    assert out.returncode == 1
    assert "no-such-run" in out.stderr
    out = running.run("energyq", "--store", str(running.store), "explain", "no-such-stage")
    assert out.returncode == 1
    assert "no-such-stage" in out.stderr


@pytest.mark.fault(
    "Malformed messages",
    seen="An `error` reply that names the field; `refused` in `energyd status`, one line in the log a kind.",
    lost="The message itself.",
)
@pytest.mark.parametrize(
    "garbage",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xc1" * 100, b"\x91" * 60_000],
    ids=["empty", "http", "invalid", "nested"],
)
def test_garbage_on_the_socket_is_answered_and_survived(running: Daemon, raw: Raw, garbage: bytes) -> None:
    answer = raw.ask(garbage)
    assert (answer["type"], answer["code"]) == ("error", "malformed")
    assert raw.hello()["type"] == "welcome"
    still_measures(running)


@pytest.mark.fault("Malformed messages")
def test_bytes_that_are_not_even_zeromq_are_survived(running: Daemon) -> None:
    greeting = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f" + b"\x03\x00NULL" * 20
    for payload in (b"\x00" * 10, greeting, os.urandom(5_000)):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(running.endpoint[6:])
            try:
                peer.sendall(payload)
            except BrokenPipeError:
                pass  # libzmq hung up at once
    still_measures(running)


@pytest.mark.fault(
    "Oversized messages",
    seen="The sender's connection is dropped and made anew; energyd's own client never sends one.",
    lost="The message itself.",
)
def test_an_oversize_frame_does_not_harm_others(running: Daemon) -> None:
    peer = Raw(running.endpoint)
    peer.socket.send(b"\x80" * (protocol.MAX_FRAME_BYTES + 1))
    still_measures(running)
    peer.close()


def test_a_message_of_several_frames_is_refused(raw: Raw) -> None:
    answer = raw.ask(b"a", b"b")
    assert answer["code"] == "malformed"


def test_a_marker_before_hello_is_refused(raw: Raw) -> None:
    answer = raw.ask(protocol.pack(protocol.StageEnd(1, 1, "r", "s", "ok")))
    assert answer["code"] == "hello_first"


@pytest.mark.fault(
    "A client of another protocol version",
    seen="One warning that says which side to upgrade; the program runs unmeasured.",
    lost="Its markers stay in its spool.",
)
def test_a_client_of_another_protocol_version_is_told_which_side_to_upgrade(raw: Raw) -> None:
    newer = raw.hello(v=protocol.VERSION + 1, flux_capacitor=1)
    assert newer["code"] == "version"
    assert "upgrade the daemon" in newer["message"]
    older = raw.hello(v=0)
    assert "upgrade the client" in older["message"]


@pytest.mark.fault("Malformed messages")
def test_an_unknown_field_is_refused_by_name_and_the_rest_is_stored(running: Daemon, raw: Raw) -> None:
    raw.hello()
    begin = msgpack.unpackb(protocol.pack(protocol.RunBegin(1, clock.now_ns(), "rawrun", "raw")))
    refused = raw.ask(msgpack.packb({**begin, "joules": 1}))
    assert (refused["code"], refused["field"]) == ("malformed", "joules")
    accepted = raw.ask(msgpack.packb(begin))
    assert accepted == {"type": "ack", "seq": 1}
    assert running.query("SELECT run_id FROM runs") == [{"run_id": "rawrun"}]


def test_a_stage_ended_twice_is_refused_and_keeps_its_first_end(running: Daemon, raw: Raw) -> None:
    raw.hello()
    t = clock.now_ns()
    for message in (
        protocol.RunBegin(1, t, "r", "raw"),
        protocol.StageBegin(2, t, "r", "st", "train"),
        protocol.StageEnd(3, t + 1_000, "r", "st", "ok"),
    ):
        raw.socket.send(protocol.pack(message))
    answer = raw.ask(protocol.pack(protocol.StageEnd(4, t + 9_000, "r", "st", "ok")))
    while answer["type"] == "ack":
        assert raw.socket.poll(5_000)
        answer = msgpack.unpackb(raw.socket.recv())
    assert (answer["code"], answer["field"], answer["seq"]) == ("not_found", "stage_id", 4)
    (row,) = wait_for(lambda: running.query("SELECT t1_ns - t0_ns AS d FROM stages WHERE state = 'final'"))
    assert row["d"] == 1_000


@pytest.mark.fault("Malformed messages")
def test_nonsense_that_is_valid_on_the_wire_does_not_poison_the_store(running: Daemon, raw: Raw) -> None:
    raw.hello()
    t = clock.now_ns()
    for message in (
        protocol.RunBegin(1, t, "n\x00'\"; DROP TABLE samples; --", "\ud7ff\x00", {"nan": float("nan")}),
        protocol.Metric(2, t, "n", "inf", float("inf")),
        protocol.Metric(3, 2**63 - 1, "n", "nan", float("nan")),
        protocol.StageBegin(4, 0, "n", "s\x1f", "x", "no-such-parent", ["no-such-gpu"]),
        protocol.Count(5, t, "n", "s\x1f", {"tokens": 2**53}),
        protocol.ArtifactMade(6, t, "n", "a", "b", "c", attrs={"x": float("-inf"), "big": 2**64 - 1}),
    ):
        raw.socket.send(protocol.pack(message))
    deadline = 20
    while deadline:
        deadline -= 1
        assert raw.socket.poll(5_000), "no acknowledgement"
        answer = msgpack.unpackb(raw.socket.recv())
        if answer == {"type": "ack", "seq": 6}:
            break
    assert running.query("SELECT count(*) AS n FROM markers")[0]["n"] == 6
    assert running.status()["state"] == "ok"
    (run,) = running.query("SELECT labels->>'nan' AS label FROM runs WHERE labels->>'nan' IS NOT NULL")
    assert run == {"label": "nan"}
    still_measures(running)


def test_status_and_stop_without_a_daemon_say_so_with_exit_3(daemon: Daemon) -> None:
    for command in ("status", "stop", "top"):
        out = daemon.run("energyd", command, "--store", str(daemon.store))
        assert out.returncode == 3, out.stderr
        assert "cure:" in out.stderr
    out = daemon.run("energyd", "status")
    assert out.returncode == 3


def test_version_names_release_and_protocol(daemon: Daemon) -> None:
    out = daemon.run("energyd", "version")
    assert out.stdout == f"energyd 0.1.0 (protocol {protocol.VERSION})\n"


def test_start_and_stop_return_when_it_is_so(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    out = daemon.run("energyd", "start", "--store", str(daemon.store), "--source", "simulated")
    assert out.returncode == 0, out.stderr
    assert daemon.status()["state"] == "ok"
    again = daemon.run("energyd", "start", "--store", str(daemon.store), "--source", "simulated")
    assert again.returncode == 1
    assert "already running" in again.stderr
    out = daemon.run("energyd", "stop", "--store", str(daemon.store))
    assert out.returncode == 0, out.stderr
    assert json.loads((daemon.store / "lock").read_text() or "{}") == {}


def test_a_killed_daemons_lock_names_nobody_so_that_stop_signals_no_other_process(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    daemon.kill()
    lock = daemon.store / "lock"
    said = json.loads(lock.read_text())  # what it said of itself is still there
    with subprocess.Popen(["sleep", "60"]) as other:  # has got its pid meanwhile
        lock.write_text(json.dumps(said | {"pid": other.pid}))
        out = daemon.run("energyd", "stop", "--store", str(daemon.store))
        assert other.poll() is None
        other.kill()
    assert out.returncode == 3
    assert "no daemon runs" in out.stderr
