"""Where do the daemon, its store and its spool live? Every address and environment variable, once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

ENV_ENDPOINT: Final = "ENERGYD_ENDPOINT"
ENV_SPOOL: Final = "ENERGYD_SPOOL"
ENV_RUN_ID: Final = "ENERGYD_RUN_ID"
ENV_STAGE_ID: Final = "ENERGYD_STAGE_ID"
ENV_DISABLE: Final = "ENERGYD_DISABLE"

SYSTEM_RUNTIME: Final = Path("/run/energyd")
SYSTEM_STATE: Final = Path("/var/lib/energyd")
SOCKET_NAME: Final = "energyd.sock"
MAX_IPC_PATH: Final = 107
"""Longest path of a Unix socket (`sun_path` less its end mark)."""


def is_disabled() -> bool:
    """Whether ENERGYD_DISABLE makes the client free: nothing is marked, nobody is asked."""
    return os.environ.get(ENV_DISABLE, "") not in ("", "0")


def _is_machines() -> bool:
    """Whether the machine's service is meant: where it exists, or we are root.

    Who may not look into its folder is not of its group and is to hear that, unless a daemon of his runs.
    """
    if os.geteuid() == 0:
        return True
    try:
        (SYSTEM_RUNTIME / SOCKET_NAME).stat()
    except PermissionError:
        return not os.access(_own_runtime_dir() / SOCKET_NAME, os.F_OK)
    except OSError:
        return False
    return True


def runtime_dir() -> Path:
    """The socket's folder: the system service's where it exists or we are root, else the user's own."""
    return SYSTEM_RUNTIME if _is_machines() else _own_runtime_dir()


def _own_runtime_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "energyd"
    import tempfile  # 3 ms that few need

    return Path(tempfile.gettempdir()) / f"energyd-{os.geteuid()}"


def state_dir() -> Path:
    """The folder of store and spool, chosen like `runtime_dir`."""
    if _is_machines():
        return SYSTEM_STATE
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "energyd"


def default_store() -> Path:
    """The store of the daemon that ENERGYD_ENDPOINT names (its socket's lock says which), else the machine's.

    A private daemon's socket lies in its store, so that the store is found after the daemon's end too.
    """
    path = ipc_path(os.environ.get(ENV_ENDPOINT) or "")
    if path is not None:
        try:
            said = re.search(r'"store": "([^"]+)"', Path(f"{path}.lock").read_text())
        except OSError:
            said = None
        if said:
            return Path(said.group(1))
        if os.access(path.parent / "hot.duckdb", os.F_OK):  # False, too, where we may not look
            return path.parent
    return state_dir() / "store"


def default_endpoint() -> str:
    """ENERGYD_ENDPOINT, else the socket of the machine's (or the user's) daemon."""
    return os.environ.get(ENV_ENDPOINT) or f"ipc://{runtime_dir() / SOCKET_NAME}"


def default_spool() -> Path:
    """ENERGYD_SPOOL, else the spool beside the default store."""
    spool = os.environ.get(ENV_SPOOL)
    return Path(spool) if spool else state_dir() / "spool"


def ipc_path(endpoint: str) -> Path | None:
    """The socket file of an `ipc://` endpoint; None for any other transport."""
    return Path(endpoint[6:]) if endpoint.startswith("ipc://") else None
