"""Are a daemon's places fit for it: its socket, its store and that one's disk, its systemd unit?

What `energyd.places` found, as rows with cures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from energyd.doctor_case import Case, Hung, Row

_LOW_BYTES: Final = 1_000_000_000
"""Of room, some days of 8 GPUs."""

_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph"})


def _found(case: Case, which: str) -> dict[str, Any] | Row:
    try:
        found = case.probed(which)
    except (Hung, RuntimeError) as error:
        return Row(which, which, "degraded", str(error), "see the kernel's log and `systemctl status`")
    case.facts.setdefault("places", {})[which] = found
    return found


def check_socket(case: Case) -> list[Row]:
    """Can programs of this user reach a daemon where they look for one?"""
    found = _found(case, "socket")
    if isinstance(found, Row):
        return [found]
    at = found["endpoint"] if found["rights"] is None else f"{found['endpoint']}, {found['rights']}"
    if found["permission"]:
        return [Row("socket", "socket", "degraded", f"{at}: permission denied", found["cure"])]
    if found["refused"] is None:
        return [Row("socket", "socket", "ok", at)]
    if found["exists"]:
        cure = "energyd start (the file may stay)"
        return [Row("socket", "socket", "note", f"{at}: left behind, no daemon listens", cure)]
    return [Row("socket", "socket", "absent", f"{at}: no such file")]


def check_store(case: Case) -> list[Row]:
    """May it be read, and is there room on its disk?"""
    found = _found(case, "store")
    if isinstance(found, Row):
        return [found]
    if not found["exists"]:
        return [Row("store", "store", "absent", f"none at {found['store']}")]
    what = f"{found['store']}, {found['rights']}"
    rows = [Row("store", "store", "ok", what)]
    if not found["readable"]:
        cure = "join its group: usermod -aG energyd USER, then log in again"
        rows = [Row("store", "store", "degraded", f"{what}: may not be read", cure)]
    room = f"{found['free_bytes'] / 1e9:.1f} GB free, {found['filesystem']}"
    if found["free_bytes"] < _LOW_BYTES or found["free_inodes"] == 0:
        cure = "a smaller --max-size, or a larger disk: samples wait in memory when it is full"
        rows.append(Row("store", "disk", "degraded", room, cure))
    elif found["filesystem"] in _REMOTE:
        cure = "a --store on a local disk: locks and renames over the network are not to be relied on"
        rows.append(Row("store", "disk", "degraded", room, cure))
    else:
        rows.append(Row("store", "disk", "ok", room))
    return rows


def check_unit(case: Case) -> list[Row]:
    """Is energyd a service here, and does that run?"""
    found = _found(case, "unit")
    if isinstance(found, Row):
        return [found]
    if not found["systemd"]:
        return [Row("unit", "unit", "absent", "no systemd manager answers here")]
    if found["LoadState"] != "loaded":
        return [Row("unit", "unit", "absent", "no service is installed", "energyd install-service")]
    what = f"{found['ActiveState']} ({found['SubState']}), restarted {found['NRestarts']} times"
    if found["ActiveState"] == "failed":
        what = f"{what}: {found['Result']}, exit code {found['ExecMainStatus']}"
        cure = "journalctl -u energyd says why; then systemctl restart energyd"
        return [Row("unit", "unit", "degraded", what, cure)]
    if found["NeedDaemonReload"] == "yes":
        return [Row("unit", "unit", "note", f"{what}; its file has changed", "systemctl daemon-reload")]
    return [Row("unit", "unit", "ok" if found["ActiveState"] == "active" else "note", what)]


PLACE_CHECKS: Final[tuple[Callable[[Case], list[Row]], ...]] = (check_socket, check_store, check_unit)
