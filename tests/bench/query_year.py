"""How long do answers take from a year of 8 GPUs, a week of it at 50 Hz and the rest one sample a second?

    python tests/bench/query_year.py [--store DIR] [--quick] [--out DIR]

The questions are those of query.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.query import main

if __name__ == "__main__":
    main("query_year", __doc__)
