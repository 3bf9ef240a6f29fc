"""How do exporters hear the daemon? One subscriber and one thread for all of them."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from energyd.exporters.figures import Family, Figures
from energyd_client.subscriber import Subscriber

log = logging.getLogger("energyd")

TOPICS: Final = ("health", "devices", "stages/")
"""Not the samples: what is exported once in 10 s or so needs none of them."""

STALE_S: Final = 10.0
"""Without a health word for so long the figures are no longer told as those of now."""


class Feed:
    """The figures as last heard. `families` may be called by any thread."""

    def __init__(self, endpoint: str) -> None:
        self.figures = Figures()
        self.lock = threading.Lock()  # never held while anything waits
        self._endpoint = endpoint
        self._heard_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exporters", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def families(self) -> list[Family]:
        """Every metric with a value; none while the daemon is not heard."""
        with self.lock:
            if self._heard_s is None or time.monotonic() - self._heard_s > STALE_S:
                return []
            return self.figures.families()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with Subscriber(self._endpoint, TOPICS) as heard:
            while not self._stop.is_set():
                message = heard.receive(timeout_s=0.5)
                if message is None:
                    continue
                try:
                    with self.lock:
                        self.figures.take(message)
                        self.figures.lost = heard.lost
                        if message.TYPE == "health":
                            self._heard_s = time.monotonic()
                except Exception:  # a bug here must cost one message, not the page for ever
                    log.exception("exporters: unexpected error, going on")
