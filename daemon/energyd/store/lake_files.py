"""How is a file put into a lake so that its name never comes to mean something else? A folder, or S3.

Each put makes a name that was not there: a hard link in a folder, `If-None-Match: *` on S3. Where the name is
taken, the content is compared: the same is what a retry finds, another is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from energyd.store import TABLES
from energyd.store.durable import sync
from energyd.store.lake import HOSTS, Address, LakeError, LakeRefused, LakeTaken, LakeUnreachable
from energyd.store.lake_keys import s3_options
from energyd.store.sums import digest

RETRIES: Final = 2
"""Of a request, at once; a lake that is down is tried again by the daemon, minutes later."""
S3_STEP_S: Final = 1.0
"""S3 tells when an object was made to the second, cut off."""


class Lake(Protocol):
    """Where segments are put."""

    def put(self, key: str, file: Path) -> bool:
        """Put a file under a name that is its own; False if it was there already. Raises LakeError."""

    def tell(self, key: str, text: str) -> tuple[float, float]:
        """Put a small text, over the one before; (wall clock here less that there, its doubt), seconds."""

    def read(self, key: str) -> bytes | None:
        """The content of a name; None if there is none. Raises LakeError."""

    def names(self) -> Iterator[str]:
        """Every name there is, of segments and hosts. Raises LakeError."""


def open_lake(where: Address, keys: Mapping[str, str]) -> Lake:
    """The lake at an address. Raises LakeError; nothing is asked of it yet."""
    return FolderLake(where.folder) if where.bucket is None else S3Lake(where, keys)


class FolderLake:
    """A folder: a disk, NFS or another mount. It must be there: an empty mount point is no lake."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, file: Path) -> bool:
        """As Lake has it."""
        final = self._root / key
        with self._explained(final):
            self._is_there()
            final.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            with self._aside(final) as aside:
                with file.open("rb") as source, aside.open("xb") as target:
                    while piece := source.read(1 << 20):
                        target.write(piece)
                aside.chmod(0o640)
                sync(aside)
                try:
                    os.link(aside, final)
                except OSError as error:
                    if isinstance(error, FileExistsError) or final.exists():
                        if digest(final) != digest(file):
                            raise LakeTaken(key) from None
                        return False
                    aside.rename(final)  # a file system without hard links
            sync(final.parent)
        return True

    def tell(self, key: str, text: str) -> tuple[float, float]:
        """As Lake has it."""
        final = self._root / key
        with self._explained(final):
            self._is_there()
            final.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            with self._aside(final) as aside:
                before = time.time()
                aside.write_text(text)
                after = time.time()
                aside.chmod(0o640)
                there = aside.stat().st_mtime  # by the clock of whoever serves the folder
                aside.replace(final)
        return (before + after) / 2 - there, (after - before) / 2 + 0.01  # a kernel tick or two

    def read(self, key: str) -> bytes | None:
        """As Lake has it."""
        with self._explained(self._root / key, "read"):
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

    def names(self) -> Iterator[str]:
        """As Lake has it."""
        with self._explained(self._root, "read"):
            self._is_there()
            for part in (*TABLES, HOSTS):
                for folder, _, names in os.walk(f"{self._root}/{part}", onerror=_unless_gone):
                    below = folder.removeprefix(f"{self._root}/")
                    yield from (f"{below}/{name}" for name in names)

    def _is_there(self) -> None:
        if not self._root.is_dir():
            raise LakeUnreachable(
                f"no folder {self._root}: not mounted, or never made\n  cure: mount it, or make it once"
            )

    @contextlib.contextmanager
    def _aside(self, final: Path) -> Iterator[Path]:
        aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        aside.unlink(missing_ok=True)
        try:
            yield aside
        finally:
            aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, path: Path, doing: str = "write") -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            if doing == "read":
                raise LakeRefused(
                    f"uid {os.geteuid()} may not read {error.filename or path}\n"
                    "  cure: become a member of that folder's group, or ask the lake's owner"
                ) from error
            raise LakeRefused(
                f"uid {os.geteuid()} may not write {error.filename or path}: another host's partition?\n"
                "  cure: give that folder to the daemon's user (docs/fleet.md)"
            ) from error
        except OSError as error:
            raise LakeUnreachable(
                f"cannot {doing} {path}: {error.strerror}\n  cure: mount it, or make room; it is tried again"
            ) from error


