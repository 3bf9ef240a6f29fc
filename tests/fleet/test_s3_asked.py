"""Is a lake on S3 asked, by DuckDB itself (httpfs), as one in a folder is? And if the server is not well?"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.conftest import PATHS, S3Server, start_s3
from fleet.lakes import host_store, send

DAY = "day=2025-11-24"
URL = "s3://fleet/asked"
QUESTIONS = (
    "SELECT host, day, count(*) AS n, max(cum_uj) AS uj FROM samples GROUP BY ALL ORDER BY 1",
    "FROM stage_energy ORDER BY host, device", "FROM run_totals",
    "SELECT * EXCLUDE (clock_s, clock_doubt_s) FROM run_hosts ORDER BY host",  # S3's clock, and the folder's
)  # fmt: skip
BOTH = """
import json, sys
from pathlib import Path
from energyd.store.read import ReadError, open_lake
with open_lake(sys.argv[1], keys=Path(sys.argv[2]) if sys.argv[2] else None) as reader:
    print(json.dumps("open"), flush=True)
    for line in sys.stdin:
        try:
            rows = reader.sql(line).dicts()
        except ReadError as error:
            rows = [type(error).__name__, str(error)]
        print(json.dumps(rows, default=str), flush=True)
    print(json.dumps(reader.left_out))
"""


@pytest.fixture
def server(fleet_python: str) -> Iterator[S3Server]:
    pytest.importorskip("moto")
    with start_s3() as started:
        yield started


class Asker:
    """A reader in a process of its own, by the Python that has the extra `fleet`."""

    def __init__(self, python: str, url: object, keys: Path | None) -> None:
        env = {**os.environ, "PYTHONPATH": PATHS}
        self._process = subprocess.Popen(
            [python, "-c", BOTH, str(url), str(keys or "")], env=env, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._read() == "open"

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, query: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(query + "\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def left_out(self) -> Any:
        """What it did without; it ends with this."""
        out, _ = self._process.communicate(timeout=60)
        return json.loads(out)


def test_a_lake_on_s3_is_asked_where_it_lies(server: S3Server, fleet_python: str, tmp_path: Path) -> None:
    keys = server.s3.write_keys(tmp_path / "keys")
    folder = tmp_path / "lake"
    folder.mkdir()
    for host, watts in (("aa", 100), ("bb", 300)):
        store = host_store(tmp_path / host, watts=watts).root
        assert send(store, folder, host).files == 6
        (store / "outbox" / "state.json").unlink()
        assert send(store, URL, host, keys=str(keys)).files == 6
    with Asker(fleet_python, URL, keys) as s3, Asker(fleet_python, folder, None) as there:
        for question in QUESTIONS:
            rows = s3.ask(question)
            assert rows
            assert rows == there.ask(question), question
    _a_damaged_segment_is_left_out_and_named(server, fleet_python, keys)
    _a_server_that_goes_away_is_told(server, fleet_python, keys)


def _a_damaged_segment_is_left_out_and_named(server: S3Server, python: str, keys: Path) -> None:
    cut = [f"{table}/host=bb/{DAY}/16.parquet" for table in ("samples", "energies")]
    for key in cut:
        server.cut(f"asked/{key}")
    with Asker(python, URL, keys) as asker:
        rows = asker.ask("SELECT host, count(*) AS n FROM samples GROUP BY host")
        (run,) = asker.ask("SELECT total_j, reason FROM run_totals")
        left = asker.left_out()
    assert rows == [{"host": "aa", "n": 9000}]
    assert run["total_j"] is None
    assert "store_damaged" in run["reason"]
    assert sorted(left) == sorted(cut)
    assert all(why.startswith("cannot be read: ") for why in left.values())


def _a_server_that_goes_away_is_told(server: S3Server, python: str, keys: Path) -> None:
    with Asker(python, URL, keys) as asker:
        server.stop()
        for query in ("SELECT count(*) AS n FROM samples", "FROM runs"):
            kind, said = asker.ask(query)
            assert kind == "LakeAway", said
            assert len(said.splitlines()) <= 3
    done = subprocess.run(
        [python, "-m", "energyq", "--lake", URL, "--lake-keys", str(keys), "runs"], capture_output=True,
        env={**os.environ, "PYTHONPATH": PATHS}, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert len(done.stderr.splitlines()) <= 3
