"""How does all of a stopped store get into a lake, its unsealed rest too? Sealed as it is, then shipped."""

from __future__ import annotations

import socket
import time

from energyd.config import Config, ConfigError
from energyd.store import HOUR_NS, Layout
from energyd.store.lock import DaemonLock
from energyd.store.outbox import Outbox
from energyd.store.ship_files import Order, Outcome, ship
from energyd.store.write import HotStore
from energyd_client.version import __version__


class NotShipped(Exception):
    """Something waits in the outbox still; the text says why. `for_good`: trying again will not help."""

    def __init__(self, message: str, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good


def ship_store(config: Config) -> Outcome:
    """Seal and ship. Raises AlreadyRunning, ConfigError, StoreError, NotShipped, OSError."""
    layout = Layout(config.store)
    if config.lake is None:
        raise ConfigError("where to ship to is not said\n  cure: --lake URL, or ENERGYD_LAKE")
    if not layout.hot.exists():
        raise ConfigError(f"no store at {config.store}\n  cure: --store DIR")
    lock = DaemonLock(layout.lock)
    try:
        store = HotStore(layout)
        try:
            now = time.time_ns() // HOUR_NS
            hour = store.hour(now)
            # An hour of its own, also if it is sealed before its end: what comes later goes to the next.
            if store.fetch("SELECT 1 FROM samples UNION ALL SELECT 1 FROM markers LIMIT 1"):
                store.seal(hour, hour + 1)
                hour = store.hour(now)
            host = store.meta("host_id") or ""
        finally:
            store.close()
        # By the hour, whatever the setting: nobody is there to make the day one file.
        Outbox(config.store, config.outbox_bytes).collect(hour)
        keys = None if config.lake_keys is None else str(config.lake_keys)
        about = {"hostname": socket.gethostname(), "version": __version__}
        done = ship(Order(str(config.store), host, config.lake, keys, config.ship, about))
    finally:
        lock.release()
    if done.error is not None:
        raise NotShipped(done.error, done.for_good)
    return done