def _unless_gone(error: OSError) -> None:
    """What os.walk shall do about a folder that it cannot read: an answer without its rows is none."""
    if not isinstance(error, FileNotFoundError):
        raise error


class S3Lake:
    """A bucket of S3, or of whatever speaks as it does."""

    def __init__(self, where: Address, keys: Mapping[str, str]) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise LakeError(
                "S3 needs the package obstore\n  cure: pip install 'energyd[daemon,ship]'"
            ) from None
        config, client = s3_options(keys)
        if "access_key_id" not in config or "secret_access_key" not in config:
            raise LakeRefused(
                f"no credentials for {where.url}\n"
                "  cure: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment or --lake-keys FILE"
            )
        self._obstore: Any = obstore
        self._where = where
        self._store: Any = S3Store(
            where.bucket or "", prefix=where.path or None,
            config={**config, "checksum_algorithm": "SHA256"},  # type: ignore[arg-type]
            client_options=client, retry_config={"max_retries": RETRIES},  # type: ignore[arg-type]
        )  # fmt: skip

    def put(self, key: str, file: Path) -> bool:
        """As Lake has it."""
        with self._explained(key):
            try:
                self._obstore.put(self._store, key, file, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                found = hashlib.sha256()
                for piece in self._obstore.get(self._store, key):
                    found.update(piece)
                if found.hexdigest() != digest(file):
                    raise LakeTaken(key) from None
                return False
        return True

    def tell(self, key: str, text: str) -> tuple[float, float]:
        """As Lake has it."""
        with self._explained(key):
            before = time.time()
            self._obstore.put(self._store, key, text.encode())
            after = time.time()
            made = self._obstore.head(self._store, key)["last_modified"].timestamp() + S3_STEP_S / 2
        return (before + after) / 2 - made, (after - before) / 2 + S3_STEP_S / 2

    def read(self, key: str) -> bytes | None:
        """As Lake has it."""
        with self._explained(key):
            try:
                return bytes(self._obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    def names(self) -> Iterator[str]:
        """As Lake has it."""
        with self._explained(""):
            for part in (*TABLES, HOSTS):
                for page in self._obstore.list(self._store, f"{part}/"):
                    yield from (str(found["path"]) for found in page)

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Errors of the client as ours. Only its first words are told: they name no credential."""
        name = f"{self._where.url}/{key}"
        known = self._obstore.exceptions
        try:
            yield
        except LakeError:
            raise
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            if "RequestTimeTooSkewed" in str(error):
                raise LakeUnreachable(
                    f"{name}: the wall clock here is too far off for S3\n"
                    "  cure: set it (NTP); what waits is shipped then"
                ) from error
            raise LakeRefused(
                f"{name}: the credentials are wrong, or not for this host's partition (S3 says forbidden)\n"
                "  cure: the key in --lake-keys or AWS_ACCESS_KEY_ID; its policy (docs/fleet.md)"
            ) from error
        except FileNotFoundError as error:
            raise LakeRefused(f"{name}: no such bucket\n  cure: make it, or another --lake") from error
        except (known.BaseError, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            if "NoSuchBucket" in str(error):  # of a list, which says it in its own way
                raise LakeRefused(f"{name}: no such bucket\n  cure: make it, or another --lake") from error
            if re.search(r"\b403\b|Forbidden", why):
                raise LakeRefused(f"{name}: S3 says forbidden\n  cure: the key, or its policy") from error
            raise LakeUnreachable(
                f"{name}: {why.partition(', after')[0][:160]}\n"
                "  cure: is it up, and AWS_ENDPOINT_URL right? What waits to be shipped is tried again"
            ) from error
