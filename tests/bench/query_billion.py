"""How long do answers take from a billion samples? 29 days of 8 GPUs at 50 Hz, 8.2 GB on disk.

    python tests/bench/query_billion.py [--store DIR] [--quick] [--out DIR]

The questions are those of query.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.query import main

if __name__ == "__main__":
    main("query_billion", __doc__)
