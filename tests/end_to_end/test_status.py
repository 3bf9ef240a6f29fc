"""Does `energyd status` say everything of a daemon that a person, or a program, wants to know?"""

from __future__ import annotations

from pathlib import Path

import pytest

from energyd.extent import sealed_since_ns
from energyd.status_text import lines
from fake_nvml.build import FakeNvml
from real_daemon import Daemon, wait_for
from staged import status

ROOT = Path(__file__).parents[2]


def test_status_is_as_the_protocols_page_has_it_and_tells_size_age_gaps_and_limits(
    daemon: Daemon, fake_nvml: FakeNvml
) -> None:
    daemon.env.update(fake_nvml.env, ENERGYD_ENDPOINT=daemon.endpoint, ENERGYD_SPOOL=str(daemon.spool))
    daemon.start("--keep-raw", "36h", "--keep", "never")
    wait_for(lambda: status(daemon)["oldest_t_ns"])
    fake_nvml.control("error * 15\n")
    gpu = next(d for d in status(daemon)["devices"] if d["domain"] == "gpu")
    wait_for(lambda: status(daemon)["now_ns"] > gpu["last_t_ns"] + 4_000_000_000)
    fake_nvml.control("")
    wait_for(lambda: status(daemon)["gaps"], 30)
    body = daemon.status()
    page = (ROOT / "client" / "PROTOCOL.md").read_text().split("### `ask_status`")[1].split("### ")[0]
    assert [key for key in body if f"`{key}`" not in page] == []

    assert body["keep"] == {"raw_s": 129_600.0, "all_s": None, "max_bytes": 50e9}
    assert body["store_bytes"] >= (daemon.store / "hot.duckdb").stat().st_size > 0
    assert body["free_bytes"] > 0
    first, last = daemon.plain("SELECT min(t_ns), max(t_ns) FROM samples")
    assert body["oldest_t_ns"] <= first < last <= body["newest_t_ns"] <= body["now_ns"]
    assert sum(body["gap_reasons"].values()) == body["gaps"]
    assert any(reason.startswith("lost: ") for reason in body["gap_reasons"])

    text = "\n".join(lines(body))
    assert "kept 1.5 d whole, for ever thinned" in text
    assert "MB, " in text
    assert "samples since 20" in text
    assert "(lost: GPU is lost" in text


@pytest.mark.parametrize(
    ("paths", "hour"),
    [
        (["sealed/samples/day=1970-01-02/03.parquet", "sealed/samples/day=1970-01-02/02.parquet"], 26),
        (["sealed/samples/day=1970-01-03/00.parquet", "sealed/samples/day=1970-01-02/day.parquet"], 24),
        (
            ["sealed/samples/month=1970-02/month.parquet", "sealed/samples/day=1970-03-02/thin.parquet"],
            31 * 24,
        ),
    ],
)
def test_the_oldest_sealed_sample_is_dated_by_the_name_of_its_file(paths: list[str], hour: int) -> None:
    assert sealed_since_ns(paths) == hour * 3_600_000_000_000
