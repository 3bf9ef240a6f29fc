"""Can a peer that floods, sleeps or says too much at once harm the others?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from bench.figures import memory_mib
from energyd.publisher import Publisher
from energyd_client import clock, protocol
from real_daemon import Daemon, wait_for
from staged import status

# Says HELLO and then marker after marker, whatever it is told, until its stdin is closed.
FLOOD = """
import os, select, sys, threading
import zmq
from energyd_client import clock, protocol as p
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.linger = 0
socket.connect(sys.argv[1])
socket.send(p.pack(p.Hello(p.VERSION, "flood", os.getpid(), 1, clock.boot_id(), clock.timens_inode(), "0")))
socket.recv()
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
seq = 1
socket.send(p.pack(p.RunBegin(seq, clock.now_ns(), "flood", "flood")))
while not over.is_set():
    seq += 1
    try:
        socket.send(p.pack(p.Metric(seq, clock.now_ns(), "flood", "m", float(seq))), zmq.DONTWAIT)
    except zmq.Again:
        socket.poll(100, zmq.POLLOUT)
        seq -= 1
    if seq == 5_000:
        print("flooding", flush=True)
    while socket.poll(0):
        socket.recv()
print(seq, flush=True)
context.destroy(0)
"""


@pytest.fixture
def running(daemon: Daemon) -> Daemon:
    return daemon.start(source="simulated")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(0)


def samples_go_on(daemon: Daemon) -> None:
    """More samples come, and no fault left a gap."""
    before = status(daemon)["samples"]
    wait_for(lambda: status(daemon)["samples"] > before)
    assert status(daemon)["gaps"] == 0
    assert status(daemon)["state"] == "ok"


@pytest.mark.fault(
    "A program that floods the daemon with markers",
    seen="Its acks slow down; other programs' do not stop.",
    lost="Nothing of the others; of the flood only what was sent beyond the credit.",
)
def test_beside_a_flood_another_program_delivers_and_no_sample_is_missed(running: Daemon) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", FLOOD, running.endpoint]
    with subprocess.Popen(command, env=running.env, stdin=pipe, stdout=pipe, text=True) as flood:
        try:
            assert flood.stdin is not None
            assert flood.stdout is not None
            assert flood.stdout.readline() == "flooding\n"
            running.finish(
                "run = energy.run('other').begin()\n"
                "for i in range(500):\n"
                "    with run.stage('s'): pass\n"
                "run.end()\n"
                "assert energy.flush(40)"
            )
            # Fails if the asker loses its own patience: the flood goes on meanwhile.
            assert all(running.status()["markers"] > 1_500 for _ in range(3))
            assert flood.poll() is None
            flood.stdin.close()
            said = int(flood.stdout.readline())
        finally:
            flood.kill()
    assert said > 5_000
    wait_for(lambda: status(running)["waiting"] == 0)
    wait_for(lambda: status(running)["pending_stages"] == 0, 40)  # energies come when the flood leaves time
    (other,) = running.query("SELECT count(*) AS n FROM stages WHERE name = 's' AND state = 'final'")
    assert other["n"] == 500
    (stored,) = running.query(
        "SELECT count(*) AS n, count(DISTINCT seq) AS once, max(seq) AS last FROM markers "
        "WHERE client = 'flood'"
    )
    assert 0 < stored["n"] == stored["once"] == stored["last"] <= said
    samples_go_on(running)


@pytest.mark.fault("Oversized messages")
def test_a_byte_too_many_drops_the_connection_and_the_next_one_serves(
    running: Daemon, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    with socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED) as monitor:
        socket.connect(running.endpoint)

        def event() -> int:
            assert monitor.poll(10_000)
            return int(recv_monitor_message(monitor)["event"])

        assert event() == zmq.EVENT_CONNECTED
        socket.send(bytes(protocol.MAX_FRAME_BYTES))
        assert socket.poll(10_000)
        assert msgpack.unpackb(socket.recv())["type"] == "error"  # read, and found to be nonsense
        other = running.program(
            "with energy.run('other') as run:\n"
            "    for _ in range(200):\n"
            "        with run.stage('s'): time.sleep(0.002)\n"
            "assert energy.flush(20)"
        )
        for _ in range(5):
            socket.send(bytes(protocol.MAX_FRAME_BYTES + 1))
            assert event() == zmq.EVENT_DISCONNECTED
            assert event() == zmq.EVENT_CONNECTED
        pid, boot, timens = os.getpid(), clock.boot_id(), clock.timens_inode()
        socket.send(protocol.pack(protocol.Hello(protocol.VERSION, "wide", pid, 1, boot, timens, "0")))
        assert socket.poll(10_000)
        assert msgpack.unpackb(socket.recv())["type"] == "welcome"
        socket.disable_monitor()
    socket.close(0)
    _, err = other.communicate(timeout=60)
    assert (other.returncode, err) == (0, "")
    samples_go_on(running)


SUBSCRIBER = """
import sys
from energyd_client.subscriber import Subscriber
with Subscriber(sys.argv[1]) as live:
    live.receive(30)
    print("hears", flush=True)
    for message in live:
        if getattr(message, "stage_id", "") == "last":
            print(live.lost, flush=True)
            break
