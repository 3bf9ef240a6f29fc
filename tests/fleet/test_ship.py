"""Does a sealed file get into the lake once, whatever the lake, the disk or a kill does meanwhile?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import duckdb
import pytest

from analysis.energy_store import HOUR
from energyd.store import lake_files, sums
from energyd.store.lake import LakeError, LakeRefused, address, parse
from energyd.store.lake_files import FolderLake
from energyd.store.lake_keys import read_keys
from energyd.store.outbox import Outbox
from energyd.store.ship_files import ship
from fleet.conftest import S3
from fleet.lakes import host_store, order, send

DAY = "day=2025-11-24"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return host_store(tmp_path / "store").root


def shipped(lake: Path) -> list[str]:
    return sorted(str(p.relative_to(lake)) for p in lake.rglob("*") if p.is_file() and "hosts" not in p.parts)


def sealed(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store / "sealed")) for p in (store / "sealed").glob("*/*/*.parquet"))


def test_every_sealed_file_lies_in_the_hosts_own_partition_bit_for_bit(store: Path, lake: Path) -> None:
    done = send(store, lake, "aa")
    assert done.error is None
    assert done.files == len(sealed(store)) == 6
    for name in sealed(store):
        table, day, file = name.split("/")
        there = lake / table / "host=aa" / day / file
        assert there.read_bytes() == (store / "sealed" / name).read_bytes()
    assert Outbox(store).waiting() == []
    assert all(parse(key) is not None for key in shipped(lake))


@pytest.mark.fault(
    "The daemon, or its child that ships, is killed between putting a segment and noting it",
    seen="Nothing: the segment is put again, and is there already.",
    lost="Nothing, and nothing is there twice.",
)
def test_what_a_kill_left_in_the_outbox_is_shipped_again_and_is_there_once(store: Path, lake: Path) -> None:
    send(store, lake, "aa")
    before = {key: (lake / key).read_bytes() for key in shipped(lake)}
    (store / "outbox" / "state.json").unlink()  # killed between the links and the state
    again = send(store, lake, "aa")
    assert again.error is None
    assert again.files == 6
    assert {key: (lake / key).read_bytes() for key in shipped(lake)} == before


@pytest.mark.fault(
    "A fleet's lake is away",
    seen="`energyd status` tells what waits, since when and why.",
    lost="Nothing; beyond `--outbox` the oldest days come as one file each once it is back.",
)
def test_a_lake_that_is_away_loses_nothing_and_gets_all_later(store: Path, lake: Path) -> None:
    lake.rmdir()
    done = send(store, lake, "aa")
    assert done.error is not None
    assert done.error.startswith(f"no folder {lake}: not mounted")
    assert not done.for_good
    assert len(Outbox(store).waiting()) == 6
    shutil.rmtree(store / "sealed" / "samples")  # the store grew old meanwhile
    lake.mkdir()
    assert ship(order(store, lake, "aa")).files == 6
    assert f"samples/host=aa/{DAY}/16.parquet" in shipped(lake)


@pytest.mark.fault(
    "Two machines ship to a lake under one host id (a copied store)",
    seen="DEGRADED; the second one's segments lie in outbox/refused.",
    lost="Nothing; what the first one shipped is not touched.",
)
def test_a_copied_store_under_one_host_id_is_refused_and_kept(
    tmp_path: Path, store: Path, lake: Path
) -> None:
    send(store, lake, "aa")
    other = host_store(tmp_path / "copy", watts=300).root
    done = send(other, lake, "aa")
    assert done.error is None
    assert done.refused
    assert "two machines with one host id" in done.refused[0]
    outbox = Outbox(other)
    assert outbox.refused() == len(done.refused)
    assert (other / "outbox" / "refused" / "samples" / DAY / "16.parquet").exists()
    key = lake / "samples" / "host=aa" / DAY / "16.parquet"
    assert key.read_bytes() == (store / "sealed" / "samples" / DAY / "16.parquet").read_bytes()


@pytest.mark.fault(
    "A sealed file is damaged before it is shipped",
    seen="DEGRADED; it lies in outbox/refused.",
    lost="That file; the lake never takes it for what was measured.",
)
def test_a_damaged_file_is_not_shipped(store: Path, lake: Path) -> None:
    relative = f"sealed/samples/{DAY}/16.parquet"
    sums.place(store, relative, store / relative)
    with (store / relative).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    done = send(store, lake, "aa")
    assert done.refused == [
        f"{relative} is not what was written: its SHA-256 differs; cure: stop, then `energyd recover`"
    ]
    assert not (lake / "samples").exists()


@pytest.mark.fault("A fleet's lake is away")
def test_above_its_budget_the_oldest_samples_make_way_and_come_as_a_day_later(
    tmp_path: Path, lake: Path
) -> None:
    store = host_store(tmp_path / "store").root
    size = sum(p.stat().st_size for p in (store / "sealed").glob("*/*/*.parquet"))
    outbox = Outbox(store, budget_bytes=size - 1)
    waiting = outbox.collect(HOUR + 1)
    assert {w.table for w in waiting} == {"devices", "domains", "runs_log", "stages_log", "energies"}
    assert outbox.state.owed == [f"samples/{DAY}"]
    assert ship(order(store, lake, "aa")).files == 5
    assert outbox.collect(HOUR + 1) == []  # its day goes on
    hour = store / "sealed" / "samples" / DAY / "16.parquet"
    hour.rename(hour.with_name("day.parquet"))  # as upkeep makes of all hours
    assert [w.relative for w in Outbox(store).collect(HOUR + 1)] == [f"samples/{DAY}/day.parquet"]
    assert ship(order(store, lake, "aa")).files == 1
    assert Outbox(store).state.owed == []


def test_by_the_day_a_day_waits_until_it_is_one_file(tmp_path: Path, lake: Path) -> None:
    store = host_store(tmp_path / "store").root
    tomorrow = (HOUR // 24 + 1) * 24 + 1
    outbox = Outbox(store, each="day")
    assert outbox.collect(HOUR + 1) == []
    assert outbox.collect(tomorrow) == []
    for file in (store / "sealed").glob("*/*/16.parquet"):
        file.rename(file.with_name("day.parquet"))
    assert {w.name for w in outbox.collect(tomorrow)} == {"day.parquet"}
    assert ship(order(store, lake, "aa")).files == 6


def test_what_a_start_repeats_every_hour_is_shipped_when_it_is_new(store: Path) -> None:
    outbox = Outbox(store)
    outbox.collect(HOUR + 1)
    devices = store / "sealed" / "devices" / DAY
    (devices / "17.parquet").write_bytes((devices / "16.parquet").read_bytes())
    waiting = {w.relative for w in Outbox(store).collect(HOUR + 2)}
    assert f"devices/{DAY}/16.parquet" in waiting
    assert f"devices/{DAY}/17.parquet" not in waiting


def test_thinned_to_a_second_every_stage_comes_out_the_same_to_the_microjoule(
    tmp_path: Path, lake: Path
) -> None:
    store = host_store(tmp_path / "store").root
    done = send(store, lake, "aa", samples="1s")
    assert done.error is None
    (thin,) = lake.glob("samples/*/*/16.parquet")
    raw = store / "sealed" / "samples" / DAY / "16.parquet"
    with duckdb.connect() as con:
        n_thin, n_raw = (
            con.execute("SELECT count(*) FROM read_parquet(?)", [str(p)]).fetchall()[0][0]
            for p in (thin, raw)
        )
    assert 3 * 60 <= n_thin < n_raw / 20
    from energyd.store.read import open_lake

    with open_lake(str(lake)) as reader:
        rows = reader.sql(
            "SELECT energy_j, energy_j(device, t0_ns, t1_ns) AS again_j FROM stage_energy"
        ).fetchall()
    assert len(rows) == 3
    assert all(round(e * 1e6) == round(again * 1e6) for e, again in rows)
    assert Outbox(store).waiting() == []


def test_a_segment_thinned_before_a_kill_is_not_thinned_again(store: Path, lake: Path) -> None:
    Outbox(store).collect(HOUR + 1)
    lake.chmod(0o700)
    blocked = lake / "samples"
    blocked.write_text("no folder")  # the put fails after the thinning
    assert ship(order(store, lake, "aa", samples="1s")).error is not None
    (left,) = [w for w in Outbox(store).waiting() if w.table == "samples"]
    assert left.name == "16.parquet.1s"
    blocked.unlink()
    done = ship(order(store, lake, "aa", samples="1s"))
    assert (done.error, done.files) == (None, 1)
    assert (lake / "samples" / "host=aa" / DAY / "16.parquet").stat().st_size == left.size_bytes


def test_s3_gets_the_same_segments_and_a_second_time_changes_nothing(
    store: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.write_keys(tmp_path / "keys")
    where = f"s3://{s3.bucket}/once"
    assert send(store, where, "aa", keys=str(keys)).files == 6
    (store / "outbox" / "state.json").unlink()
    again = send(store, where, "aa", keys=str(keys))
    assert (again.error, again.files, again.refused) == (None, 6, [])
    lake = lake_files.open_lake(address(where), read_keys(keys))
    names = [name for name in lake.names() if parse(name)]
    assert len(names) == 6
    for name in names:
        table, _, day, file = name.split("/")
        assert lake.read(name) == (store / "sealed" / table / day / file).read_bytes()
    assert again.clock_s is not None
    assert again.clock_doubt_s is not None
    assert abs(again.clock_s) <= again.clock_doubt_s  # one machine, one clock


def test_s3_refuses_another_content_under_a_taken_name(store: Path, s3: S3, tmp_path: Path) -> None:
    keys = str(s3.write_keys(tmp_path / "keys"))
    where = f"s3://{s3.bucket}/taken"
    send(store, where, "aa", keys=keys)
    done = send(host_store(tmp_path / "copy", watts=300).root, where, "aa", keys=keys)
    assert done.refused
    assert "two machines with one host id" in done.refused[0]


def test_an_s3_that_does_not_answer_or_has_no_such_bucket_is_told_in_three_lines(
    store: Path, s3: S3, tmp_path: Path
) -> None:
    away = s3.write_keys(tmp_path / "away", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    done = send(store, f"s3://{s3.bucket}/x", "aa", keys=str(away))
    assert done.error is not None
    assert len(done.error.splitlines()) <= 3
    assert "tried again" in done.error
    assert not done.for_good
    keys = s3.write_keys(tmp_path / "keys")
    none = ship(order(store, "s3://no-such-bucket/x", "aa", keys=str(keys)))
    assert none.error is not None
    assert none.error.startswith("s3://no-such-bucket/x/")
    assert "no such bucket" in none.error
    assert none.for_good
    assert len(Outbox(store).waiting()) == 6
    with pytest.raises(LakeRefused, match="no such bucket"):
        list(lake_files.open_lake(address("s3://no-such-bucket/x"), read_keys(keys)).names())


def test_no_error_ever_holds_a_secret(store: Path, s3: S3, tmp_path: Path) -> None:
    keys = s3.write_keys(
        tmp_path / "keys", AWS_SECRET_ACCESS_KEY="hush-hush", AWS_ENDPOINT_URL="http://127.0.0.1:1"
    )
    done = send(store, f"s3://{s3.bucket}/x", "aa", keys=str(keys))
    assert "hush" not in str(done)
    assert "hush" not in repr(read_keys(keys))
    with pytest.raises(LakeError, match="holds credentials") as told:
        address("s3://me:hush-hush@bucket/x")
    assert "hush" not in str(told.value)
    (tmp_path / "odd").write_text("SECRET hush-hush\n")
    (tmp_path / "odd").chmod(0o600)
    with pytest.raises(LakeRefused, match="line 1") as odd:
        read_keys(tmp_path / "odd")
    assert "hush" not in str(odd.value)


def test_credentials_that_others_may_read_are_refused(s3: S3, tmp_path: Path, store: Path) -> None:
    keys = s3.write_keys(tmp_path / "keys")
    keys.chmod(0o640)
    done = send(store, f"s3://{s3.bucket}/x", "aa", keys=str(keys))
    assert done.error is not None
    assert done.error.startswith(f"others may read the credentials in {keys} (mode 0640)")
    assert done.for_good


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed: not root")
def test_a_host_cannot_write_into_a_partition_that_is_anothers(store: Path) -> None:
    """A folder lake guards partitions by owner: `host=bb` is another user's."""
    # Not below pytest's folder, which is for its owner alone.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        _write_as_nobody(store, Path(folder))


