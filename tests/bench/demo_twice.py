"""How long does a demo take from nothing, and what is left for the teacher in a second one?

    python tests/bench/demo_twice.py [ARGS of make demo] > docs/results/demo-twice.md

The last commit in an empty clone: `make setup`, then `make demo` twice, printed as it came, paths shortened;
the teacher's stages of each are counted in the store. Ends with 1 if the second asked it for anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import figures

ROOT: Final = Path(__file__).resolve().parents[2]
WITHIN_S: Final = 360.0
COUNT = """
SELECT count(DISTINCT run_id) AS runs, count(*) FILTER (stage LIKE 'teacher%') AS teacher_stages,
  sum(total_j) FILTER (stage LIKE 'teacher%') AS teacher_j FROM stage_totals"""


def timed(clone: Path, *words: str) -> tuple[str, float]:
    """What `make` prints, and how long it took, s. Raises CalledProcessError."""
    # As a newcomer's shell has it: what this benchmark was started with does not reach the clone.
    ours = ("MAKE", "MFLAGS", "PYTHONPATH", "ENERGYD")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command, began = ["make", "-s", *words], time.monotonic()
    done = subprocess.run(command, cwd=clone, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.replace(f"{clone}/", "").rstrip(), time.monotonic() - began


def counted(store: Path) -> dict[str, float]:
    """Runs, teacher stages and their J in the store, so far."""
    command = [sys.executable, "-m", "energyq", "--store", str(store), "--format", "json", COUNT]
    (row,) = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {name: value or 0 for name, value in row.items()}


def main() -> int:
    """Set up, run both, print the page."""
    words = [f"ARGS={' '.join(sys.argv[1:])}"] if sys.argv[1:] else []
    told, before = [], {"runs": 0.0, "teacher_stages": 0.0, "teacher_j": 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "energyd"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        git = ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        _, setup_s = timed(clone, "setup")
        for which in ("first", "second"):
            said, seconds = timed(clone, "demo", *words)
            after = counted(clone / "demo-store" / "store")
            told.append((which, said, seconds, {name: after[name] - before[name] for name in after}))
            before = after
    whole_s = setup_s + told[0][2]
    machine, within = figures.machine(), "yes" if whole_s <= WITHIN_S else "**no**"
    print(f"""# A demo from nothing, and a second one

Written by `make bench-demo` (`tests/bench/demo_twice.py`), not by hand: {commit} in an empty clone,
`make setup` ({setup_s:.0f} s, package caches warm), then `{' '.join(['make demo', *words])}` twice.
The first asks the teacher, the second finds its artifacts.
From nothing to the first one's tables: {whole_s:.0f} s, within {WITHIN_S:.0f} s: {within}.
Machine: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, Linux {machine['kernel']}.

| demo | took / s | runs | teacher stages | their energy / J |
|---|---|---|---|---|""")
    for which, _, seconds, n in told:
        print(f"| {which} | {seconds:.0f} | {n['runs']:g} | {n['teacher_stages']:g} | {n['teacher_j']:.4g} |")
    for which, said, _, _ in told:
        print(f"\n## The {which}\n\n```\n{said}\n```")
    return int(told[-1][3]["teacher_stages"] != 0)


if __name__ == "__main__":
    sys.exit(main())