"""


@pytest.mark.fault(
    "A subscriber that sleeps (SIGSTOP)",
    seen="`energyd top` says how many messages were lost to it.",
    lost="Live messages of that subscriber; nothing stored.",
)
def test_a_stopped_subscriber_costs_no_memory_and_counts_what_it_lost(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    endpoint = f"ipc://{tmp_path}/p.sock"
    publisher = Publisher(context, endpoint)
    command = [sys.executable, "-c", SUBSCRIBER, endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as subscriber:
        try:
            publisher.publish("devices", protocol.DeviceList(0, []))

            assert publisher.socket.poll(20_000)
            publisher.subscriptions()
            assert subscriber.stdout is not None
            assert subscriber.stdout.readline() == "hears\n"
            subscriber.send_signal(signal.SIGSTOP)
            before_mib = memory_mib("self", "VmRSS")
            said = 20_000
            for i in range(said):
                t_ns = [i * 100 + k for k in range(100)]  # 1 kB and more: 20 MB in all
                publisher.publish("samples/0", protocol.Samples(0, 0, t_ns, t_ns, i))
            grown_mib = memory_mib("self", "VmRSS") - before_mib
            subscriber.send_signal(signal.SIGCONT)

            def told() -> bool:
                publisher.publish(
                    "samples/0", protocol.Samples(0, 0, [1], [1], 1)
                )  # whose number shows the loss
                stage = protocol.StageState(0, "r", "r", "last", None, "s", "open", "ok", 1, None, [], {}, {})
                publisher.publish("stages/last", stage)
                return subscriber.poll() is not None

            wait_for(told)
            lost = int(subscriber.stdout.readline())
        finally:
            subscriber.kill()
    publisher.socket.close()
    assert 0 < lost < said
    assert grown_mib < 8


@pytest.mark.fault("A subscriber that sleeps (SIGSTOP)")
def test_beside_a_stopped_subscriber_another_one_and_the_samples_lose_nothing(running: Daemon) -> None:
    publish = running.holder()["publish"]
    subscribe = [
        sys.executable,
        "-c",
        SUBSCRIBER.replace('"last"', "sys.argv[2]").replace("stage_id", "stage"),
        publish,
    ]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([*subscribe, "end"], env=running.env, stdout=pipe, text=True) as stopped,
        subprocess.Popen([*subscribe, "end"], env=running.env, stdout=pipe, text=True) as awake,
    ):
        try:
            assert stopped.stdout is not None
            assert awake.stdout is not None
            assert stopped.stdout.readline() == awake.stdout.readline() == "hears\n"
            stopped.send_signal(signal.SIGSTOP)
            running.finish(
                "run = energy.run('r').begin()\n"
                "for i in range(300):\n"
                "    with run.stage('s'): time.sleep(0.001)\n"
                "run.stage('end').begin().end()\n"
                "run.end()\n"
                "assert energy.flush(20)"
            )
            assert awake.stdout.readline() == "0\n"
            samples_go_on(running)
        finally:
            stopped.kill()
            awake.kill()


@pytest.mark.fault("A program in a container")
def test_a_program_in_pid_and_user_namespaces_of_its_own_is_heard_and_its_death_noticed(
    running: Daemon,
) -> None:
    elsewhere = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    tried = shutil.which("unshare") and subprocess.run([*elsewhere, "true"], capture_output=True, check=False)
    if not tried or tried.returncode != 0:
        pytest.skip("no user and pid namespaces here")
    code = (
        "import energyd_client as energy, os, time\n"
        "run = energy.run('boxed').begin()\n"
        "with run.stage('whole'): time.sleep(0.1)\n"
        "run.stage('cut').begin()\n"
        "assert energy.flush(20)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [*elsewhere, sys.executable, "-c", code]
    with subprocess.Popen(command, env=running.env, stdout=subprocess.PIPE, text=True) as boxed:
        try:
            assert boxed.stdout is not None
            assert boxed.stdout.readline() == "1\n"  # its pid in there
            rows = running.query("SELECT DISTINCT uid, pid FROM markers WHERE kind = 'begin'")
            inner = Path(f"/proc/{boxed.pid}/task/{boxed.pid}/children").read_text().split()
            assert rows == [{"uid": os.getuid(), "pid": int(inner[0])}]
            assert status(running)["open_stages"] >= 1
        finally:
            boxed.kill()
    wait_for(lambda: running.query("SELECT status FROM stages WHERE name = 'cut'") == [{"status": "aborted"}])
    (whole,) = wait_for(
        lambda: running.query("SELECT status FROM stages WHERE name = 'whole' AND state = 'final'")
    )
    assert whole["status"] == "ok"
    wait_for(lambda: not list(running.spool.glob("*.spool")))
    samples_go_on(running)
