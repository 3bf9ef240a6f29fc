"""Does the daemon's shipper say how it stands, go on by itself, and end when it is told to?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.energy_store import HOUR
from energyd import shipping
from energyd.config import ConfigError, resolve
from energyd.service import Service
from energyd.shipping import Shipper
from energyd.status_text import lines
from fleet.lakes import host_store
from real_daemon import wait_for


class Watched:
    """A shipper on a store of known files, and what it complained of."""

    def __init__(self, store: Path, lake: Path | str, **settings: str) -> None:
        self.troubles: dict[str, str] = {}
        config = resolve(store=store, lake=str(lake), **settings)
        self.hour = HOUR
        self.shipper = Shipper(config, "aa", lambda: self.hour, lambda: 7, self._complain)

    def _complain(self, what: str, said: str | None) -> None:
        self.troubles.pop(what, None)
        if said is not None:
            self.troubles[what] = said


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(shipping, "STEP_S", 0.02)
    monkeypatch.setattr(shipping, "RETRY_S", 0.1)
    made: list[Watched] = []

    def begin(lake: Path | str, **settings: str) -> Watched:
        store = host_store(tmp_path / f"store{len(made)}").root
        made.append(Watched(store, lake, **settings))
        made[-1].shipper.start()
        return made[-1]

    yield begin
    for one in made:
        one.shipper.stop()


def test_what_is_sealed_is_shipped_once_the_hour_counts(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    one = watch(lake)
    wait_for(lambda: one.shipper.facts()["url"])
    assert one.shipper.facts()["files"] == 0  # its commit is still to come
    one.hour = HOUR + 1
    wait_for(lambda: one.shipper.facts()["files"] == 6)
    wait_for(lambda: one.shipper.facts()["waiting_files"] == 0)
    facts = one.shipper.facts()
    assert (facts["error"], facts["shipped_ns"], one.troubles) == (None, 7, {})
    assert (lake / "hosts" / "host=aa.json").exists()


def test_a_lake_that_comes_back_gets_what_waited_and_status_tells_it(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    one = watch(lake)
    one.hour = HOUR + 1
    wait_for(lambda: one.shipper.facts()["error"])
    facts = one.shipper.facts()
    assert (facts["waiting_files"], facts["waiting_since_hour"]) == (6, HOUR)
    assert one.troubles == {}  # it is tried again: nobody has to do anything
    told = "\n".join(lines(status(facts)))
    assert f"lake     {lake}: 0 segments shipped, 6 wait since 2025-11-24 16h UTC" in told
    assert f"no folder {lake}: not mounted" in told
    lake.mkdir()
    wait_for(lambda: one.shipper.facts()["files"] == 6)
    wait_for(lambda: one.shipper.facts()["error"] is None)


def test_what_nobody_but_a_person_can_mend_is_a_complaint(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n")
    keys.chmod(0o644)
    one = watch(tmp_path, lake_keys=str(keys))
    one.hour = HOUR + 1
    wait_for(lambda: one.troubles)
    assert one.troubles == {"lake": f"lake: others may read the credentials in {keys} (mode 0644)"}


def test_however_much_is_refused_the_shipper_goes_on(watch: Callable[..., Watched], tmp_path: Path) -> None:
    """A copied store after an outage of weeks: why each is refused is more than a pipe holds (64 KiB)."""
    lake = tmp_path / "lake"
    one = watch(lake)
    for n in range(24 * 18):
        part, name = f"day=2025-10-{n // 24 + 1:02}", f"{n % 24:02}.parquet"
        for folder in (lake / "gaps" / "host=aa" / part, tmp_path / "store0" / "outbox" / "gaps" / part):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(str(folder))
    one.hour = HOUR + 1
    wait_for(lambda: one.shipper.facts()["refused_files"] == 24 * 18, 60)
    wait_for(lambda: one.shipper.facts()["files"] == 6, 60)
    assert "two machines with one host id" in one.troubles["lake-refused"]


def test_no_process_that_ships_has_a_credential_among_its_arguments(
    watch: Callable[..., Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "AWS_ACCESS_KEY_ID=who\nAWS_SECRET_ACCESS_KEY=hush-hush\nAWS_ENDPOINT_URL=http://127.0.0.1:1\n"
    )
    keys.chmod(0o600)
    begun: list[str] = []
    popen = shipping.subprocess.Popen

    def seen(command: list[str], **more: Any) -> Any:
        begun.append(f"{command} {more.get('env')}")
        return popen(command, **more)

    monkeypatch.setattr(shipping.subprocess, "Popen", seen)
    one = watch("s3://fleet/x", lake_keys=str(keys))
    one.hour = HOUR + 1
    wait_for(lambda: one.shipper.facts()["error"])
    assert begun
    assert "hush" not in f"{begun} {one.shipper.facts()} {one.troubles}"


def test_a_lake_whose_address_is_none_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds credentials"):
        Service(resolve(store=tmp_path / "s", source="simulated", lake="s3://k:s@bucket")).run()


def status(lake: dict[str, object]) -> dict[str, object]:
    """An answer to ask_status with this lake."""
    return {
        "version": "0", "state": "ok", "reason": None, "pid": 1, "now_ns": 0, "started_ns": 0, "store": "/s",
        "endpoint": "ipc:///e", "sources": [], "devices": [], "domains": [], "samples": 0, "gaps": 0,
        "late_ms_p99": None, "markers": 0, "refused": 0, "clients": 0, "open_stages": 0, "pending_stages": 0,
        "lake": lake,
    }  # fmt: skip
