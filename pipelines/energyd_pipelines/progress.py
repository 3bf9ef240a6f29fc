"""What does the person at the terminal see meanwhile? A line that rewrites itself, and what is finished."""

from __future__ import annotations

import sys
import time


class Progress:
    """Lines on stdout; nothing moves where it is no terminal. `quiet`: nothing at all (other ranks)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stdout.isatty() and not quiet
        self._last = 0.0
        self._said: set[str] = set()

    def now(self, text: str) -> None:
        """Say what is going on; at most ten times a second, and free where nobody watches."""
        if self.live and time.monotonic() - self._last > 0.1:
            self._last = time.monotonic()
            sys.stdout.write(f"\r\x1b[2K{text}")
            sys.stdout.flush()

    def done(self, text: str) -> None:
        """Say what is finished, for good."""
        if not self.quiet:
            sys.stdout.write(f"\r\x1b[2K{text}\n" if self.live else f"{text}\n")
            sys.stdout.flush()

    def once(self, text: str) -> None:
        """What holds for all cells of a study, said by the first of them."""
        if text not in self._said:
            self._said.add(text)
            self.done(text)
