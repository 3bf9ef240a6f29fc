"""What can be typed after `energyd`? Parse, hand over, turn errors into one message and an exit code.

Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not there, 4 degraded, 5 permission, 75 start me again,
78 configuration.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import json
import os
import shlex
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

from energyd import cli_lake, cli_service, everyday
from energyd.amounts import Amount, above_zero
from energyd.asking import ask_status, endpoint_of, holder_of, store_option
from energyd.config import ENV_CARBON, ENV_PRICE
from energyd.exits import ABSENT, CONFIG, DEGRADED, FAILED, PERMISSION, TRY_AGAIN, fail
from energyd_client import endpoints
from energyd_client.version import __version__

STOP_WAIT_S: Final = 30.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Watch every watt of this machine, so that SQL can answer what each thing cost.

    \b
    Examples:
      energyd run -- python train.py
      energyd start
      energyd top
    """


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
@click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus there, e.g. 127.0.0.1:9477.")
@click.option("--otlp", metavar="URL", help="Push to an OpenTelemetry collector there.")
@click.option(
    "--listen", help="To be watched from other machines, such as tcp://10.0.0.5:7411 (keys: energyd keys)."
)
@click.option("--lake", metavar="URL", help="Ship sealed hours there: a folder, or s3://BUCKET/PREFIX.")
@click.option("--lake-keys", metavar="FILE", help="Its credentials, mode 0600; else the environment's.")
@click.option("--ship", metavar="raw|1s", help="All samples, or one a second. [default: raw]")
@click.option("--ship-each", metavar="hour|day", help="How often. [default: hour]")
@click.option("--outbox", metavar="SIZE", help="What may wait for a lake that is away. [default: 10GB]")
@click.option("--foreground", is_flag=True, help="Stay in this terminal; Ctrl-C stops.")
def start(store: Path | None, file: Path | None, foreground: bool, **flags: Any) -> None:
    """Start the daemon; returns when it is ready.

    With --store it is a private one, whose socket lies in that folder; what programs need to find it is
    printed, for eval.

    \b
    Examples:
      energyd start
      eval "$(energyd start --store ./my-store)"
    """
    from energyd.config import ConfigError, resolve

    def settings() -> Any:
        return resolve(file=file, store=store, **flags)

    try:
        config = settings()
    except ConfigError as error:
        fail(str(error), CONFIG)
    _refuse_anothers_socket(config)
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
    """Stop the daemon; waits until everything is stored.

    \b
    Example:
      energyd stop --store ./my-store
    """
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
    """Say how the daemon is: devices, sources, gaps, what is open.

    Exits 4 if it is degraded, 3 if there is none.

    \b
    Example:
      energyd status --json
    """
    body = ask_status(endpoint_of(store))
    if as_json:
        click.echo(json.dumps(body, indent=2))
    else:
        from energyd.status_text import lines

        click.echo("\n".join(lines(body)))
    sys.exit(DEGRADED if body["state"] != "ok" else 0)


@main.command()
@store_option
@click.option(
    "--interval", "interval_s", type=above_zero(), help="Seconds between redraws (0.25; in a pipe 1)."
)
@click.option("--once", is_flag=True, help="Show one picture and leave.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per interval.")
@click.option("--seconds", type=above_zero(), help="Leave after so long.")
@click.option(
    "--carbon", metavar="G", type=Amount(min=0), envvar=ENV_CARBON, show_envvar=True,
    help="Tell gCO2e, at so many grams a kWh.",
)  # fmt: skip
@click.option(
    "--price", envvar=ENV_PRICE, show_envvar=True, help="Tell the cost, at 0.30EUR/kWh or the like."
)
def top(
    store: Path | None, interval_s: float | None, once: bool, as_json: bool, seconds: float | None,
    carbon: float | None, price: str | None,
) -> None:  # fmt: skip
    """Watch joules as they burn: devices, open stages, health.

    Keys: s sorts stages by begin, energy, power or J/token; f freezes the picture; q leaves.

    \b
    Examples:
      energyd top --carbon 380 --price 0.30EUR/kWh
      energyd top --once --json
    """
    from energyd.top import run_top
    from energyd.top_look import rates

    try:
        told = rates(carbon, price)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(
        run_top(
            endpoint_of(store),
            interval_s=interval_s,
            once=once,
            json_output=as_json,
            seconds=seconds,
            rates=told,
        )
    )


