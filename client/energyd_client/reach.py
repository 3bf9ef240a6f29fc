"""Does anybody listen at this endpoint, and if not, why?

ZeroMQ tells a client nothing: with a missing socket, a wrong permission or a refusing peer its send
succeeds all the same. A plain connect to the same Unix socket says which of them it is.
"""

from __future__ import annotations

import errno
import os
import socket

from energyd_client.endpoints import MAX_IPC_PATH, ipc_path
from energyd_client.errors import DaemonAbsent, EnergydError, PermissionRefused

_WORDS = {
    errno.ENOENT: "there is no such socket",
    errno.ECONNREFUSED: "the socket is there, but no daemon listens",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EAGAIN: "the daemon's queue of new connections is full",
    errno.ENOTSOCK: "that file is no socket",
}
CONNECT_TIMEOUT_S = 0.5


def obstacle(endpoint: str) -> EnergydError | None:
    """What keeps us from `endpoint`; None if it can be connected to, or cannot be tried (tcp).

    The probing connection is closed at once; the daemon's socket drops it without a trace.
    """
    path = ipc_path(endpoint)
    if path is None:
        return None if "://" in endpoint else DaemonAbsent(endpoint, "that is no endpoint (ipc://PATH)")
    raw = os.fsencode(path)
    if len(raw) > MAX_IPC_PATH:
        return DaemonAbsent(endpoint, f"the path is longer than {MAX_IPC_PATH} bytes")
    if raw.startswith(b"@"):  # libzmq's mark for the abstract namespace
        raw = b"\0" + raw[1:]
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        probe.settimeout(CONNECT_TIMEOUT_S)
        probe.connect(raw)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        reason = _WORDS.get(number or 0) or str(error)
        denied = number in (errno.EACCES, errno.EPERM)
        return PermissionRefused(endpoint, reason) if denied else DaemonAbsent(endpoint, reason)
    finally:
        probe.close()
    return None
