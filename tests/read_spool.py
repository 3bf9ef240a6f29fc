"""What does a spool hold? For tests: as a reader in another language would, by PROTOCOL.md."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from energyd_client.protocol import Hello, Message, unpack


def read_frames(path: Path) -> list[bytes]:
    """The messages of its records, up to the first that is torn."""
    raw, found, at = path.read_bytes(), [], 0
    while at + 8 <= len(raw):
        length, crc = struct.unpack_from("<II", raw, at)
        data = raw[at + 8 : at + 8 + length]
        if len(data) < length or not length or zlib.crc32(data) != crc:
            break
        found.append(data)
        at += 8 + length
    return found


def read_spool(path: Path) -> tuple[Hello | None, list[Message]]:
    """Who wrote it, and its markers in order."""
    messages = [unpack(data) for data in read_frames(path)]
    hello = messages[0] if messages and isinstance(messages[0], Hello) else None
    return hello, messages[1:]
