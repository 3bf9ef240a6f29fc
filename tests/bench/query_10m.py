"""What does `energyq stages RUN` take on ten million samples, beyond what its imports take?

    python tests/bench/query_10m.py [--quick] [--out DIR]

A day of 8 GPUs, 10 M samples and 1,000 stages, no daemon. Whole commands in fresh processes, in turns with
two others: one that only imports DuckDB, and one that imports every module which the command had loaded at
its end, and does nothing. What is between that and the command is the asking: opening the store, the views,
the answer, its table.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Bench, child_env, run

LOADED = (  # what of sys.modules can be imported by its name, said after the command's own output
    "import sys, json, atexit\n"
    "atexit.register(lambda: print(json.dumps([n for n, m in sys.modules.items() if n != '__main__'"
    " and getattr(m, '__spec__', None) is not None and m.__spec__.name == n]), file=sys.stderr))\n"
    "from energyq.cli import main\nmain()"
)


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    from bench.make_store import make

    quick = bench.options.quick
    store, tries = folder / "store", 2 if quick else 15
    samples = make(store, devices=8, hz=0.5 if quick else 14.5, days=1, n_stages=20 if quick else 1_000)
    env = child_env()
    command = ["stages", "--store", str(store), _a_run(store)]
    names = json.loads(_done([sys.executable, "-c", LOADED, *command], env).stderr.splitlines()[-1])
    imports = f"import importlib\nfor n in {names!r}:\n    importlib.import_module(n)"
    kinds = {
        "command": [sys.executable, "-m", "energyq", *command],
        "imports": [sys.executable, "-c", imports],
        "duckdb": [sys.executable, "-c", "import duckdb"],
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(tries):
        for kind, words in kinds.items():
            began = time.perf_counter()
            _done(words, env)
            took[kind].append(time.perf_counter() - began)
    bench.raw |= {"s": took, "samples": samples, "modules": len(names)}
    whole, bare, duck = (statistics.median(took[kind]) for kind in kinds)
    note = f"medians of {tries}: {1000 * whole:.0f} ms less {1000 * bare:.0f} ms; {samples:,} samples"
    bench.add("`energyq stages RUN` beyond its imports", 1000 * (whole - bare), "ms", target=150, note=note)
    bench.add("`import duckdb` alone", 1000 * duck, "ms")


def _a_run(store: Path) -> str:
    from energyd.store.read import open_reader

    with open_reader(store) as reader:
        ((run_id,),) = reader.sql(
            "SELECT run_id FROM stages GROUP BY ALL ORDER BY count(*) DESC LIMIT 1"
        ).fetchall()
    return str(run_id)


def _done(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    run("query_10m", "how long does one run's table take on ten million samples?", __doc__, measure)
