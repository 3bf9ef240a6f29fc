"""What does a host say of himself in a lake, in hosts/host=<id>.json?"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from energyd.store.columns import schema
from energyd.store.lake_files import Lake

FACTS: Final = ("hostname", "version", "shipped_until_hour", "clock_s", "clock_doubt_s", "schemas")
"""What of it is looked at. `schemas`: the fingerprints of all releases that shipped from there."""


def told_by(lake: Lake, key: str) -> dict[str, Any]:
    """What a host says of himself; nothing of what cannot be read."""
    try:
        said = json.loads(lake.read(key) or b"{}")
    except ValueError:
        return {}
    return {name: said[name] for name in FACTS if name in said} if isinstance(said, dict) else {}


def fingerprint() -> str:
    """Names and types of all columns, as one word: hosts of one word have files with the same columns."""
    return hashlib.sha256(json.dumps(schema(), sort_keys=True).encode()).hexdigest()[:16]
