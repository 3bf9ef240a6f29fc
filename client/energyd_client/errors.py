"""What can go wrong when something is asked of the daemon, and who can cure it?

    EnergydError
    ├── DaemonAbsent          nobody listens there: start the daemon, or correct the endpoint
    ├── KeyRefused            keys for another machine's daemon are missing, or not those that it allows
    ├── PermissionRefused     the socket is not for this user: join its group
    ├── DaemonTimeout         somebody listens and does not answer: look at the daemon
    └── DaemonRefused         the daemon answered no: `code` says why
        └── VersionMismatch   the two speak different protocols: upgrade the older side

Only questions raise these (`request.ask`, `Subscriber`). Markers never do: in a training process the
client logs and counts.
"""

from __future__ import annotations


class EnergydError(Exception):
    """Root of the tree. The text is for a person: what, where, cure."""


class DaemonAbsent(EnergydError):
    """Nobody listens at `endpoint`; `reason` is the system's word for it."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(
            f"energyd is not there: {reason}\nat {endpoint}\n"
            "start one: energyd start (or set ENERGYD_ENDPOINT)"
        )
        self.endpoint, self.reason = endpoint, reason


class PermissionRefused(EnergydError):
    """The socket at `endpoint` refuses this user."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(
            f"energyd may not be reached by this user: {reason}\nat {endpoint}\n"
            "join its group: usermod -aG energyd USER, then log in again"
        )
        self.endpoint, self.reason = endpoint, reason


class KeyRefused(EnergydError):
    """Over the network: no key, or one that the other side does not accept."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(f"{what}\n  cure: {cure}")


class DaemonTimeout(EnergydError):
    """No answer from `endpoint` within `timeout_s` seconds."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        super().__init__(
            f"energyd did not answer within {timeout_s:g} s\nat {endpoint}\n"
            "see its log: beside its store, or journalctl -u energyd; energyd stop, if it hangs"
        )
        self.endpoint, self.timeout_s = endpoint, timeout_s


class DaemonRefused(EnergydError):
    """The daemon refused the question. `code` and `field` as in PROTOCOL.md, `message` in its words."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(f"energyd refused ({code}): {message}")
        self.code, self.message, self.field = code, message, field


class VersionMismatch(DaemonRefused):
    """Daemon and client speak different protocol versions; the daemon's `message` names both."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__("version", message, field)
