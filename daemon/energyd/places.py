"""What do a daemon's places look like: its socket, its store and that one's disk, its systemd unit?

    python -m energyd.places socket ENDPOINT | store PATH | unit --system|--user

Prints facts as one JSON object. A process of its own for the doctor, since a file system or a manager may
hang as a driver may; it imports little, so that it answers at once.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from energyd_client import endpoints, reach
from energyd_client.errors import PermissionRefused

_UNIT_KEYS: Final = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "ExecMainStatus", "NeedDaemonReload",
)  # fmt: skip


def look(which: str, where: str) -> dict[str, Any]:
    """Facts of `socket` (at an endpoint), `store` (at a path) or `unit` (`--system` or `--user`)."""
    return {"socket": _socket, "store": _store, "unit": _unit}[which](where)


def _socket(endpoint: str) -> dict[str, Any]:
    obstacle = reach.obstacle(endpoint)
    path = endpoints.ipc_path(endpoint)
    told = str(obstacle).splitlines() if obstacle else [None]
    return {
        "endpoint": endpoint,
        "exists": path is not None and os.access(path, os.F_OK),
        "refused": told[0],
        "cure": told[-1],
        "permission": isinstance(obstacle, PermissionRefused),
        "rights": _rights(path) if path is not None and os.access(path, os.F_OK) else None,
    }


def _store(where: str) -> dict[str, Any]:
    store = Path(where)
    if not os.access(store, os.F_OK):
        return {"store": where, "exists": False}
    disk = os.statvfs(store)
    return {
        "store": where,
        "exists": True,
        "readable": os.access(store / "hot.duckdb", os.R_OK) or not (store / "hot.duckdb").exists(),
        "rights": _rights(store),
        "filesystem": _filesystem(store),
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "free_inodes": disk.f_favail if disk.f_files else None,
    }


def _unit(scope: str) -> dict[str, Any]:
    if not Path("/run/systemd/system").exists() or shutil.which("systemctl") is None:
        return {"systemd": False}
    out = subprocess.run(
        ["systemctl", scope, "show", "energyd.service", *(f"--property={key}" for key in _UNIT_KEYS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if out.returncode:
        return {"systemd": False}
    return {"systemd": True, **dict(line.split("=", 1) for line in out.stdout.splitlines() if "=" in line)}


def _rights(path: Path) -> str:
    """Mode, owner and group as `ls -l` has them."""
    found = path.stat()
    names = []
    for number, table in ((found.st_uid, pwd.getpwuid), (found.st_gid, grp.getgrgid)):
        try:
            names.append(str(table(number)[0]))
        except KeyError:
            names.append(str(number))
    return f"{stat.filemode(found.st_mode)} {':'.join(names)}"


def _filesystem(path: Path) -> str | None:
    """Its type, by the longest mount point that holds it."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    holding = [(where, kind) for where, kind in mounts if path.resolve().is_relative_to(where)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(*sys.argv[1:])))
