"""What can be typed after `energyd` to have it kept running, or to have it let go?

The commands that change a service, apart from those that people use every day (`energyd.cli`).
"""

from __future__ import annotations

import contextlib
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from energyd.asking import ask_status, endpoint_of, store_option
from energyd.exits import ABSENT, CONFIG, DEGRADED, FAILED, PERMISSION, USAGE, fail

RELEASED: Final = "released until"
"""How the reason of a domain begins that is let go of (`releasing.Leave.told`)."""

Z85: Final = string.digits + string.ascii_letters + ".-:+=^!/*?&<>()[]{}@%$#"
"""What CURVE's keys are written with (ZeroMQ RFC 32)."""

LET_GO_S: Final = 15.0
"""Finding the GPUs again takes 1.5 s; letting go waits for the read that is under way."""

user_option = click.option("--user", is_flag=True, help="Your own service, without root.")


@click.command("install-service")
@user_option
@click.option("--now", is_flag=True, help="Start it too.")
@click.option("--socket", is_flag=True, help="systemd holds the socket: nobody is refused during restarts.")
@click.option("--dry-run", is_flag=True, help="Show every file and command, and change nothing.")
def install_service(user: bool, now: bool, socket: bool, dry_run: bool) -> None:
    """Have systemd keep energyd running: write, check and enable its unit.

    With --socket, programs that come while it starts or is upgraded wait for it, and the first one starts it.
    Example: sudo /opt/energyd/bin/energyd install-service --now
    """
    from energyd.install_service import InstallError, NotPermitted, carry_out, plan

    if user and socket:
        raise click.UsageError("--socket is for the machine's service; --user's needs none")
    try:
        todo = plan(user, now, socket)
        if dry_run:
            for path, text in todo.files.items():
                click.echo(f"# ---- {path}\n{text}")
            for command in todo.commands:
                click.echo(f"$ {' '.join(command)}")
            return
        carry_out(todo)
    except NotPermitted as error:
        fail(str(error), PERMISSION)
    except InstallError as error:
        fail(str(error), CONFIG)
    for path in todo.files:
        click.echo(f"wrote {path}", err=True)
    click.echo(
        "your own settings: `systemctl edit energyd`; these files are written anew each time", err=True
    )
    for step in todo.next_steps:
        click.echo(step, err=True)


@click.command("uninstall-service")
@user_option
def uninstall_service(user: bool) -> None:
    """Stop the service and take its files away. The store, and the user energyd, stay.

    Example: sudo energyd uninstall-service
    """
    from energyd.install_service import InstallError, NotPermitted, remove

    try:
        gone = remove(user)
    except NotPermitted as error:
        fail(str(error), PERMISSION)
    except InstallError as error:
        fail(str(error), CONFIG)
    for path in gone:
        click.echo(f"removed {path}", err=True)
    if not gone:
        click.echo("no such service is installed", err=True)


@click.command()
@store_option
@click.option("--for", "duration", default="5m", show_default=True, help="Such as 90s, 5m or 2h.")
def release(store: Path | None, duration: str) -> None:
    """Let go of the NVIDIA driver: for a GPU reset, a MIG change, a driver upgrade.

    CPU, markers and stages go on. What the GPUs take meanwhile is a gap `released`, bridged where their
    counter lived on. Example: energyd release --for 5m && nvidia-smi --gpu-reset; energyd resume
    """
    from energyd.config import ConfigError, seconds
    from energyd.releasing import LONGEST_S

    try:
        for_s = seconds(duration)
    except ConfigError as error:
        fail(str(error), USAGE)
    if not 0 < for_s <= LONGEST_S:
        fail(f"cannot release for {duration}: at most a day\n  cure: such as 90s, 5m or 2h", USAGE)
    endpoint = endpoint_of(store)
    body = _ask_release(endpoint, for_s)
    if not body["sources"]:
        click.echo("nothing to let go of: this daemon holds no NVIDIA driver", err=True)
        return
    deadline = time.monotonic() + LET_GO_S
    while ask_status(endpoint).get("released_until_ns") is None:
        if time.monotonic() > deadline:
            fail(f"not let go in {LET_GO_S:.0f} s: a driver call hangs\n  cure: energyd stop", FAILED)
        time.sleep(0.05)
    until = time.strftime("%H:%M:%S", time.localtime(body["until_ns"] / 1e9))
    click.echo(f"let go of the NVIDIA driver until {until}; sooner: energyd resume", err=True)


@click.command()
@store_option
def resume(store: Path | None) -> None:
    """Take the NVIDIA driver back before its release is over.

    Example: energyd resume
    """
    endpoint = endpoint_of(store)
    if not _ask_release(endpoint, 0)["sources"]:
        click.echo("nothing to take back: this daemon holds no NVIDIA driver", err=True)
        return
    deadline = time.monotonic() + LET_GO_S
    while (gpu := _gpu(ask_status(endpoint))) is None or (gpu["reason"] or "").startswith(RELEASED):
        if time.monotonic() > deadline:
            fail("the driver was not taken back\n  see: the daemon's log; it goes on trying", FAILED)
        time.sleep(0.05)
    if gpu["state"] != "measured":
        fail(f"taken back, but not measured: {gpu['reason']}", DEGRADED)
    click.echo("taken back", err=True)


