"""How does the daemon say what happens? One line each on stderr, with a priority where the journal reads."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Of syslog, as sd-daemon(3) wants them before a line."""


class OneLine(logging.Formatter):
    """A record on a line, whatever is in it: a journal takes each line for a message of its own."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = " | ".join(part.strip() for part in super().format(record).splitlines() if part.strip())
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._journal else line


def journal_reads(fd: int) -> bool:
    """Whether that descriptor is the journal's own, by JOURNAL_STREAM (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def begin_logging() -> None:
    """From now on, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(journal_reads(sys.stderr.fileno())))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
