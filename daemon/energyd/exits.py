"""With which exit code does a command end, and how does it say why?"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

import click

FAILED: Final = 1
USAGE: Final = 2
ABSENT: Final = 3
DEGRADED: Final = 4
PERMISSION: Final = 5
TRY_AGAIN: Final = 75
"""Only a fresh process can go on: what starts the daemon should start it again."""
CONFIG: Final = 78
"""Settings or a store that cannot be: starting again would fail the same."""


def fail(message: str, code: int) -> NoReturn:
    """One message for a person, on stderr, and the exit code."""
    click.echo(f"energyd: {message}", err=True)
    sys.exit(code)
