"""How does a daemon find the light CodeCarbon instead of the real one?"""

from __future__ import annotations

import os
from pathlib import Path


def light(env: dict[str, str]) -> dict[str, str]:
    """That environment, for a daemon whose CPU is not the point."""
    before = env.get("PYTHONPATH")
    return {**env, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])}
