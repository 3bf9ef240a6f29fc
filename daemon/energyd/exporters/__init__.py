"""How do monitoring systems get the daemon's figures? A page that Prometheus reads, a push by OTLP.

Both are off unless asked for. They hear what any subscriber hears, over the publishing socket, in threads
of their own: publishing never waits for a slow reader, so neither a scraper nor a collector that hangs can
hold up sampling or storing. What they show is at most one health word (1 s) old, also that which unprivileged
users may thus learn of RAPL: slower than its side channel needs (CVE-2020-8694).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from energyd.config import Config, ConfigError

if TYPE_CHECKING:
    from energyd.exporters.feed import Feed
    from energyd.exporters.otlp import Pusher
    from energyd.exporters.prometheus import Page

__all__ = ["Exports", "address"]


class Exports:
    """What a daemon's settings ask for. Made early, so that an address in use ends the start."""

    def __init__(self, config: Config) -> None:
        """Bind what is to be bound. Raises ConfigError."""
        self._feed: Feed | None = None
        self._page: Page | None = None
        self._pusher: Pusher | None = None
        if not (config.metrics or config.otlp):
            return
        # Loaded where asked for: HTTP is a twentieth of a daemon's start.
        from energyd.exporters.feed import Feed
        from energyd.exporters.otlp import Pusher
        from energyd.exporters.prometheus import Page

        self._feed = Feed(config.publish)
        if config.otlp:
            if not re.match(r"https?://[^/]", config.otlp):
                raise ConfigError(f"cannot read --otlp {config.otlp}\n  cure: such as http://127.0.0.1:4318")
            self._pusher = Pusher(config.otlp, self._feed)
        if config.metrics:
            try:
                self._page = Page(address(config.metrics), self._feed)
            except OSError as error:
                raise ConfigError(
                    f"cannot serve metrics on {config.metrics}: {error.strerror}\n"
                    f"  cure: another --metrics HOST:PORT; under systemd, RestrictAddressFamilies=AF_INET too"
                ) from error

    def start(self) -> None:
        """Begin to listen, once the daemon publishes."""
        for part in (self._feed, self._page, self._pusher):
            if part is not None:
                part.start()

    def close(self) -> None:
        """End the threads and let go of the address."""
        for part in (self._page, self._pusher, self._feed):
            if part is not None:
                part.close()


def address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT. Raises ConfigError."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65_535:
        raise ConfigError(f"cannot read --metrics {text}\n  cure: such as 127.0.0.1:9477")
    return found[1] or found[2], int(found[3])
