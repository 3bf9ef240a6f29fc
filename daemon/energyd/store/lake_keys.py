"""With which credentials is a lake used? A file of mode 0600, else the environment; never argv, never a log.

The file holds lines NAME=VALUE with the names that the AWS tools use: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL; and PGPASSWORD for a ledger.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from energyd.store.lake import LakeError, LakeRefused

ENV_KEYS: Final = "ENERGYD_LAKE_KEYS"
NAMES: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "PGPASSWORD",
)  # fmt: skip


class Keys(dict[str, str]):
    """{name: value}. Its text never shows a value, wherever it may be printed."""

    def __repr__(self) -> str:
        return f"Keys({', '.join(self)})"

    __str__ = __repr__


def read_keys(file: Path | None) -> Keys:
    """The credentials of `file`, over those of the environment. Raises LakeRefused."""
    found = Keys({name: os.environ[name] for name in NAMES if os.environ.get(name)})
    if file is not None:
        found.update(_read(file))
    return found


def _read(file: Path) -> Mapping[str, str]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, encoding="utf-8") as opened:
            mode = os.fstat(fd).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise LakeRefused(
                    f"others may read the credentials in {file} (mode {stat.S_IMODE(mode):04o})\n"
                    f"  cure: chmod 600 {file}"
                )
            lines = opened.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise LakeRefused(
            f"cannot read the credentials in {file}: {why}\n  cure: --lake-keys FILE, mode 0600"
        ) from None
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, is_pair, value = text.removeprefix("export ").partition("=")
        if not is_pair or name.strip() not in NAMES:
            raise LakeRefused(  # the line itself may be a secret
                f"line {number} of {file} is no NAME=VALUE of a name that is used here\n"
                f"  cure: {', '.join(NAMES)}"
            )
        found[name.strip()] = value.strip().strip("'\"")
    return found


def s3_options(keys: Mapping[str, str]) -> tuple[dict[str, str], dict[str, object]]:
    """(config, client options) of an S3 client. Raises LakeError."""
    endpoint = keys.get("AWS_ENDPOINT_URL", "")
    config = {
        "access_key_id": keys.get("AWS_ACCESS_KEY_ID"),
        "secret_access_key": keys.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": keys.get("AWS_SESSION_TOKEN"),
        "region": keys.get("AWS_REGION") or keys.get("AWS_DEFAULT_REGION") or "us-east-1",
        "endpoint": endpoint,
    }
    client: dict[str, object] = {"connect_timeout": "5s", "timeout": "120s"}
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise LakeError("AWS_ENDPOINT_URL is no address\n  cure: such as https://s3.example.org")
        client["allow_http"] = parts.scheme == "http"
    return {name: value for name, value in config.items() if value}, client
