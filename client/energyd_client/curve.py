"""How does one machine watch the daemon of another? Over TCP, with CURVE: keys on both sides, no exception.

Keys lie in ENERGYD_KEYS, else ~/.config/energyd/keys: `own.secret` (0600) and `known`, one line for each
machine whose daemon may be believed: HOST KEY. `energyd keys` makes and shows them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final

import zmq

from energyd_client.errors import KeyRefused

ENV_KEYS: Final = "ENERGYD_KEYS"
OWN: Final = "own.secret"
KNOWN: Final = "known"
KEY_CHARS: Final = 40
"""A CURVE key in Z85."""


def folder() -> Path:
    """Where this user's keys are."""
    named = os.environ.get(ENV_KEYS)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "energyd" / "keys"


def pair(path: Path) -> tuple[bytes, bytes]:
    """The (public, secret) key in a file, made if it is not there. Raises KeyRefused, OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read(path)
    public, secret = zmq.curve_keypair()
    with os.fdopen(fd, "wb") as file:
        file.write(public + b"\n" + secret + b"\n")
    return public, secret


def _read(path: Path) -> tuple[bytes, bytes]:
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyRefused(f"{path} may be read by others ({mode & 0o777:o})", f"chmod 600 {path}")
    words = path.read_bytes().split()
    if len(words) != 2 or any(len(word) != KEY_CHARS for word in words):
        raise KeyRefused(
            f"{path} does not hold a pair of keys", "remove it: `energyd keys show` makes another"
        )
    return words[0], words[1]


def is_remote(endpoint: str) -> bool:
    """Whether an endpoint is on the network."""
    return endpoint.startswith("tcp://")


def live_endpoint(endpoint: str, told: str) -> str:
    """Where a daemon publishes that was asked at `endpoint` and named `told`: over TCP, on the next port."""
    if not is_remote(endpoint):
        return told
    address, _, port = endpoint.rpartition(":")
    return f"{address}:{int(port) + 1}"


def host_of(endpoint: str) -> str:
    """The host's part of a tcp:// endpoint."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0]


def secure(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Before a socket is connected to the network: our keys, and the daemon's. Raises KeyRefused."""
    if not is_remote(endpoint):
        return
    host, keys = host_of(endpoint), folder()
    try:
        lines = [line.split() for line in (keys / KNOWN).read_text().splitlines()]
    except FileNotFoundError:
        lines = []
    known = next((line[1] for line in lines if len(line) == 2 and line[0] == host), None)
    if known is None:
        cure = f"energyd keys trust {host} KEY, with what `energyd keys daemon` says there"
        raise KeyRefused(f"the key of the daemon on {host} is not known here ({keys / KNOWN})", cure)
    if not (keys / OWN).exists():
        raise KeyRefused(f"there is no key of yours in {keys}", "energyd keys show")
    socket.curve_serverkey = known.encode()
    socket.curve_publickey, socket.curve_secretkey = pair(keys / OWN)
    socket.ipv6 = "[" in host
