"""How does energyd become a service that systemd keeps running, and how does it go away again?

A `Plan` says which files are written and which commands follow; `carry_out` has systemd check the unit before
anything is changed. The files are those of systemd/, with the interpreter that runs this put in.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from energyd_client.endpoints import SYSTEM_RUNTIME

PLACEHOLDER: Final = "/opt/energyd/bin/energyd"
HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ProtectHome=yes hides from the unit: an interpreter there ends with 203/EXEC."""

_SYSTEM: Final = {
    "energyd.service": "/etc/systemd/system/energyd.service",
    "energyd.sysusers.conf": "/etc/sysusers.d/energyd.conf",
    "energyd.tmpfiles.conf": "/etc/tmpfiles.d/energyd.conf",
    "energyd.toml": "/etc/energyd/energyd.toml",
}
_SOCKET: Final = {
    "energyd.socket": "/etc/systemd/system/energyd.socket",
    "energyd.socket.conf": "/etc/systemd/system/energyd.service.d/socket.conf",
}
"""Besides, where systemd is to hold the socket (`energyd.activation`)."""


class InstallError(Exception):
    """Nothing was changed, or what was is said: what, where, cure in the text."""


class NotPermitted(InstallError):
    """Only root may."""


@dataclass(frozen=True)
class Plan:
    """What will be written where, and what is run then."""

    files: dict[Path, str]
    commands: tuple[tuple[str, ...], ...]
    next_steps: tuple[str, ...]  # for people
    user: bool

    @property
    def unit(self) -> Path:
        """The unit's file."""
        return next(path for path in self.files if path.suffix == ".service")


def shipped(name: str) -> str:
    """The text of a file of systemd/: in an installed package beside this module, else in the checkout."""
    here = Path(__file__).parent
    for folder in (here / "systemd", here.parents[1] / "systemd"):
        if (folder / name).exists():
            return (folder / name).read_text()
    raise InstallError(f"{name} is missing from this installation ({here})\n  cure: install the package anew")


def plan(user: bool, now: bool = False, socket: bool = False) -> Plan:
    """The plan for this interpreter. Raises InstallError where it cannot serve the system's unit.

    `socket`: systemd holds the socket of the machine's service.
    """
    command = f"{shlex.quote(sys.executable).replace('%', '%%')} -m energyd"
    if user:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        unit = Path(base) / "systemd" / "user" / "energyd.service"
        files = {unit: shipped("energyd-user.service").replace(PLACEHOLDER, command)}
        before: tuple[tuple[str, ...], ...] = ()
        next_steps: tuple[str, ...] = ("it ends with your last login, unless: loginctl enable-linger",)
    else:
        _reachable()
        named = {**_SYSTEM, **(_SOCKET if socket else {})}
        files = {Path(to): shipped(name).replace(PLACEHOLDER, command) for name, to in named.items()}
        before = (
            ("systemd-sysusers", _SYSTEM["energyd.sysusers.conf"]),
            ("systemd-tmpfiles", "--create", _SYSTEM["energyd.tmpfiles.conf"]),
        )
        next_steps = ("who is to be measured and may ask: usermod -aG energyd NAME",)
    systemctl = ("systemctl", "--user") if user else ("systemctl",)
    units = ("energyd.socket", "energyd.service") if socket and not user else ("energyd.service",)
    enable = (*systemctl, "enable", *units)
    # systemd refuses to listen beside a service that runs already.
    stop = ((*systemctl, "stop", "energyd.service"),) if len(units) > 1 else ()
    starting = (*stop, (*systemctl, "start", *units))
    start = () if now else (f"start it: {' && '.join(' '.join(each) for each in starting)}",)
    commands = (*before, (*systemctl, "daemon-reload"), enable, *(starting if now else ()))
    return Plan(files, commands, (*start, *next_steps), user)


def carry_out(todo: Plan) -> None:
    """Check, write, run. Raises NotPermitted or InstallError."""
    if not todo.user and os.geteuid() != 0:
        raise NotPermitted(
            "only root installs the machine's service\n  cure: with sudo, or --user for your own"
        )
    _tools(todo)
    check(todo)
    for path, text in todo.files.items():
        if path.suffix == ".toml" and path.exists():
            continue  # its owner's words
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    for command in todo.commands:
        _run(command)


