"""Where are this repository's packages, for a script that is run without installing them?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
PACKAGES: Final = tuple(str(ROOT / name) for name in ("tests", "client", "daemon", "analysis"))

sys.path.extend(path for path in PACKAGES if path not in sys.path)


def export() -> None:
    """Let every process that is started from now on find them too."""
    os.environ["PYTHONPATH"] = os.pathsep.join([*PACKAGES, os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
