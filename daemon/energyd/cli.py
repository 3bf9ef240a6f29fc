"""What can be typed after `energyd`? Parse, hand over, turn errors into one message and an exit code.

Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not there, 4 degraded, 5 permission, 75 start me again,
78 configuration.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

try:
    import click
except ImportError:  # a training image holds the client alone
    sys.exit("energyd needs the daemon extra: pip install 'energyd[daemon]'")

from energyd import cli_service
from energyd.asking import ask_status, endpoint_of, holder_of, store_option
from energyd.exits import ABSENT, CONFIG, DEGRADED, FAILED, PERMISSION, TRY_AGAIN, fail
from energyd_client import endpoints
from energyd_client.version import __version__

START_WAIT_S: Final = 60.0
STOP_WAIT_S: Final = 30.0
FIRST_SAMPLES_S: Final = 10.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Watch every watt of this machine, so that SQL can answer what each thing cost."""


@main.command()
@store_option
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="File of settings, systemd/energyd.toml."
)
@click.option("--interval", type=float, help="Seconds between drains of the ring. [default: 0.5]")
@click.option("--source", help="auto, replay:DIR or simulated. [default: auto]")
@click.option("--speed", type=float, help="Replay only: how many times as fast. [default: 1]")
@click.option("--keep-raw", help="Then samples are thinned to one a second. [default: 7d; or 36h, never]")
@click.option("--keep", help="Then samples of a day go; what stages cost stays. [default: 400d]")
@click.option("--max-size", help="Above it the oldest days' samples go. [default: 50GB]")
@click.option(
    "--listen", help="To be watched from other machines, such as tcp://10.0.0.5:7411 (keys: energyd keys)."
)
@click.option("--foreground", is_flag=True, help="Stay in this terminal; Ctrl-C stops.")
def start(store: Path | None, file: Path | None, foreground: bool, **flags: Any) -> None:
    """Start the daemon; returns when it is ready.

    Example: energyd start --store ./my-store
    """
    from energyd.config import ConfigError, resolve

    def settings() -> Any:
        return resolve(file=file, store=store, **flags)

    try:
        config = settings()
    except ConfigError as error:
        fail(str(error), CONFIG)
    if foreground:
        _serve(config, settings)
    else:
        given = {**flags, "config": config.file}
        more = [
            word for key, value in given.items() if value is not None
            for word in (f"--{key.replace('_', '-')}", str(value))
        ]  # fmt: skip
        _spawn(config, store is not None, more)


@main.command()
@store_option
def stop(store: Path | None) -> None:
    """Stop the daemon; waits until everything is stored."""
    holder, lock = holder_of(store)
    pid = int(holder.get("pid", 0))
    if not pid:
        fail(f"no daemon runs on {lock.parent}\n  cure: `energyd start --store {lock.parent}`", ABSENT)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        fail(f"no daemon runs on {lock.parent} (pid {pid} is gone)", ABSENT)
    except PermissionError:
        fail(
            f"may not stop pid {pid}: it belongs to another user\n  cure: as that user, or with sudo",
            PERMISSION,
        )
    from energyd.store.lock import held, read_holder

    deadline = time.monotonic() + STOP_WAIT_S
    while held(lock):
        if time.monotonic() > deadline:
            fail(
                f"pid {pid} has not stopped in {STOP_WAIT_S:.0f} s\n  cure: see its log, then kill -9 {pid}",
                FAILED,
            )
        time.sleep(0.02)
    unstored = read_holder(lock).get("unstored")
    if unstored:
        fail(f"stopped (pid {pid}), but the disk did not take the last: {unstored}", DEGRADED)
    click.echo(f"stopped (pid {pid})", err=True)


@main.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def status(store: Path | None, as_json: bool) -> None:
    """Say how the daemon is: devices, sources, gaps, what is open."""
    body = ask_status(endpoint_of(store))
    if as_json:
        click.echo(json.dumps(body, indent=2))
    else:
        from energyd.status_text import lines

        click.echo("\n".join(lines(body)))
    sys.exit(DEGRADED if body["state"] != "ok" else 0)


@main.command()
@store_option
@click.option("--interval", "interval_s", type=float, help="Seconds between redraws (0.25; in a pipe 1).")
@click.option("--once", is_flag=True, help="Show one picture and leave.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per interval.")
@click.option("--seconds", type=float, help="Leave after so long.")
def top(
    store: Path | None, interval_s: float | None, once: bool, as_json: bool, seconds: float | None
) -> None:
    """Watch joules as they burn: devices, open stages, health. q leaves."""
    from energyd.top import run_top

    sys.exit(
        run_top(endpoint_of(store), interval_s=interval_s, once=once, json_output=as_json, seconds=seconds)
    )


@main.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1, max=600),
    default=20.0,
    show_default=True,
    help="Seconds a driver may take.",
)
def doctor(store: Path | None, as_json: bool, timeout_s: float) -> None:
    """Probe every sensor and say what is fit to measure with, what is not, and the cure.

    Works with and without a daemon.
    """
    from energyd.doctor import examine, lines

    report = examine(store, timeout_s)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(lines(report)))
    sys.exit(DEGRADED if report["state"] != "ok" else 0)


