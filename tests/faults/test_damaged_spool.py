"""Of a dead program's spool that was flipped or cut, does the daemon store the whole markers, and go on?"""

from __future__ import annotations

import random

import pytest

from damaged import ask
from energyd_client.clock import now_ns
from energyd_client.process import hello
from energyd_client.protocol import Metric, RunBegin, pack
from energyd_client.spool import _frame, frames
from real_daemon import Daemon, wait_for
from staged import status


@pytest.mark.fault("A damaged spool")
def test_of_damaged_spools_the_whole_markers_are_stored_and_the_daemon_goes_on(daemon: Daemon) -> None:
    markers = [RunBegin(1, now_ns(), "r", "r"), *(Metric(n, now_ns(), "r", "m", n) for n in range(2, 30))]
    body = b"".join(_frame(pack(marker)) for marker in markers)
    daemon.spool.mkdir()
    rng = random.Random(1)
    told: dict[str, int] = {}
    for k in range(12):
        name = f"damaged-{k}"
        head = _frame(pack(hello(name)))
        data, at = bytearray(head + body), rng.randrange(len(head), len(head + body))
        if k % 2:
            data[at] ^= 1 << rng.randrange(8)
        else:
            del data[at:]
        (daemon.spool / f"{name}.spool").write_bytes(data)
        told[name] = len(list(frames(bytes(data)))) - 1
    assert 0 < sum(told.values()) < 12 * len(markers)
    (daemon.spool / "garbage.spool").write_bytes(b"\0" * 100)
    daemon.start(source="simulated")
    wait_for(lambda: not list(daemon.spool.glob("*.spool")))
    rows = ask(daemon, "SELECT client, count(*) AS n FROM markers WHERE seq IS NOT NULL GROUP BY client")
    assert {r["client"]: r["n"] for r in rows} == {name: n for name, n in told.items() if n}
    assert (daemon.spool / "garbage.bad").exists()
    before = status(daemon)["samples"]
    wait_for(lambda: status(daemon)["samples"] > before)
