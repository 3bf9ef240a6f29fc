"""Is what a spool holds still readable after everything that can happen to a file?"""

import fcntl
import os
import stat
import subprocess
import sys

import pytest

import energyd_client as energy
from energyd_client import lifetime, spool
from energyd_client.protocol import Count, Hello, Metric, pack
from energyd_client.spool import Spool
from read_spool import read_frames, read_spool

HELLO = Hello(1, "c-1", 5, 6, "boot", 7, "0.1")


def marker(seq):
    return Count(seq, 10 + seq, "r", "s", {"n": seq})


@pytest.fixture
def filled(tmp_path):
    written = Spool(tmp_path, "c-1", pack(HELLO))
    for seq in range(1, 6):
        assert written.append(pack(marker(seq)))
    written.close(unlink=False)
    return tmp_path / "c-1.spool"


def test_a_spool_reads_back_as_it_was_written(filled):
    assert read_spool(filled) == (HELLO, [marker(seq) for seq in range(1, 6)])


def test_a_spool_is_readable_for_the_group_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        Spool(tmp_path, "c", pack(HELLO)).close(unlink=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c.spool").stat().st_mode) == 0o640


@pytest.mark.fault(
    "A damaged spool",
    seen="One line in the daemon's log; a file that is none is renamed to `.bad`.",
    lost="The markers from the damaged byte on.",
)
def test_a_spool_torn_at_any_byte_yields_the_whole_markers_before_it(filled):
    raw = filled.read_bytes()
    ends, at = [], 0
    for data in read_frames(filled):
        at += 8 + len(data)
        ends.append(at)
    for cut in range(len(raw)):
        filled.write_bytes(raw[:cut])
        hello, markers = read_spool(filled)
        whole = sum(end <= cut for end in ends)
        assert (hello is not None) == (whole > 0)
        assert len(markers) == max(0, whole - 1)


@pytest.mark.fault("A damaged spool")
def test_a_flipped_byte_never_yields_a_wrong_marker(filled):
    raw = filled.read_bytes()
    right = [marker(seq) for seq in range(1, 6)]
    for at in range(len(raw)):
        filled.write_bytes(raw[:at] + bytes([raw[at] ^ 0x40]) + raw[at + 1 :])
        _, markers = read_spool(filled)
        assert markers == right[: len(markers)]


@pytest.mark.parametrize("planted", ["c.spool", "c.new"])
def test_a_planted_link_is_never_written_through(tmp_path, planted):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / planted).symlink_to(victim)
    ours = Spool(tmp_path, "c", pack(HELLO))
    assert ours.append(pack(marker(1))) is (planted == "c.spool")  # that link is replaced, the other refused
    ours.close(unlink=False)
    assert victim.read_text() == "precious"


def is_locked(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_spool_is_locked_while_its_process_lives_also_after_a_rewrite(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "RELEASE_BYTES", 200)
    monkeypatch.setattr(spool, "REWRITE_BYTES", 400)
    ours = Spool(tmp_path, "c", pack(HELLO))
    assert is_locked(ours.path)
    for seq in range(1, 50):
        ours.append(pack(marker(seq)))
    ours.release([pack(marker(49))])
    assert ours.size < 400
    assert is_locked(ours.path)
    ours.close(unlink=False)
    assert not is_locked(ours.path)


def test_a_forked_child_does_not_keep_its_parents_spool_locked(workplace, until):
    program = (
        "import os, sys, energyd_client as e\n"
        "run = e.run('r').begin()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    sys.stdout.close(); os.read(0, 1); os._exit(0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=workplace.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.wait(20) == -9  # the parent is dead, the child waits for a byte
    (left,) = workplace.spools()
    until(lambda: not is_locked(left))
    process.stdin.close()


def test_a_full_spool_refuses_and_stays_readable(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CAP_BYTES", 300)
    full = Spool(tmp_path, "c", pack(HELLO))
    results = [full.append(pack(marker(seq))) for seq in range(1, 10)]
    full.close(unlink=False)
    assert results[0] is True
    assert results[-1] is False
    assert "full" in full.reason
    assert read_spool(full.path)[1] == [marker(seq) for seq in range(1, 1 + sum(results))]


@pytest.mark.fault("A damaged spool")
def test_a_disk_that_takes_half_a_marker_leaves_no_torn_frame_in_the_middle(tmp_path, monkeypatch):
    tight = Spool(tmp_path, "c", pack(HELLO))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    assert tight.append(pack(marker(1))) is False
    monkeypatch.setattr(os, "write", write)
    assert tight.append(pack(marker(2))) is True
    tight.close(unlink=False)
    assert read_spool(tight.path) == (HELLO, [marker(2)])


def test_an_acknowledged_spool_shrinks_to_its_hello(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "RELEASE_BYTES", 200)
    kept = Spool(tmp_path, "c", pack(HELLO))
    for seq in range(1, 20):
        kept.append(pack(marker(seq)))
    kept.release([])
    kept.append(pack(marker(20)))
    kept.close(unlink=False)
    assert read_spool(kept.path) == (HELLO, [marker(20)])


def test_a_large_spool_is_written_anew_with_what_is_outstanding(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "RELEASE_BYTES", 200)
    monkeypatch.setattr(spool, "REWRITE_BYTES", 400)
    kept = Spool(tmp_path, "c", pack(HELLO))
    for seq in range(1, 50):
        kept.append(pack(marker(seq)))
    kept.release([pack(marker(48)), pack(marker(49))])
    kept.append(pack(Metric(50, 1, "r", "m", 0.5)))
    kept.close(unlink=False)
    assert read_spool(kept.path) == (HELLO, [marker(48), marker(49), Metric(50, 1, "r", "m", 0.5)])
    assert [p.name for p in tmp_path.iterdir()] == ["c.spool"]


def test_a_long_steady_flow_keeps_the_spool_small(daemon, monkeypatch):
    for name in ("RELEASE_BYTES", "REWRITE_BYTES"):
        monkeypatch.setattr(spool, name, 20_000)
    monkeypatch.setattr("energyd_client.outbox.RELEASE_BYTES", 20_000)
    with energy.run("r") as run, run.stage("a") as stage:
        for _ in range(20):
            for _ in range(200):
                stage.count(n=1)
            assert energy.flush(10)
    box = lifetime.opened()
    assert energy.flush(10)
    assert box.seq > 4_000
    assert box.spool.path.stat().st_size < 60_000
