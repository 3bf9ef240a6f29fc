"""How does a shell script say what it is doing? One `energyd mark` call: ask the shell's keeper, and go.

The keeper (`mark_keeper.py`) is found under a name that follows from the owner, the shell whose stages these
are: uid, pid and start, so that a reused pid is another owner. The first call starts it. An abstract Unix
socket leaves no file behind; both ends check the other's uid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from energyd_client import arguments, clock, endpoints, process, reach

ANSWER_S: Final = 20.0
"""Longest wait for the keeper; on a loaded machine it takes a second to come up."""

STALE_NS: Final = 10_000_000_000
"""An own start longer ago than this is not when the shell called us."""

UNMEASURED: Final = "unmeasured"
"""What stands for an id where ENERGYD_DISABLE is set."""


class MarkError(Exception):
    """What, where, cure; nothing was marked."""


def begin(
    name: str, *, owner: int | None, run: str | None, labels: dict[str, str], parent: str | None,
    devices: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Begin a stage of the owner's; its ids. Within ENERGYD_RUN_ID's run, else that of the name `run`.

    `owner`: a pid, by default the shell that called us. Raises MarkError.
    """
    pid = owner or _shell()
    inherited = os.environ.get(endpoints.ENV_RUN_ID) if run is None else None
    argv = _argv(pid)
    obstacle = None if endpoints.is_disabled() else reach.obstacle(endpoints.default_endpoint())
    if obstacle is not None:
        sys.stderr.write(f"energyd: nothing is measured: {obstacle}\n")
    return _ask(pid, {
        "do": "begin", "name": name, "run_id": inherited or None, "run": run or _name(argv),
        "parent_id": parent or (os.environ.get(endpoints.ENV_STAGE_ID) if inherited else None) or None,
        "labels": labels, "devices": list(devices) or None, "cwd": process.clean(str(Path.cwd())),
        "argv": process.clean(process.command_line(argv))[: process.MAX_ARGV],
    }, start=True)  # fmt: skip


def end(stage: str | None, status: str, owner: int | None) -> dict[str, Any]:
    """End a stage, by id or name (None: the newest), when this very call was made. Raises MarkError."""
    return _ask(owner or _shell(), {"do": "end", "stage": stage, "status": status, "t_ns": _called_ns()})


def count(stage: str | None, counts: dict[str, int], owner: int | None) -> dict[str, Any]:
    """Add work done in a stage. Raises MarkError."""
    asked = {"do": "count", "stage": stage, "counts": counts, "t_ns": _called_ns()}
    return _ask(owner or _shell(), asked)


def metric(name: str, value: float, n: int | None, stage: str | None, owner: int | None) -> dict[str, Any]:
    """Report a quality figure of a stage's run. Raises MarkError."""
    asked = {"do": "metric", "name": name, "value": value, "n": n, "stage": stage, "t_ns": _called_ns()}
    return _ask(owner or _shell(), asked)


def _ask(owner: int, asked: dict[str, Any], *, start: bool = False) -> dict[str, Any]:
    if endpoints.is_disabled():
        return {"run_id": UNMEASURED, "stage_id": UNMEASURED, "parent_id": None}
    address = _address(owner)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as line:
        line.settimeout(ANSWER_S)
        try:
            _connect(line, address, owner, start)
            line.send(json.dumps(asked).encode())
            said: dict[str, Any] = json.loads(line.recv(65_536))
        except (OSError, ValueError) as error:
            raise MarkError(f"the keeper of pid {owner}'s stages does not answer: {error}") from error
    if "refused" in said:
        raise MarkError(said["refused"])
    return said


def _connect(line: socket.socket, address: str, owner: int, start: bool) -> None:
    from energyd.mark_keeper import uid_of

    deadline = time.monotonic() + ANSWER_S
    while (refused := line.connect_ex(address)) == errno.ECONNREFUSED and time.monotonic() < deadline:
        if not start:
            raise MarkError(
                f"no stage is open for pid {owner}\n"
                "  cure: `energyd mark begin NAME` first; from another process with --owner PID"
            )
        if not _start_keeper(address, owner):
            time.sleep(0.01)  # another call was faster, and does not listen yet
    if refused:
        raise OSError(refused, os.strerror(refused))
    if uid_of(line) != os.geteuid():
        raise MarkError(f"another user holds {address[1:]}\n  cure: --owner with another process of yours")


def _start_keeper(address: str, owner: int) -> bool:
    """Start the owner's keeper on a socket that listens already: who asks is heard. False: it was there."""
    import subprocess

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
        try:
            listener.bind(address)
        except OSError:
            return False
        listener.listen(128)
        try:
            owner_fd = os.pidfd_open(owner)
        except OSError as error:
            raise MarkError(f"cannot watch pid {owner}: {error.strerror}\n  cure: --owner $$") from error
        fds = [listener.fileno(), owner_fd]
        child = subprocess.Popen(
            [sys.executable, "-m", "energyd.mark_keeper", *map(str, fds)], pass_fds=fds,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(owner_fd)
        child.returncode = 0  # it lives as long as the owner; Popen must not complain of that
        return True


def _address(owner: int) -> str:
    """Where the keeper of an owner listens: one for each daemon that he speaks to."""
    born = clock.start_ticks(owner)
    if not born:
        raise MarkError(f"there is no process {owner}\n  cure: --owner $$")
    daemon = hashlib.sha256(endpoints.default_endpoint().encode()).hexdigest()[:12]
    return f"\0energyd-mark-{os.geteuid()}-{owner}-{born}-{daemon}"


def _shell() -> int:
    """The pid of the shell that called us; of a subshell, which has the same command line, its shell's.

    So `id=$(energyd mark begin x || exit)` does not give the stage to a process that is gone at once.
    """
    pid = os.getppid()
    argv = _argv(pid)
    while argv and (above := _parent(pid)) > 1 and _argv(above) == argv:
        pid = above
    return pid


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _called_ns() -> int:
    """When the shell called us, CLOCK_BOOTTIME ns (to 10 ms): our own start-up is no part of the stage."""
    now = clock.now_ns()
    started = clock.start_ticks(os.getpid()) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return started if now - STALE_NS < started <= now else now


def _argv(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in raw.split(b"\0") if word]


def _name(argv: list[str]) -> str:
    """A run's name: the script that the shell runs, else the shell's own name."""
    words = argv[3:] if "-c" in argv[1:2] else argv[1:]  # sh -c CODE NAME
    script = next((word for word in words if not word.startswith("-")), argv[0] if argv else "shell")
    return arguments.name(Path(script).stem.strip("-") or "shell", "run name")
