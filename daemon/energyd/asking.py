"""Which daemon does a command mean, and what does it say? Errors become one message and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from energyd.exits import ABSENT, PERMISSION, fail
from energyd_client import endpoints

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the store. Default: the machine's.",
)


def holder_of(store: Path | None) -> tuple[dict[str, Any], Path]:
    """Who holds the lock of a store, as far as it says; {} if nobody lives there."""
    from energyd.store.lock import living_holder

    lock = (store or endpoints.default_store()).absolute() / "lock"
    try:
        return living_holder(lock), lock
    except FileNotFoundError:
        return {}, lock
    except PermissionError:
        fail(f"may not read {lock}\n  cure: join its group: usermod -aG energyd USER", PERMISSION)


def endpoint_of(store: Path | None) -> str:
    """The socket of the daemon meant: of --store, else ENERGYD_ENDPOINT, else the machine's."""
    if store is None:
        return endpoints.default_endpoint()
    holder, lock = holder_of(store)
    if not holder:
        fail(f"no daemon runs on {lock.parent}\n  cure: `energyd start --store {lock.parent}`", ABSENT)
    return str(holder["endpoint"])


def ask_status(endpoint: str) -> dict[str, Any]:
    """The status of the daemon there (PROTOCOL.md); ends the command where there is none."""
    from energyd_client.errors import EnergydError, PermissionRefused
    from energyd_client.protocol import AskStatus
    from energyd_client.request import ask

    try:
        return ask(endpoint, AskStatus(req=1), timeout_s=5)
    except PermissionRefused as error:
        fail(str(error), PERMISSION)
    except EnergydError as error:
        fail(str(error), ABSENT)
