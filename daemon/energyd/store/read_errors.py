"""Why could a store not be read, who can do something about it, and what?

ReadError                 all of the below; its text is what, where, cure
├── StoreNotFound         nothing there, or no store: point --store elsewhere
├── StoreForbidden        the operating system refuses: join the group
├── StoreUnreadable       files are damaged or vanish under the reader
├── DaemonUnresponsive    a daemon holds the store but does not answer
├── LakeAway              nobody answers where the lake is: try again
├── LakeForbidden         credentials that are wrong, missing or of another partition
├── LakeUnusable          an address that is none, an extension that is not here, nothing shipped yet
├── QueryMalformed        the SQL does not parse or names what is not there: the asker's to mend
└── QueryFailed           the SQL is fine, its execution was not
"""

from __future__ import annotations

from pathlib import Path


class ReadError(Exception):
    """A store could not be read or asked. The text holds what, where and cure in three lines or fewer."""


class StoreNotFound(ReadError):
    """There is no store at this path."""

    def __init__(self, store: Path, found: str) -> None:
        self.store = store
        super().__init__(
            f"no store at {store}: {found}\n  cure: --store DIR, or `energyd start` to begin one there"
        )


class StoreForbidden(ReadError):
    """The operating system does not let this user read the store."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        super().__init__(
            f"permission denied: {path}\n"
            "  cure: become a member of the store's group (energyd), or ask its owner"
        )


class StoreUnreadable(ReadError):
    """A file of the store is damaged or keeps vanishing."""

    def __init__(self, store: Path | str, why: str) -> None:
        self.store = store
        super().__init__(
            f"cannot read the store {store}: {why}\n"
            f"  cure: try again; if it stays, stop the daemon, then `energyd recover --store {store}`"
        )


class DaemonUnresponsive(ReadError):
    """A daemon holds the store's lock but did not answer in time."""

    def __init__(self, store: Path, endpoint: str | None, why: str) -> None:
        self.store, self.endpoint = store, endpoint
        where = f" at {endpoint}" if endpoint else ""
        super().__init__(
            f"the daemon of {store} does not answer{where}: {why}\n"
            "  cure: `energyd status`; `energyd stop` if it hangs"
        )


class LakeAway(ReadError):
    """Nobody answers where the lake, or its ledger, is."""


class LakeForbidden(ReadError):
    """The lake, or its ledger, does not take these credentials."""


class LakeUnusable(ReadError):
    """The lake cannot be asked as things are."""


class QueryMalformed(ReadError):
    """The SQL does not parse, or names a table or column that is not there."""


class QueryFailed(ReadError):
    """The query ran into an error: a bad cast, too little memory, a file it cannot write …"""
