"""Is a start that cannot be told apart from another one's said clearly?"""

from __future__ import annotations

import stat
from pathlib import Path

from real_daemon import Daemon


def test_a_private_daemon_is_refused_while_the_endpoint_of_another_is_exported_and_told_why(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start(source="simulated")
    other = tmp_path / "other"
    out = daemon.run("energyd", "start", "--store", str(other), "--source", "simulated")
    assert out.returncode == 1
    assert out.stderr.startswith(
        f"energyd: ENERGYD_ENDPOINT={daemon.endpoint} is exported, where the daemon on"
    )
    assert str(daemon.store) in out.stderr
    assert "cure: unset ENERGYD_ENDPOINT ENERGYD_SPOOL" in out.stderr
    assert not other.exists()


def test_the_log_of_a_daemon_in_the_background_is_for_its_group_and_not_for_the_world(daemon: Daemon) -> None:
    log = daemon.store / "energyd.log"
    log.parent.mkdir()
    log.touch(0o644)  # of an older release
    out = daemon.run("energyd", "start", "--store", str(daemon.store), "--source", "simulated")
    assert out.returncode == 0, out.stderr
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert daemon.run("energyd", "stop", "--store", str(daemon.store)).returncode == 0
