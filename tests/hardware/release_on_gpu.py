"""Does `energyd release` let a real driver go, and does sampling come back with the hole bridged?

    python tests/hardware/release_on_gpu.py [--seconds 5]

A daemon in its own process over a fresh store, a stage that is open all the while. Before the release the
daemon must hold descriptors of /dev/nvidia*, during it no process of its may; then GPU samples must come
again, the gap `released` must be bridged, and the ring's integral with that gap in it must agree with two
reads of the counter around it (1 %). Nothing is reset. Prints a report as Markdown; exit 1 where something
does not hold.

A counter of a GPU that has just been started bridges nothing: it must hold more than the board could have
drawn since the read before, or it may have begun anew meanwhile (`energyd.bridging`). So it is filled first:
PyTorch multiplies matrices, where it is there; else the script waits, at an idle H100's 70 W for minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 0.01
MARGIN_S = 10.0  # beyond the release itself, between the daemon's reads of the counter before and after it
FILL_S = 420.0  # for the margin above, 15 s at 1.5 times 700 W are 15,750 J: 225 s of an idle H100
DEVICES = "/dev/nvidia"


class Report:
    """Claims as they are checked, and the page of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def claim(self, what: str, holds: bool, figures: str) -> None:
        """One row; what does not hold fails the whole."""
        self.failed |= not holds
        sys.stderr.write(f"{'ok' if holds else 'NO'}: {what}: {figures}\n")
        self.lines.append(f"| {what} | {figures} | {'yes' if holds else '**no**'} |")


def held(pid: int, prefix: str) -> dict[int, list[str]]:
    """{pid: its descriptors of the driver's devices} of a process and all that it started."""
    found: dict[int, list[str]] = {}
    for one in [pid, *_children(pid)]:
        names = []
        for fd in Path(f"/proc/{one}/fd").iterdir():
            try:
                names.append(str(fd.readlink()))
            except FileNotFoundError:
                pass  # closed meanwhile
        mine = sorted({name for name in names if name.startswith(prefix)})
        if mine:
            found[one] = mine
    return found


def _children(pid: int) -> list[int]:
    told = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    return [found for word in " ".join(told).split() for found in (int(word), *_children(int(word)))]


