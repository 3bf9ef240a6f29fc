"""Who may watch from another machine? Who holds a key that is allowed here; over CURVE, or not at all.

Over TCP one may ask and listen, not mark: nobody's uid and no clock of another machine can be told from here,
and a run belongs to a uid. `STORE/keys/` holds `daemon.secret` (0600) and `allowed`, lines of KEY NAME.
"""

from __future__ import annotations

import errno
import logging
import socket as sockets
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils import z85

from energyd.config import ConfigError
from energyd_client import curve
from energyd_client.errors import KeyRefused

log = logging.getLogger("energyd")

SECRET: Final = "daemon.secret"
ALLOWED: Final = "allowed"
_DOMAIN: Final = b"energyd"
_ZAP: Final = "inproc://zeromq.zap.01"


def keys_folder(store: Path) -> Path:
    """Where a daemon's own key is, and those that it allows."""
    return store / "keys"


def daemon_keys(store: Path) -> tuple[bytes, bytes]:
    """The daemon's (public, secret) key, made if there is none. Raises KeyRefused, OSError."""
    keys_folder(store).mkdir(mode=0o750, parents=True, exist_ok=True)
    return curve.pair(keys_folder(store) / SECRET)


def allowed_keys(store: Path) -> dict[bytes, str]:
    """{public key: whose it is}; lines that are none are passed over."""
    try:
        lines = (keys_folder(store) / ALLOWED).read_text().splitlines()
    except OSError:
        return {}
    words = [line.split(maxsplit=1) for line in lines if not line.startswith("#")]
    return {w[0].encode(): w[1] if len(w) > 1 else "" for w in words if w and len(w[0]) == curve.KEY_CHARS}


class Gate:
    """Opens sockets to the network, and answers libzmq when it asks who may come (ZAP, ZeroMQ's RFC 27)."""

    def __init__(self, context: zmq.Context[Any], store: Path) -> None:
        self._store = store
        try:
            _, self._secret = daemon_keys(store)
        except (KeyRefused, OSError) as error:
            raise ConfigError(f"cannot serve TCP: {error}") from error
        self.allowed = allowed_keys(store)  # replaced as a whole, by a reload
        self.socket: zmq.Socket[Any] = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ZAP)  # before any other bind: without it libzmq would let everybody in

    def bind(self, socket: zmq.Socket[Any], endpoint: str) -> None:
        """Serve on one more endpoint, on the network. What the socket is bound to already stays as it is."""
        _probe(endpoint)
        socket.curve_server = True
        socket.curve_secretkey = self._secret
        socket.zap_domain = _DOMAIN
        socket.ipv6 = "[" in endpoint
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot listen on {endpoint}: {error}\n  cure: another --listen") from error

    def reload(self) -> None:
        """Read anew who is allowed. Who is connected stays so until his connection ends."""
        self.allowed = allowed_keys(self._store)

    def answer(self) -> None:
        """Say of each that has knocked whether he may come in."""
        while True:
            try:
                version, request, _, address, _, mechanism, *credentials = self.socket.recv_multipart(
                    zmq.DONTWAIT
                )
            except zmq.Again:
                return
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
            name = self.allowed.get(key)
            if name is None:
                log.warning("remote: refused %s with key %s", address.decode(), key.decode() or "none")
            status = [b"400", b"not allowed"] if name is None else [b"200", b"OK"]
            self.socket.send_multipart([version, request, *status, (name or "").encode(), b""])

    def close(self) -> None:
        """Let go of it, after the sockets that it guards."""
        self.socket.close()


def _probe(endpoint: str) -> None:
    """Refuse what libzmq would end the process for: it aborts where the unit forbids the address family."""
    family = sockets.AF_INET6 if "[" in endpoint else sockets.AF_INET
    try:
        sockets.socket(family, sockets.SOCK_STREAM).close()
        sockets.socket(sockets.AF_NETLINK, sockets.SOCK_RAW).close()  # it looks through the interfaces
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        raise ConfigError(
            f"may not listen on {endpoint}: the unit allows socket files alone\n"
            "  cure: its drop-in energyd.network.conf (systemd/README.md)"
        ) from error
