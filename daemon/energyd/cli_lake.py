"""What can be typed after `energyd` to get a store into a fleet's lake, and the lake into its ledger?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from energyd.asking import store_option
from energyd.exits import CONFIG, DEGRADED, FAILED, PERMISSION, TRY_AGAIN, fail

keys_option = click.option(
    "--lake-keys", type=click.Path(path_type=Path), help="Credentials, mode 0600; else the environment's."
)


@click.command()
@store_option
@click.option("--lake", metavar="URL", help="A folder, or s3://BUCKET/PREFIX; else ENERGYD_LAKE.")
@keys_option
@click.option("--ship", metavar="raw|1s", help="All samples, or one a second. [default: raw]")
def ship(store: Path | None, lake: str | None, **flags: Any) -> None:
    """Seal what a stopped store holds and ship all of it: for a node that goes away.

    \b
    Example:
      energyd ship --store ./my-store --lake /mnt/lake
    """
    from energyd.config import ConfigError, resolve
    from energyd.ship_store import NotShipped, ship_store
    from energyd.store.lock import AlreadyRunning
    from energyd.store.write import StoreError

    os.umask(0o027)
    try:
        config = resolve(store=store, lake=lake, **flags)
        done = ship_store(config)
    except AlreadyRunning as error:
        fail(f"a daemon writes to this store, and ships it hour by hour: {error}", FAILED)
    except (ConfigError, StoreError) as error:
        fail(str(error), CONFIG)
    except PermissionError as error:
        fail(f"cannot write {error.filename}: {error.strerror}\n  cure: as its owner", PERMISSION)
    except NotShipped as error:
        fail(str(error), PERMISSION if error.for_good else TRY_AGAIN)
    for why in done.refused:
        click.echo(f"energyd: {why}", err=True)
    click.echo(f"{done.files} segments ({done.bytes / 1e6:.1f} MB) are in {config.lake}", err=True)
    if done.refused:
        raise SystemExit(DEGRADED)


@click.command()
@click.option("--lake", metavar="URL", required=True, help="Where hosts ship to.")
@click.option(
    "--ledger", metavar="URL", required=True, help="postgresql://USER@HOST/DATABASE, without password."
)
@keys_option
def register(lake: str, ledger: str, lake_keys: Path | None) -> None:
    """Add what hosts have shipped to a ledger, DuckLake on PostgreSQL; again and again, from a timer.

    Exits 4 if some segment cannot be added.

    \b
    Example:
      energyd register --lake s3://energy/fleet --ledger postgresql://energy@db/ledger
    """
    from energyd.store.lake import LakeError, LakeRefused, LakeUnreachable
    from energyd.store.lake_register import register as add
    from energyd.store.read_errors import LakeAway, LakeForbidden, ReadError

    try:
        done = add(lake, ledger, lake_keys or _keys_of_environment())
    except (LakeRefused, LakeForbidden) as error:
        fail(str(error), PERMISSION)
    except (LakeUnreachable, LakeAway) as error:
        fail(str(error), TRY_AGAIN)
    except (LakeError, ReadError) as error:
        fail(str(error), CONFIG)
    for key, why in list(done.left_out.items())[:3]:
        click.echo(f"energyd: {key} {why}", err=True)
    left = f", {len(done.left_out)} left out" if done.left_out else ""
    click.echo(f"{done.added} segments added, {done.known} were there, of {done.hosts} hosts{left}", err=True)
    if done.left_out:
        raise SystemExit(DEGRADED)


def _keys_of_environment() -> Path | None:
    from energyd.store.lake_keys import ENV_KEYS

    named = os.environ.get(ENV_KEYS)
    return Path(named) if named else None


COMMANDS = (ship, register)
