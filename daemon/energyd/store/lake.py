"""Where does a segment lie in a lake that many hosts ship to? Names and addresses, nothing that does work.

    <lake>/<table>/host=<id>/day=<day>/<name>.parquet     a sealed file as it was sealed, or thinned
    <lake>/hosts/host=<id>.json                           who that is, how far he has shipped, his clock

The names are those of the store (`energyd.store`), and `counting` tells for a folder here, too, which files
count. A segment's name never comes to mean other rows, so that shipping it again is harmless.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from energyd.store import DAY_FILE, TABLES, THIN_FILE, end_hour, is_hour_file

HOSTS: Final = "hosts"
HOST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A store's own is 16 hexadecimal digits; whoever gives one by hand may use a name."""
_KEY: Final = re.compile(r"(\w+)/host=([^/]+)/(day=\d{4}-\d\d-\d\d)/([\w.]+)")


class LakeError(Exception):
    """A lake cannot be used: what, where, cure in the text, three lines at most, and never a credential."""


class LakeRefused(LakeError):
    """It will not take this, however often it is tried: credentials, another's partition, another content."""


class LakeTaken(LakeRefused):
    """Another content lies under that name; other names may be free."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} is in the lake with another content: two machines with one host id (a copied store?)\n"
            "  cure: begin a new store on one of them; what could not be shipped is in outbox/refused"
        )


class LakeUnreachable(LakeError):
    """Nobody answers there, or the disk is not mounted: it may be tried again."""


@dataclass(frozen=True)
class Segment:
    """One file of a lake."""

    table: str
    host: str
    day: str  # day=2026-11-24
    name: str

    @property
    def key(self) -> str:
        """Its path below the lake."""
        return f"{self.table}/host={self.host}/{self.day}/{self.name}"


def parse(key: str) -> Segment | None:
    """The segment of a path below a lake; None for whatever else lies there."""
    found = _KEY.fullmatch(key)
    if found is None or found[1] not in TABLES or not HOST_ID.fullmatch(found[2]):
        return None
    if not (is_hour_file(found[4]) or found[4] in (DAY_FILE, THIN_FILE)):
        return None
    try:
        end_hour(found[3])
    except ValueError:  # day=2025-13-01
        return None
    return Segment(*found.groups())


def told_host(key: str) -> str | None:
    """Whose words lie under a path below a lake; None for whatever else lies there."""
    host = key.removeprefix(f"{HOSTS}/host=").removesuffix(".json")
    return host if key == host_file(host) and HOST_ID.fullmatch(host) else None


def host_file(host: str) -> str:
    """The key of what a host says of himself."""
    return f"{HOSTS}/host={host}.json"


@dataclass(frozen=True)
class Address:
    """A lake as people name it: a folder, or s3://BUCKET/PREFIX."""

    bucket: str | None  # None: a folder
    path: str  # of the folder; of S3 the prefix

    @property
    def url(self) -> str:
        """As it is shown."""
        return self.path if self.bucket is None else f"s3://{self.bucket}/{self.path}".rstrip("/")

    @property
    def folder(self) -> Path:
        """Of a lake that is one."""
        assert self.bucket is None
        return Path(self.path)


def address(text: str) -> Address:
    """Read a lake's address: /a/folder, file:///a/folder or s3://bucket/prefix. Raises LakeError."""
    if "://" not in text and text:
        return Address(None, str(Path(text).absolute()))
    parts = urlsplit(text)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return Address(None, parts.path)
    if "@" in parts.netloc:
        raise LakeError(
            "the lake's address holds credentials, which every process list and log would show\n"
            "  cure: --lake-keys FILE (mode 0600), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme == "s3" and parts.netloc:
        return Address(parts.netloc, parts.path.strip("/"))
    raise LakeError(f"{text or 'nothing'} is no address of a lake\n  cure: a folder, or s3://BUCKET/PREFIX")
