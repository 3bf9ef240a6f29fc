"""Does `energyd release` really let go of the driver, and does what comes back tell what was missed?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyd.config import ConfigError, seconds
from energyd_client.errors import DaemonRefused
from energyd_client.protocol import AskRelease
from energyd_client.request import ask
from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for
from staged import Staged, status

MakeDaemon = Callable[..., Daemon]


def users(log: Path) -> dict[str, int]:
    """Per process: how often it holds the driver's library now."""
    held: dict[str, int] = {}
    for line in log.read_text().splitlines():
        pid, what = line.split()
        held[pid] = held.get(pid, 0) + (1 if what == "init" else -1)
    return held


def gpu_domain(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = next(d for d in status(daemon)["domains"] if d["domain"] == "gpu")
    return found


def all_sampled(daemon: Daemon) -> None:
    """Wait for a sample of each GPU from after now."""
    now_ns = status(daemon)["now_ns"]

    def sampled() -> bool:
        return all((d["last_t_ns"] or 0) > now_ns for d in status(daemon)["devices"] if d["domain"] == "gpu")

    wait_for(sampled)


@pytest.fixture
def log(tmp_path: Path, fake_nvml: FakeNvml) -> Path:
    path = tmp_path / "users"
    fake_nvml.env["FAKE_NVML_USERS"] = str(path)
    return path


@pytest.mark.fault(
    "A GPU reset, a MIG change or a driver upgrade is wanted (`energyd release`)",
    seen="`released until 12:03:10` for the GPUs in `status`, a gap `released`; the daemon lives on and "
    "takes them back by itself.",
    lost="Samples meanwhile. Energy comes from the counter where it lived on, else it is NULL with a reason.",
)
def test_a_release_closes_the_library_and_bridges_only_what_a_counter_lived_through(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml, log: Path
) -> None:
    """Two GPUs; during the second release GPU 1's driver begins anew."""
    fake_nvml.control("devices 2\n")
    daemon = make_daemon(fake_nvml.env).start()
    wait_for(lambda: daemon.query("SELECT count(DISTINCT device) AS n FROM counters")[0]["n"] == 2)
    # Counters that began long ago: what is told by them cannot have begun since.
    stage = Staged(daemon, "kept", "reset")
    for name in ("kept", "reset"):
        all_sampled(daemon)
        out = daemon.run("energyd", "release", "--store", str(daemon.store), "--for", "10m")
        assert (out.returncode, out.stdout) == (0, ""), out.stderr
        assert "until" in out.stderr
        assert set(users(log).values()) == {0}, log.read_text()
        wait_for(lambda: gpu_domain(daemon)["state"] == "unreadable")
        assert "energyd resume" in gpu_domain(daemon)["reason"]
        assert status(daemon)["state"] == "ok"
        away_ns = status(daemon)["now_ns"]
        if name == "reset":
            fake_nvml.control("devices 2\ncounter_reset device=1\n")
        wait_for(lambda t=away_ns: status(daemon)["now_ns"] > t + 1_500_000_000)
        out = daemon.run("energyd", "resume", "--store", str(daemon.store))
        assert (out.returncode, out.stderr) == (0, "taken back\n")
        assert sorted(users(log).values())[-1] == 1
        all_sampled(daemon)
        assert gpu_domain(daemon)["state"] == "measured"
        stage.next() if name == "kept" else stage.end()
    costs = stage.costs(fake_nvml)
    assert {key: cost for key, cost in costs.items() if not cost.no_wrong_joule()} == {}
    for key in (("kept", 0), ("kept", 1), ("reset", 0)):
        assert costs[key].reasons == ["released"], costs[key]
        assert costs[key].error_j is not None, costs[key]
        assert "bridged" in costs[key].row["flags"]
    anew = costs["reset", 1]
    assert anew.error_j is None, anew
    assert anew.reasons in (["released"], ["reset"]), anew


def test_a_release_ends_by_itself_and_a_stop_in_the_middle_of_one_waits_for_nothing(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml, log: Path
) -> None:
    daemon = make_daemon(fake_nvml.env).start()
    wait_for(lambda: daemon.query("SELECT 1 FROM counters LIMIT 1"))
    assert daemon.run("energyd", "release", "--store", str(daemon.store), "--for", "4s").returncode == 0
    wait_for(
        lambda: status(daemon)["released_until_ns"] is None and gpu_domain(daemon)["state"] == "measured"
    )
    wait_for(lambda: daemon.query("SELECT 1 FROM gaps WHERE reason = 'released'"))
    assert daemon.run("energyd", "release", "--store", str(daemon.store), "--for", "1h").returncode == 0
    assert daemon.stop() == 0
    assert set(users(log).values()) == {0}


def test_a_daemon_without_gpus_says_that_it_has_nothing_to_let_go_of(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    for command in ("release", "resume"):
        out = daemon.run("energyd", command, "--store", str(daemon.store))
        assert out.returncode == 0
        assert "holds no NVIDIA driver" in out.stderr
    with pytest.raises(DaemonRefused, match="at most 86400 s"):
        ask(daemon.endpoint, AskRelease(0, 90_000), 10)


@pytest.mark.parametrize("wrong", ["5", "soon", "-5m", "1.5h", ""])
def test_times_that_cannot_be_read_are_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ConfigError, match="such as 90s, 5m or 2h"):
        seconds(wrong)


def test_times_are_whole_seconds() -> None:
    assert [seconds(text) for text in ("90s", "5m", "2h")] == [90, 300, 7_200]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed: not root")
def test_only_root_and_the_daemons_own_user_may_have_it_let_go(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    code = (
        "from energyd_client.protocol import AskRelease; from energyd_client.request import ask\n"
        "import os, zmq; os.setgroups([]); os.setgid(0); os.setuid(65534)\n"
        f"ask({daemon.endpoint!r}, AskRelease(0, 60), 10)\n"
    )
    for folder in [daemon.store.parent, *daemon.store.parent.parents][:-2]:
        folder.chmod(0o755)
    _, err = daemon.program(code).communicate(timeout=60)
    assert "only root and uid 0" in err
