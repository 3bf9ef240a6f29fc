"""Does a running daemon read its settings anew, and is what it says of that fit for a journal?"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

from real_daemon import Daemon, wait_for


def test_a_reload_takes_over_what_can_change_and_keeps_all_where_the_file_means_nothing(
    daemon: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "energyd.toml"
    file.write_text('keep_raw = "7d"\n')
    daemon.log.touch()
    found = daemon.log.stat()
    daemon.env["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"  # as if the journal read this log
    daemon.start("--config", str(file), source="simulated")

    def reload(text: str, told: str) -> None:
        file.write_text(text)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: re.search(told, daemon.log.read_text(), re.MULTILINE))

    reload('keep_raw = "7d"\n', "^<6>reload: nothing to take over$")
    reload('keep_raw = "36h"\ninterval = 0.25\n', "^<4>reload: interval_s changed, which only a restart")
    assert "<6>reload: keep taken over" in daemon.log.read_text()
    reload("keep_raw = 7d\n", "^<3>reload: cannot read .* | cure: .*; everything stays as it was$")
    assert daemon.status()["state"] == "ok"
    assert daemon.stop() == 0
    lines = daemon.log.read_text().splitlines()
    assert [line for line in lines if not re.match(r"<[3467]>\S", line)] == []


def test_settings_that_cannot_be_end_a_start_with_one_message_and_78(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "energyd.toml").write_text('kepe = "7d"\n')
    daemon = make_daemon({"ENERGYD_CONFIG": str(tmp_path / "energyd.toml")})
    for mode in ([], ["--foreground"]):
        out = daemon.run("energyd", "start", "--store", str(daemon.store), *mode)
        assert out.returncode == 78
        assert out.stderr == f"energyd: unknown setting kepe in {tmp_path}/energyd.toml\n  cure: keep?\n"
