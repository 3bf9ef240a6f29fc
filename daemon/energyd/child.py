"""How is a command run as if nobody stood between it and its caller?

Signals that the terminal sends to the whole foreground group (Ctrl-C, Ctrl-\\) reach the command by
themselves; those that somebody sends to us alone are passed on. The exit code is the shell's: 128 + n for a
death by signal n.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from typing import Final

FORWARDED: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
_SI_KERNEL: Final = 0x80
"""How siginfo marks a signal that the terminal, not a process, sent."""


class CannotRun(Exception):
    """There is no such command (127), or it may not be executed (126): the shell's codes."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check(command: Sequence[str]) -> None:
    """Whether there is such a command; so that nothing is begun for a slip of the pen. Raises CannotRun."""
    if shutil.which(command[0]) is None:
        if os.path.sep in command[0] and os.path.exists(command[0]):  # noqa: PTH110 - as the shell asks
            raise CannotRun(f"{command[0]}: permission denied", NOT_EXECUTABLE)
        raise CannotRun(f"{command[0]}: command not found", NOT_FOUND)


class Signals:
    """While this is entered, signals wait for `run` instead of interrupting us.

    Enter it before any thread is started: threads take over what is blocked.
    """

    def __enter__(self) -> Signals:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by some callers; then nobody could wait
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def run(self, command: Sequence[str], environment: dict[str, str]) -> int:
        """Run a command to its end; its exit code as a shell says it. Raises CannotRun."""
        try:
            pid = os.posix_spawnp(
                command[0], list(command), environment, setsigmask=self._before,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, for itself
            )  # fmt: skip
        except PermissionError as error:
            raise CannotRun(f"{command[0]}: permission denied", NOT_EXECUTABLE) from error
        except OSError as error:
            raise CannotRun(f"{command[0]}: {error.strerror}", NOT_FOUND) from error
        while True:
            got = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
            if got.si_signo != signal.SIGCHLD:
                if got.si_code != _SI_KERNEL:
                    os.kill(pid, got.si_signo)
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
