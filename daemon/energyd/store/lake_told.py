"""What does a host say of himself in a lake, in hosts/host=<id>.json?"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from energyd.store.columns import schema
from energyd.store.lake_files import Lake

FACTS: Final[dict[str, tuple[type, ...]]] = {
    "hostname": (str,),
    "version": (str,),
    "shipped_until_hour": (int,),
    "clock_s": (int, float),
    "clock_doubt_s": (int, float),
    "schemas": (list,),
}
"""What of it is looked at, and as what. `schemas`: fingerprints of all releases that shipped from there."""
_MOST: Final = 1e9
"""No hour and no clock is further off: what says so is none."""


def told_by(lake: Lake, key: str) -> dict[str, Any]:
    """What a host says of himself; nothing of what cannot be read, or is no such thing."""
    try:
        said = json.loads(lake.read(key) or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {name: said[name] for name in FACTS if _is_one(name, said.get(name))}


def _is_one(name: str, value: object) -> bool:
    if not isinstance(value, FACTS[name]) or isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return abs(value) < _MOST
    return not isinstance(value, list) or all(isinstance(each, str) for each in value)


def fingerprint() -> str:
    """Names and types of all columns, as one word: hosts of one word have files with the same columns."""
    return hashlib.sha256(json.dumps(schema(), sort_keys=True).encode()).hexdigest()[:16]