def _write_as_nobody(store: Path, folder: Path) -> None:
    lake, file = folder / "lake", folder / "16.parquet"
    for table in ("devices", "samples"):
        theirs = lake / table / "host=bb"
        theirs.mkdir(parents=True)
        theirs.chmod(0o755)
    shutil.copy(next((store / "sealed" / "samples").glob("*/*.parquet")), file)
    file.chmod(0o644)
    code = (
        "import sys; from pathlib import Path; from energyd.store.lake import LakeRefused\n"
        "from energyd.store.lake_files import FolderLake\n"
        "key = 'samples/host=bb/day=2025-11-24/16.parquet'\n"
        "try: FolderLake(Path(sys.argv[1])).put(key, Path(sys.argv[2]))\n"
        "except LakeRefused as error: sys.exit(str(error))\n"
    )
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code,
         str(lake), str(file)], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "uid 65534 may not write" in done.stderr
    assert "another host's partition" in done.stderr
    assert not any((lake / "samples" / "host=bb").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed: not root")
def test_who_may_not_read_a_partition_is_told_and_gets_no_answer_without_it(store: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder)
        lake.chmod(0o755)
        send(store, lake, "aa")
        for part in lake.iterdir():
            part.chmod(0o755)  # each host's own partition is for its group
        code = "import sys; from energyd.store.read import open_lake; open_lake(sys.argv[1])"
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code,
             folder], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "LakeForbidden: uid 65534 may not read" in done.stderr
    assert "host=aa" in done.stderr


