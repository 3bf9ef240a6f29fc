"""How soon is the service there again after a kill -9, a restart or a first start?

    python tests/bench/service.py [--times 10] > docs/results/service.md

The shipped unit under a real systemd in namespaces (tests/systemd/machine.py), simulated power.
"There" is the first answer over its socket, asked for every 10 ms; each start opens the same store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "systemd"))

from machine import ENDPOINT, Machine, why_not

from bench import figures
from bench.figures import number

LIMIT_S = 5.0
AGAIN = """
import os, subprocess, sys, time
from energyd_client.errors import EnergydError
from energyd_client.protocol import AskStatus
from energyd_client.request import ask

def pid():
    try:
        return ask(sys.argv[1], AskStatus(req=1), timeout_s=1)["pid"]
    except EnergydError:
        return 0

took = []
for _ in range(int(sys.argv[3])):
    before = pid()
    began = time.monotonic()
    if sys.argv[2] == "kill":
        os.kill(before, 9)
    else:
        subprocess.run(["systemctl", sys.argv[2], "energyd.service"], check=True)
    while pid() in (0, before):
        time.sleep(0.01)
    took.append(time.monotonic() - began)
    if sys.argv[2] == "start":
        subprocess.run(["systemctl", "stop", "energyd.service"], check=True)
print(took)
"""
KNOCKS = """
import socket, subprocess, sys, time
restart = subprocess.Popen(["systemctl", "restart", "energyd.service"])
tried = refused = 0
while restart.poll() is None:
    tried += 1
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(sys.argv[1])
        except OSError:
            refused += 1
    time.sleep(0.01)
print([tried, refused])
"""


def asked(machine: Machine, code: str, *words: str) -> list[float]:
    """What a program prints on that machine."""
    done = machine.python("-c", code, *words, timeout_s=200)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{machine.told()}")
    found: list[float] = json.loads(done.stdout)
    return found


def exposure(*dropped_in: str) -> str:
    """systemd's own verdict on the shipped unit, as it words it."""
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "energyd.service"
        units = Path(__file__).parents[2] / "systemd"
        unit.write_text((units / unit.name).read_text().replace("/opt/energyd/bin/energyd", sys.executable))
        for name in dropped_in:
            (Path(folder) / f"{unit.name}.d").mkdir(exist_ok=True)
            (Path(folder) / f"{unit.name}.d" / name).write_text((units / name).read_text())
        out = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    return out.stdout.strip().splitlines()[-1].partition(": ")[2].rsplit(" ", 1)[0]


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    rows, knocks = [], []
    for with_socket in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine(Path(folder), socket=with_socket)
            try:
                machine.systemctl("start", *(["energyd.socket"] if with_socket else []), "energyd.service")
                if not with_socket:
                    for what, word in (("kill -9", "kill"), ("systemctl restart", "restart")):
                        rows.append((what, asked(machine, AGAIN, ENDPOINT, word, str(times))))
                    machine.systemctl("stop", "energyd.service")
                    rows.append(("systemctl start", asked(machine, AGAIN, ENDPOINT, "start", "3")))
                machine.systemctl("reset-failed", "energyd.service")  # the starts above count for its limit
                machine.systemctl("start", "energyd.service")
                knocks.append(asked(machine, KNOCKS, ENDPOINT.removeprefix("ipc://")))
            finally:
                machine.end()
    print(page(rows, knocks))


def page(rows: list[tuple[str, list[float]]], knocks: list[list[float]]) -> str:
    """The page."""
    here = figures.machine()
    systemd = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    out = [
        "# The service", "",
        "Written by `make bench-service` (`tests/bench/service.py`), not by hand: the shipped unit under a",
        "real systemd in namespaces, simulated power. Which state is reached, `tests/systemd` asserts.",
        "", f"On {here['cpu']}, {here['cores']} cores, Linux {here['kernel']}, "
        f"{' '.join(systemd.split()[:2])}, Python {here['python']}; load {here['load']}; "
        f"commit {here['commit']}; {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "", "| until it answers again, after | median | longest | of | target | met |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for what, took in rows:
        middle, longest = figures.percentile(took, 0.5), max(took)
        limit = (
            (f"≤ {LIMIT_S:g} s", "yes" if longest <= LIMIT_S else "**no**") if "kill" in what else ("", "")
        )
        out.append(
            f"| `{what}` | {number(middle)} s | {number(longest)} s | {len(took)} | {' | '.join(limit)} |"
        )
    out += [
        "",
        "| who connects to its socket during one `systemctl restart`, every 10 ms | refused |",
        "|---|---|",
    ]
    for name, (tried, refused) in zip(("the unit alone", "with `energyd.socket`"), knocks, strict=True):
        out.append(f"| {name} | {refused:g} of {tried:g} |")
    out += ["", "| `systemd-analyze security` | exposure, of 10 |", "|---|---|"]
    for name, dropped in (
        ("`energyd.service`", ()),
        ("with `energyd.socket.conf`", ("energyd.socket.conf",)),
        ("with `energyd.network.conf`", ("energyd.network.conf",)),
    ):
        out.append(f"| {name} | {exposure(*dropped)} |")
    return "\n".join(out)


if __name__ == "__main__":
    main()
