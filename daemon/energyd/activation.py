"""Has systemd bound our socket already, so that who comes before we are ready waits instead of being refused?

The protocol of sd_listen_fds(3): LISTEN_PID and LISTEN_FDS in the environment, descriptors from 3 on. libzmq
listens on such a one (ZMQ_USE_FD), closes it at its end, and leaves its file alone: systemd listens on.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from energyd.config import ConfigError

FIRST_FD: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def handed_over(path: Path) -> int | None:
    """The descriptor of the socket at `path`, bound and listening; None if systemd binds none for us.

    Our children do not inherit it, nor hear of it. Raises ConfigError where something else was handed over.
    """
    said = {name: os.environ.pop(name, "") for name in _VARIABLES}
    if said["LISTEN_PID"] != str(os.getpid()):
        return None
    cure = (
        f"  cure: one ListenStream={path} in energyd.socket, as `energyd install-service --socket` writes it"
    )
    if said["LISTEN_FDS"] != "1":
        raise ConfigError(
            f"systemd hands over {said['LISTEN_FDS']} sockets ({said['LISTEN_FDNAMES']})\n{cure}"
        )
    handed = socket.socket(fileno=os.dup(FIRST_FD))
    with handed:
        is_stream = (handed.family, handed.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        listens = is_stream and handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        where = handed.getsockname()
    if not listens or where != str(path):
        what = "a listening stream" if listens else "no listening stream"
        raise ConfigError(f"systemd hands over {what} at {where!r}, and we are to listen at {path}\n{cure}")
    os.set_inheritable(FIRST_FD, False)
    os.set_blocking(FIRST_FD, False)  # a peer that has left between poll and accept must not hold libzmq up
    return FIRST_FD
