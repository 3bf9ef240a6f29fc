"""Is a start that cannot be told apart from another one's said clearly?"""

from __future__ import annotations

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
