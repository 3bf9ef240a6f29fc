"""What does a user read when something cannot be done: what, where, cure?"""

from __future__ import annotations

from typing import Final

AGAIN: Final = 75
"""Exit code: time is up, the same command goes on."""


class DistillError(Exception):
    """Something that the user can mend; `str()` is at most three lines, `code` the exit code."""

    def __init__(self, what: str, *, where: str = "", cure: str = "", code: int = 1) -> None:
        self.what, self.where, self.cure, self.code = what, where, cure, code
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if cure:
            lines.append(f"  cure: {cure}")
        super().__init__("\n".join(lines))