def check(todo: Plan) -> None:
    """Ask systemd what it thinks of the unit; it only warns of bad keys, so any word is a refusal."""
    with tempfile.TemporaryDirectory() as folder:
        drafts = []
        for path, text in todo.files.items():
            if path.is_relative_to(todo.unit.parent):  # units, and drop-ins in folders beside them
                draft = Path(folder) / path.relative_to(todo.unit.parent)
                draft.parent.mkdir(exist_ok=True)
                draft.write_text(text)
                drafts += [str(draft)] if draft.parent == Path(folder) else []
        scope = "--user" if todo.user else "--system"
        out = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", scope, *drafts],
            env={"XDG_RUNTIME_DIR": folder, **os.environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    # It may also speak of other units of this machine, which are not ours to judge.
    said = [line for line in (out.stderr + out.stdout).splitlines() if todo.unit.stem in line]
    if said or (out.returncode and not out.stderr):
        raise InstallError(
            f"systemd refuses {todo.unit}: {said[0] if said else f'exit code {out.returncode}'}\n"
            "  cure: a newer systemd (252 is tested); nothing was changed"
        )


def remove(user: bool) -> list[Path]:
    """Stop and disable the service and take its files away; those removed.

    The store stays, and settings that were changed.
    """
    if not user and os.geteuid() != 0:
        raise NotPermitted(
            "only root removes the machine's service\n  cure: with sudo, or --user for your own"
        )
    todo = plan(True) if user else None
    paths = list(todo.files) if todo else [Path(to) for to in (*_SOCKET.values(), *_SYSTEM.values())]
    there = [path for path in paths if path.exists()]
    systemctl = ("systemctl", "--user") if user else ("systemctl",)
    if there and shutil.which("systemctl"):
        units = [path.name for path in there if path.suffix in (".socket", ".service")]
        _run((*systemctl, "disable", "--now", *units), "nothing was removed")
    gone = [path for path in there if path.suffix != ".toml" or path.read_text() == shipped(path.name)]
    for path in gone:
        path.unlink()
        if path.parent.name == "energyd.service.d" and not any(path.parent.iterdir()):
            path.parent.rmdir()
    if there and shutil.which("systemctl"):
        _run((*systemctl, "daemon-reload"))
    if not user:  # or who is not of the group would go on being told to join it
        shutil.rmtree(SYSTEM_RUNTIME, ignore_errors=True)
    return gone


def _reachable() -> None:
    """Refuse an interpreter, or a package, that the unit's user cannot get at."""
    cure = (
        "  cure: a venv that all may read: python3 -m venv /opt/energyd, install there, and use its energyd"
    )
    needed = (Path(sys.executable), Path(sys.executable).resolve(), Path(__file__).resolve())
    for path in needed:
        home = next((home for home in HOMES if path.is_relative_to(home)), None)
        if home is not None:
            raise InstallError(
                f"the service cannot run {path}: it may not look into {home} (ProtectHome)\n{cure}"
            )
        for folder in path.parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise InstallError(f"the service cannot run {path}: its user may not enter {folder}\n{cure}")


def _tools(todo: Plan) -> None:
    needed = {"systemd-analyze", *(command[0] for command in todo.commands)}
    lacking = sorted(tool for tool in needed if shutil.which(tool) is None)
    if lacking:
        raise InstallError(
            f"no systemd here: {', '.join(lacking)} not found\n"
            "  cure: `energyd start`, from whatever starts things on this machine"
        )


def _run(command: tuple[str, ...], so_far: str = "the files are written") -> None:
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        last = (out.stderr.strip().splitlines() or [f"exit code {out.returncode}"])[-1]
        cure = "cure it and run again"
        if "--user" in command and "bus" in last:
            cure = "cure: from a login that has a systemd of its own; without one: `energyd start`"
        raise InstallError(f"{' '.join(command)} failed: {last}\n  {so_far}; {cure}")