@main.command()
def version() -> None:
    """Print release and protocol version."""
    from energyd_client.protocol import VERSION

    click.echo(f"energyd {__version__} (protocol {VERSION})")


for each in cli_service.COMMANDS:
    main.add_command(each)


def _serve(config: Any, again: Callable[[], Any]) -> None:
    """Run the daemon in this process until it is told to stop; `again`: the settings, read anew."""
    from energyd.config import ConfigError
    from energyd.logs import begin_logging
    from energyd.service import Service, handle_signals
    from energyd.sources import SourceError
    from energyd.store.lock import AlreadyRunning
    from energyd.store.write import StoreError

    begin_logging()
    os.umask(0o027)  # store files 0640, folders 0750: the group reads, the world does not
    report = _Report()
    service = Service(config, again)
    handle_signals(service)
    try:
        service.run(report.ready)
    except AlreadyRunning as error:
        report.failed(str(error), FAILED)
    except (ConfigError, SourceError) as error:
        report.failed(str(error), CONFIG)
    except StoreError as error:
        report.failed(f"{error}\n  cure: move {config.store} aside, or another --store", CONFIG)
    if service.again:
        fail(f"ends for another to go on: {service.again}", TRY_AGAIN)
    if service.unstored:
        sys.exit(DEGRADED)


class _Report:
    """Tells the `energyd start` that waits for us how it went, or the terminal."""

    def __init__(self) -> None:
        fd = os.environ.pop("ENERGYD_READY_FD", None)
        self._fd = int(fd) if fd else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)

    def ready(self) -> None:
        self._tell({"ok": True, "pid": os.getpid()})

    def failed(self, message: str, code: int) -> NoReturn:
        self._tell({"ok": False, "message": message, "code": code})
        fail(message, code)

    def _tell(self, news: dict[str, Any]) -> None:
        if self._fd is not None:
            os.write(self._fd, json.dumps(news).encode())
            os.close(self._fd)
            self._fd = None


def _spawn(config: Any, private: bool, more: list[str]) -> None:
    """Start a detached daemon and wait until it is ready or has said why not."""
    import subprocess

    log_path = config.store / "energyd.log"
    try:
        config.store.mkdir(mode=0o750, parents=True, exist_ok=True)
        log_file = log_path.open("ab")
    except OSError as error:
        fail(
            f"cannot write {log_path}: {error.strerror}\n  cure: --store DIR with a folder you may write",
            CONFIG,
        )
    reader, writer = os.pipe()
    command = [
        sys.executable, "-m", "energyd", "start", "--foreground", "--store", str(config.store),
        *more,
    ]  # fmt: skip
    environment = {
        **os.environ, "ENERGYD_READY_FD": str(writer),
        endpoints.ENV_ENDPOINT: config.endpoint, endpoints.ENV_SPOOL: str(config.spool),
    }  # fmt: skip
    with log_file:
        child = subprocess.Popen(
            command, env=environment, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=log_file,
            stderr=log_file, start_new_session=True,
        )  # fmt: skip
    os.close(writer)
    news = _read_news(reader)
    os.close(reader)
    if news is None:
        child.poll()
        fail(f"the daemon did not come up (exit {child.returncode})\n  see: {log_path}", FAILED)
    if not news["ok"]:
        child.wait()
        fail(news["message"], news["code"])
    child.returncode = 0  # it lives on; Popen must not complain of that
    _await_samples(config.endpoint)
    click.echo(f"energyd runs (pid {news['pid']}), store {config.store}", err=True)
    if private:
        click.echo("programs and energyq find it by:", err=True)
        click.echo(f"export {endpoints.ENV_ENDPOINT}={config.endpoint} {endpoints.ENV_SPOOL}={config.spool}")


def _await_samples(endpoint: str) -> None:
    """Wait until every device has a sample, so that a program started next is measured from its first line.

    CodeCarbon's estimate is the slow one: its imports take seconds.
    """
    from energyd_client.errors import EnergydError
    from energyd_client.protocol import AskStatus
    from energyd_client.request import ask

    deadline = time.monotonic() + FIRST_SAMPLES_S
    while time.monotonic() < deadline:
        try:
            body = ask(endpoint, AskStatus(req=1), timeout_s=5)
        except EnergydError:
            return  # a trace played once may be over already
        answered = {d["domain"] for d in body["domains"]}
        starting = any("is starting" in (d["reason"] or "") for d in body["domains"])
        sampled = all(d["last_t_ns"] is not None for d in body["devices"])
        if {"gpu", "cpu"} <= answered and sampled and not starting:
            return
        time.sleep(0.05)
    click.echo("energyd: some devices have no sample yet; `energyd status` says which", err=True)


def _read_news(fd: int) -> dict[str, Any] | None:
    import select

    ready, _, _ = select.select([fd], [], [], START_WAIT_S)
    data = os.read(fd, 65536) if ready else b""
    return json.loads(data) if data else None