def wait_for(what: Callable[[], Any], timeout_s: float = 30.0) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def said(module: str, *arguments: str) -> Any:
    """What one of our commands says, as JSON where it is that."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 4):
        sys.exit(f"{module} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout) if done.stdout[:1] in "[{" and done.stdout else done.stdout


def counter() -> tuple[int, float, str, str]:
    """(BOOTTIME ns, J) at a step of GPU 0's counter, driver, name; read by a process that then is gone."""
    command = [sys.executable, str(Path(__file__).with_name("counter.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    t_ns, joules, driver, name = done.stdout.split(maxsplit=3)
    return int(t_ns), float(joules), driver, name.strip()


BURN = """
import torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
while True:
    for _ in range(20):
        b = a @ a
    torch.cuda.synchronize()
"""


def fill_counter(report: Report, needed_j: float) -> None:
    """Have GPU 0's counter hold that much, by a load that is gone afterwards."""
    at_first = held_j = counter()[1]
    began = time.monotonic()
    load = subprocess.Popen([sys.executable, "-c", BURN], stderr=subprocess.DEVNULL) if _has_torch() else None
    try:
        while held_j <= needed_j and time.monotonic() < began + FILL_S:
            time.sleep(1)
            held_j = counter()[1]
    finally:
        if load is not None:
            load.kill()
            load.wait()
    report.claim(
        "the counter holds more than the board can draw meanwhile", held_j > needed_j,
        f"{held_j:.0f} J ({at_first:.0f} J before {time.monotonic() - began:.0f} s of filling it), "
        f"needed {needed_j:.0f} J",
    )  # fmt: skip


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def measure(report: Report, store: str, seconds: float, prefix: str) -> str:
    """Check everything; the machine in words."""
    import energyd_client as energy
    from energyd.bridging import ceiling_mw

    def status() -> dict[str, Any]:
        found: dict[str, Any] = said("energyd", "status", "--store", store, "--json")
        return found

    def last_gpu_ns() -> int:
        return min((d["last_t_ns"] or 0) for d in status()["devices"] if d["domain"] == "gpu")

    def query(sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = said("energyq", "--store", store, "--format", "json", sql)
        return rows

    limits = [d["power_limit_mw"] for d in status()["devices"] if d["domain"] == "gpu"]
    fill_counter(report, ceiling_mw(limits[0]) / 1000 * (seconds + MARGIN_S))
    pid = int(status()["pid"])
    with energy.run("release"), energy.stage("across"):
        t0_ns, before_j, driver, name = counter()
        wait_for(lambda: query("SELECT 1 FROM counters LIMIT 2"))
        holding = held(pid, prefix)
        report.claim("sampling holds the driver", bool(holding), _told(holding))
        time.sleep(2)

        began = time.monotonic()
        said("energyd", "release", "--for", "10m", "--store", store)
        took = time.monotonic() - began
        away = held(pid, prefix)
        report.claim("released: it holds nothing of the driver", not away, f"{_told(away)}; {took:.2f} s")
        time.sleep(seconds)
        still = held(pid, prefix)
        report.claim(f"and nothing {seconds:g} s later", not still, _told(still))
        state = status()
        gpu = next(d for d in state["domains"] if d["domain"] == "gpu")
        report.claim(
            "status says so and is healthy", state["state"] == "ok", f"{state['state']}; {gpu['reason']}"
        )

        began = time.monotonic()
        said("energyd", "resume", "--store", store)
        now_ns = int(status()["now_ns"])
        again = wait_for(lambda: last_gpu_ns() > now_ns)
        report.claim("resumed: samples come again", again, f"after {time.monotonic() - began:.2f} s")
        time.sleep(2)
        t1_ns, after_j, *_ = counter()

    def gaps() -> list[dict[str, Any]]:
        return query("SELECT (t1_ns - t0_ns) / 1e9 AS s, bridged_uj FROM gaps WHERE reason = 'released'")

    wait_for(gaps)
    bridged = bool(gaps()) and all(gap["bridged_uj"] is not None for gap in gaps())
    report.claim("the gap `released` is bridged", bridged, ", ".join(f"{gap['s']:.2f} s" for gap in gaps()))
    wait_for(lambda: query("SELECT 1 FROM stage_energy WHERE stage = 'across' AND domain = 'gpu'"))
    told = query("SELECT energy_j, coverage FROM stage_energy WHERE stage = 'across' AND domain = 'gpu'")
    whole = bool(told) and all(row["energy_j"] is not None and row["coverage"] < 1 for row in told)
    figures = ", ".join(f"{row['energy_j'] or 0:.1f} J, coverage {row['coverage']:.2f}" for row in told)
    report.claim("the stage across it has its energy, and a coverage below 1", whole, figures)
    offset = int(query("SELECT offset_ns FROM boots ORDER BY t_ns DESC LIMIT 1")[0]["offset_ns"])
    uuid = "(SELECT min(device) FROM devices WHERE domain = 'gpu')"
    ours = query(f"SELECT energy_j({uuid}, {t0_ns + offset}, {t1_ns + offset}) AS j")[0]["j"]
    error = None if ours is None else float(ours) / (after_j - before_j) - 1
    report.claim(
        "integral and counter agree over all of it", error is not None and abs(error) <= LIMIT,
        f"{after_j - before_j:.1f} J by the counter, {'NULL' if error is None else f'{100 * error:+.2f} %'}",
    )  # fmt: skip
    return f"{name}, driver {driver}, Linux {os.uname().release}"


def _told(found: dict[int, list[str]]) -> str:
    return "; ".join(sorted({name for names in found.values() for name in names})) or "none"


def main() -> int:
    """Measure, print, and say whether all of it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the driver is let go of")
    parser.add_argument("--devices", default=DEVICES, help="how the driver's device files begin")
    given = parser.parse_args()
    store = str(Path(tempfile.mkdtemp()) / "s")
    os.environ["ENERGYD_ENDPOINT"] = f"ipc://{store}/energyd.sock"
    os.environ["ENERGYD_SPOOL"] = f"{store}/spool"
    report = Report()
    said("energyd", "start", "--store", store)
    try:
        where = measure(report, store, given.seconds, given.devices)
    finally:
        said("energyd", "stop", "--store", store)
    print("# `energyd release` on a GPU\n")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    print(f"Written by `tests/hardware/release_on_gpu.py`, {today}, on {where}.\n")
    print("| | seen | holds |\n|---|---|---|")
    print("\n".join(report.lines))
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