def _gpu(status: dict[str, Any]) -> dict[str, Any] | None:
    """The domain as it is held; None while it is let go of."""
    if status.get("released_until_ns") is not None:
        return None
    return next((domain for domain in status["domains"] if domain["domain"] == "gpu"), None)


def _ask_release(endpoint: str, for_s: int) -> dict[str, Any]:
    from energyd_client.errors import DaemonRefused, EnergydError, PermissionRefused
    from energyd_client.protocol import AskRelease
    from energyd_client.request import ask

    try:
        return ask(endpoint, AskRelease(0, for_s), timeout_s=5)
    except PermissionRefused as error:
        fail(str(error), PERMISSION)
    except DaemonRefused as error:
        if error.code == "unknown_type":
            fail("this daemon is too old for that\n  cure: upgrade and restart it", FAILED)
        fail(str(error), PERMISSION if error.code == "forbidden" else FAILED)
    except EnergydError as error:
        fail(str(error), ABSENT)


@click.group()
def keys() -> None:
    """Keys for watching a daemon from another machine (energyd start --listen).

    \b
    Example:
    On the machine that watches:   energyd keys show
    On the daemon's machine:       energyd keys allow KEY NAME
                                   energyd keys daemon
    On the machine that watches:   energyd keys trust HOST KEY
                                   ENERGYD_ENDPOINT=tcp://HOST:7411 energyd top
    """


@keys.command("show")
def keys_show() -> None:
    """Print your own public key; made if there is none.

    Example: energyd keys show
    """
    from energyd_client import curve

    with _key_errors():
        curve.folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        click.echo(curve.pair(curve.folder() / curve.OWN)[0])


@keys.command("trust")
@click.argument("host")
@click.argument("key")
def keys_trust(host: str, key: str) -> None:
    """Believe the daemon on HOST, whose `energyd keys daemon` said KEY.

    Example: energyd keys trust gpu7.example KEY
    """
    from energyd_client import curve

    _is_key(key)
    _is_name(host)
    with _key_errors():
        curve.folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        known = curve.folder() / curve.KNOWN
        others = [line for line in _lines(known) if line.split()[0] != host]
        known.write_text("".join(f"{line}\n" for line in [*others, f"{host} {key}"]))


@keys.command("daemon")
@store_option
def keys_daemon(store: Path | None) -> None:
    """Print the public key of this machine's daemon; made if there is none.

    Example: energyd keys daemon
    """
    from energyd.remote import daemon_keys
    from energyd_client import endpoints

    with _key_errors():
        click.echo(daemon_keys((store or endpoints.default_store()).absolute())[0])


@keys.command("allow")
@store_option
@click.argument("key")
@click.argument("name")
def keys_allow(store: Path | None, key: str, name: str) -> None:
    """Let the holder of KEY watch this machine's daemon; NAME says whose it is. A reload takes it over.

    Example: energyd keys allow KEY anna
    """
    from energyd.remote import ALLOWED, keys_folder
    from energyd_client import endpoints

    _is_key(key)
    _is_name(name)
    with _key_errors():
        folder = keys_folder((store or endpoints.default_store()).absolute())
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        others = [line for line in _lines(folder / ALLOWED) if line.split()[0] != key]
        (folder / ALLOWED).write_text("".join(f"{line}\n" for line in [*others, f"{key} {name}"]))
    click.echo("a running daemon takes it over by `systemctl reload energyd`, or kill -HUP", err=True)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def _is_key(key: str) -> None:
    from energyd_client.curve import KEY_CHARS

    if len(key) != KEY_CHARS:
        fail(f"{key!r} is no key: it has {len(key)} characters of {KEY_CHARS}", USAGE)
    odd = set(key) - set(Z85)
    if odd:
        fail(f"{key!r} is no key: no key has {''.join(sorted(odd))!r} in it", USAGE)


def _is_name(name: str) -> None:
    """A word of its own on its line of a file."""
    if name.split() != [name] or not name.isprintable():
        fail(f"{name!r} is no name: one word, without blanks", USAGE)


@contextlib.contextmanager
def _key_errors() -> Iterator[None]:
    from energyd_client.errors import KeyRefused

    try:
        yield
    except KeyRefused as error:
        fail(str(error), PERMISSION)
    except OSError as error:
        fail(
            f"cannot use {error.filename}: {error.strerror}\n  cure: as the user whose keys they are",
            PERMISSION,
        )


COMMANDS = (install_service, uninstall_service, release, resume, keys)