@main.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Amount(min=1, max=600),
    default=20.0,
    show_default=True,
    help="Seconds a driver may take.",
)
def doctor(store: Path | None, as_json: bool, timeout_s: float) -> None:
    """Probe every sensor and say what is fit to measure with, what is not, and the cure.

    Works with and without a daemon.

    \b
    Example:
      energyd doctor --timeout 60
    """
    from energyd.doctor import examine, lines

    report = examine(store, timeout_s)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(lines(report)))
    sys.exit(DEGRADED if report["state"] != "ok" else 0)


@main.command()
@store_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def recover(store: Path | None, dry_run: bool, as_json: bool) -> None:
    """Look for damage in every file of a store; save what can be read, say what is lost.

    While no daemon runs on it. Exits 4 if anything was damaged.

    \b
    Example:
      energyd recover --store ./my-store
    """
    from energyd.store.lock import AlreadyRunning
    from energyd.store.recover import recover as look_through
    from energyd.store.write import StoreError

    where = store or endpoints.default_store()
    os.umask(0o027)
    try:
        report = look_through(where, dry_run=dry_run)
    except AlreadyRunning as error:
        fail(f"a daemon writes to this store: {error}", FAILED)
    except StoreError as error:
        fail(f"{error}\n  cure: --store DIR", CONFIG)
    except OSError as error:
        fail(f"cannot recover {where}: {error.strerror}: {error.filename}\n  cure: as its owner", PERMISSION)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(report.lines()))
    sys.exit(DEGRADED if report.found else 0)


@main.command()
def version() -> None:
    """Print release and protocol version.

    \b
    Example:
      energyd version
    """
    from energyd_client.protocol import VERSION

    click.echo(f"energyd {__version__} (protocol {VERSION})")


for each in (*cli_service.COMMANDS, *cli_lake.COMMANDS, everyday.run, everyday.mark, everyday.record):
    main.add_command(each)


def _refuse_anothers_socket(config: Any) -> None:
    """An exported ENERGYD_ENDPOINT wins over --store, and may be that of a daemon on another store."""
    from energyd.store.lock import living_holder

    lock = Path(f"{endpoints.ipc_path(config.endpoint)}.lock")
    try:
        holder = living_holder(lock)
    except OSError:
        return
    if endpoints.ENV_ENDPOINT in os.environ and holder.get("store", str(config.store)) != str(config.store):
        fail(
            f"{endpoints.ENV_ENDPOINT}={config.endpoint} is exported, where the daemon on {holder['store']} "
            f"(pid {holder.get('pid')}) listens: one on {config.store} cannot listen there too\n"
            f"  cure: unset {endpoints.ENV_ENDPOINT} {endpoints.ENV_SPOOL}, then start it again",
            FAILED,
        )


def _serve(config: Any, again: Callable[[], Any]) -> None:
    """Run the daemon in this process until it is told to stop; `again`: the settings, read anew."""
    from energyd.config import ConfigError
    from energyd.launch import ENV_LEASE, inherited_fd
    from energyd.logs import begin_logging
    from energyd.service import Service, handle_signals
    from energyd.sources import SourceError
    from energyd.store.lock import AlreadyRunning
    from energyd.store.write import StoreError

    begin_logging()
    os.umask(0o027)  # store files 0640, folders 0750: the group reads, the world does not
    report = _Report()
    service = Service(config, again, lease_fd=inherited_fd(ENV_LEASE))
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
        from energyd.launch import ENV_READY, inherited_fd

        self._fd = inherited_fd(ENV_READY)

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
    """Start a detached daemon, wait until it is ready or has said why not, and say how to find it."""
    from energyd.launch import LaunchError, await_samples, launch

    try:
        child = launch(config, more)
    except LaunchError as error:
        fail(str(error), error.code)
    child.returncode = 0  # it lives on; Popen must not complain of that
    if not await_samples(config.endpoint):
        click.echo("energyd: some devices have no sample yet; `energyd status` says which", err=True)
    click.echo(f"energyd runs (pid {child.pid}), store {config.store}", err=True)
    if private:
        click.echo("programs and energyq find it by:", err=True)
        found = {endpoints.ENV_ENDPOINT: config.endpoint, endpoints.ENV_SPOOL: str(config.spool)}
        click.echo("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in found.items()))