def test_a_wall_clock_that_s3_does_not_take_is_told_as_such(store: Path, tmp_path: Path) -> None:
    """Above 15 minutes S3 refuses what is signed; it says forbidden, as of wrong credentials."""

    class Skewed(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Skewed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = S3(f"http://127.0.0.1:{server.server_port}").write_keys(tmp_path / "keys")
        done = send(store, "s3://fleet/x", "aa", keys=str(keys))
        server.shutdown()
    assert done.error is not None
    assert "the wall clock here is too far off for S3" in done.error
    assert not done.for_good
    assert len(Outbox(store).waiting()) == 6


def test_a_folder_without_hard_links_knows_what_a_retry_finds_from_another_content(
    lake: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next((store / "sealed" / "samples").glob("*/*.parquet"))
    other = tmp_path / "other"
    other.write_bytes(b"PAR1")

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lake_files.os, "link", none)
    key = "samples/host=aa/day=2025-11-24/16.parquet"
    assert FolderLake(lake).put(key, file)
    assert not FolderLake(lake).put(key, file)
    with pytest.raises(LakeRefused, match="another content"):
        FolderLake(lake).put(key, other)
    assert (lake / key).read_bytes() == file.read_bytes()
    assert [p for p in lake.rglob("*") if p.is_file()] == [lake / key]


def test_a_folder_is_written_whole_or_not_at_all(
    lake: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next((store / "sealed" / "samples").glob("*/*.parquet"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lake_files, "sync", full)
    with pytest.raises(LakeError, match="No space left on device"):
        FolderLake(lake).put("samples/host=aa/day=2025-11-24/16.parquet", file)
    assert [p for p in lake.rglob("*") if p.is_file()] == []
