"""What does one command cost? `energyd run -- CMD`: a run around it, and the bill at its end.

The command is a child with our terminal, our descriptors and our exit code. What in it uses the client joins
the run. Nothing about measuring may keep the command from running, or change how it ends.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import energyd_client as energy
from energyd.bill import lines
from energyd.child import CannotRun, Signals, check
from energyd.config import ConfigError
from energyd.exits import FAILED
from energyd.launch import LaunchError
from energyd.private import Found, find
from energyd.top_text import duration
from energyd_client import endpoints, lifetime
from energyd_client.bill import Bill, bill
from energyd_client.errors import EnergydError
from energyd_client.protocol import AskStatus

RESULT_WAIT_S: Final = 10.0
"""How long the bill waits for the sample that follows the command's end (CodeCarbon: one in a second)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be asked besides the command."""

    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    store: Path | None = None
    source: str = "auto"
    idle_s: float = 0.0
    json_path: Path | None = None
    quiet: bool = False


def run_command(command: Sequence[str], options: Options) -> int:
    """Run and measure `command`; its exit code. The bill goes to stderr, and to a file if asked."""
    try:
        check(command)
    except CannotRun as error:
        _say(str(error))
        return error.code
    found, why = _daemon(options)
    try:
        code, report = _measure(command, options, found, why)
    except CannotRun as error:
        _say(str(error))
        return error.code
    except KeyboardInterrupt:  # while idling, before there was a command
        return 130
    finally:
        lifetime.close()  # else our own client would complain that its daemon is gone
        if found is not None and not found.close():
            _say("programs that it left running are measured until they end, and then the daemon ends")
    return _tell(code, report, options)


def name_of(command: Sequence[str]) -> str:
    """A run's name: the script that an interpreter runs, else the program, without folder and suffix."""
    if re.fullmatch(r"python[\d.]*|bash|sh|perl|ruby|node", Path(command[0]).name):
        if "-m" in command[1:-1]:
            return command[command.index("-m") + 1]
        script = next((word for word in command[1:] if not word.startswith("-")), None)
        if script is not None and Path(script).is_file():
            return Path(script).stem
    return Path(command[0]).stem or command[0]


@dataclass(frozen=True)
class _Report:
    command: list[str]
    exit_code: int
    run_id: str
    stage_id: str | None
    name: str
    bill: Bill
    store: str | None
    is_private: bool


def _daemon(options: Options) -> tuple[Found | None, str | None]:
    """A daemon to measure with, or why there is none: the command runs all the same."""
    if endpoints.is_disabled():
        return None, f"{endpoints.ENV_DISABLE} is set"
    try:
        found = find(options.store, options.source)
    except (LaunchError, ConfigError, OSError) as error:
        _say(f"no daemon runs and none can be started; the command runs unmeasured: {error}")
        os.environ[endpoints.ENV_DISABLE] = "1"  # the command need not be told once more
        return None, str(error).splitlines()[0]
    os.environ[endpoints.ENV_ENDPOINT] = found.endpoint
    os.environ[endpoints.ENV_SPOOL] = str(found.spool)
    if not found.complete:
        _say("some devices have no sample yet; the bill says which")
    return found, None


def _measure(
    command: Sequence[str], options: Options, found: Found | None, why: str | None
) -> tuple[int, _Report]:
    name = options.name or name_of(command)
    with Signals() as signals:
        run = energy.run(name, **options.labels).begin()
        idle = _idle(run, options.idle_s) if found is not None else None
        stage = run.stage(Path(command[0]).name).begin()
        began_s = time.monotonic()
        try:
            code = signals.run(command, dict(os.environ))
        except CannotRun:
            stage.end("error")
            run.end("error")
            raise
        seconds = time.monotonic() - began_s
        status = "error" if code else "ok"
        stage.end(status)
        if not run.joined:
            energy.run(exit_code=code).begin().end()  # joins this run, and so labels it
        run.end(status)
        energy.flush()
    said, cost = None, None
    try:
        if found is not None:
            cost = stage.result(RESULT_WAIT_S)
            said = _status(found.endpoint)
            idle_cost = idle.result(1.0) if idle is not None else None
        else:
            idle_cost = None
    except KeyboardInterrupt:  # who does not want to wait for the bill gets what is known
        idle_cost = None
    total = bill(_charged_s(cost) or seconds, said, cost, idle_cost)
    if why is not None:
        total = bill(seconds, None, None, None)
    store = said["store"] if said is not None else None
    private = found is not None and found.is_private
    return code, _Report(list(command), code, run.run_id, stage.stage_id, run.name, total, store, private)


def _idle(run: energy.Run, seconds: float) -> energy.Stage | None:
    """Measure the machine at rest first, under the name that `energyq net` looks for."""
    if seconds <= 0:
        return None
    with run.stage("prerun") as stage:
        time.sleep(seconds)
    return stage


def _charged_s(cost: dict[str, Any] | None) -> float | None:
    """The stage's seconds by its own edges, so that power is energy over the very same time."""
    spans = [(e["t0_ns"], e["t1_ns"]) for e in (cost or {}).get("energies", [])]
    return (spans[0][1] - spans[0][0]) / 1e9 if spans else None


def _status(endpoint: str) -> dict[str, Any] | None:
    from energyd_client.request import ask

    try:
        return ask(endpoint, AskStatus(req=1), timeout_s=3)
    except EnergydError:
        return None


def _tell(code: int, report: _Report, options: Options) -> int:
    """The bill, for people and for programs. A file that cannot be written fails a command that did not."""
    if not options.quiet:
        for line in _lines(report):
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
    if options.json_path is not None:
        body = {
            "command": report.command, "exit_code": report.exit_code, "run_id": report.run_id,
            "run": report.name, "stage_id": report.stage_id, "store": report.store,
            "private_daemon": report.is_private, **report.bill.as_json(),
        }  # fmt: skip
        try:
            options.json_path.write_text(json.dumps(body, indent=2) + "\n")
        except OSError as error:
            _say(f"cannot write {options.json_path}: {error.strerror}")
            return code or FAILED
    return code


def _lines(report: _Report) -> list[str]:
    shown = " ".join(report.command)
    if len(shown) > 60:
        shown = shown[:59] + "…"
    ended = f"exit {report.exit_code}, {duration(report.bill.seconds)}"
    out = [f"energyd: {shown}: {ended}", *lines(report.bill)]
    if report.store is not None:
        kept = "kept in" if report.is_private else "in"
        out.append(f"  run {report.run_id} {kept} {report.store}")
        store = f" --store {report.store}" if report.is_private else ""
        out.append(f"  more: energyq{store} stages {report.run_id}")
    return out


def _say(text: str) -> None:
    sys.stderr.write(f"energyd: {text}\n")
    sys.stderr.flush()
