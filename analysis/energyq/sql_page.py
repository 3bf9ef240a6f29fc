"""What is written in docs/sql.md? The views with their units, and the examples, from the code itself.

python -m energyq.sql_page > docs/sql.md
"""

from __future__ import annotations

import sys
import tempfile
from itertools import groupby
from pathlib import Path

from energyd.store.read import open_reader
from energyq.examples import examples

_HEAD = """# SQL over an energyd store

`energyq "SELECT …"` runs DuckDB in your own process over what the store's files and the daemon hold; any
DuckDB tool can open the store's `energy.duckdb` READ_ONLY and finds the same views, at most a minute old. A
question cannot write. This page is made by `python -m energyq.sql_page`; `energyq --tables` says the same
of a store.

Names carry units: `_j` joules, `_w` watts, `_mw` milliwatts, `_uj` microjoules, `_ns` nanoseconds of store
time (since 1970, never stepped), `seconds`. Doubts (`u_…`) are of k = 2. NULL is not known, never 0, and
`reason` says why. `energy_j(device, t0_ns, t1_ns)` is the energy of one device between two instants, from
raw samples; `integrate('table')` is the same for every row of a table or view with columns device, t0_ns
and t1_ns. `starved_share(device, t0_ns, t1_ns, floor_w)` is the share of that time that the device spent at
or below floor_w and a quarter of the way from there to its 95th percentile; `starved('table')` the same for
rows, with busy_w (that percentile) and covered (share of the time for which samples stand).
"""


def page() -> str:
    """The whole page, from an empty store."""
    out = [_HEAD, "## Questions that people ask first\n"]
    out += [f"{title}\n\n```sql\n{sql}\n```\n" for title, sql in examples()]
    out.append("## Views\n")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sealed").mkdir()
        with open_reader(Path(folder)) as reader:
            views = reader.views()
    for (view, comment), columns in groupby(views, key=lambda row: row[:2]):
        out.append(f"### {view}\n\n{comment}.\n\n| column | type | what it holds |\n|---|---|---|")
        cells = ((c, kind, meaning.replace("|", "\\|")) for _, _, c, kind, meaning in columns)
        out.append("\n".join(f"| `{c}` | {kind} | {meaning} |" for c, kind, meaning in cells) + "\n")
    return "\n".join(out)


if __name__ == "__main__":
    sys.stdout.write(page())
