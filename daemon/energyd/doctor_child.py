"""What do this machine's sensors answer, asked in a process that may hang without harm?

    python -m energyd.doctor_child gpu|cpu

Opens the sources that a daemon would, prints what they found as one JSON object, and leaves. `doctor` kills
it where a driver never answers.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any, Final

from energyd.sources import Source
from energyd.sources.discover import discover

_SETTLE_S: Final = 10.0
"""CodeCarbon's imports take seconds."""


def examine(which: str) -> dict[str, Any]:
    """Devices and domains of the GPUs (`gpu`) or of everything else (`cpu`)."""
    # Drained often: a short ring is something to show here, not to refuse.
    sources = [s for s in discover("auto", interval_s=0.05) if (s.name == "nvml") == (which == "gpu")]
    found: dict[str, Any] = {"devices": [], "domains": []}
    for source in sources:
        source.open()
        try:
            _settle(source)
            found["devices"] += [asdict(info) for info in source.devices()]
            found["domains"] += [asdict(info) for info in source.domains()]
        finally:
            source.close()
    return found


def _settle(source: Source) -> None:
    """Wait for a source that says its devices later."""
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline and not source.devices():
        if not any(info.is_starting for info in source.domains()):
            return  # it has said that there is none
        list(source.read())
        time.sleep(0.1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(examine(sys.argv[1])))
