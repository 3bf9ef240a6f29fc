"""What does a demo with three seeds say, and what is left for the teacher in a second one?

    python tests/bench/demo_twice.py [quick --seeds 3] > docs/results/demo-twice.md

`demo.sh` (what `make demo` runs) twice in one fresh folder, printed as it came, paths shortened; the
teacher's stages of each are counted in the store. Ends with 1 if the second asked the teacher for anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import figures

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "energyd_pipelines" / "demo.sh"
COUNT = """
SELECT count(DISTINCT run_id) AS runs, count(*) FILTER (stage LIKE 'teacher%') AS teacher_stages,
  sum(total_j) FILTER (stage LIKE 'teacher%') AS teacher_j FROM stage_totals"""


def demo(folder: Path, words: list[str]) -> tuple[str, float]:
    """What one demo prints, and how long it took, s. Raises CalledProcessError."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    began = time.monotonic()
    done = subprocess.run(
        [str(SCRIPT), str(folder), *words], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.replace(str(folder), "demo-store").rstrip(), time.monotonic() - began


def counted(folder: Path) -> dict[str, float]:
    """Runs, teacher stages and their J in the store, so far."""
    command = [sys.executable, "-m", "energyq", "--store", str(folder / "store"), "--format", "json", COUNT]
    (row,) = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {name: value or 0 for name, value in row.items()}


def main() -> int:
    """Run both, print the page."""
    words = sys.argv[1:] or ["quick", "--seeds", "3"]
    told, before = [], {"runs": 0.0, "teacher_stages": 0.0, "teacher_j": 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "demo-store"
        for which in ("first", "second"):
            said, seconds = demo(folder, words)
            after = counted(folder)
            told.append((which, said, seconds, {name: after[name] - before[name] for name in after}))
            before = after
    machine = figures.machine()
    print(f"""# Two demos in one folder

Written by `make bench-demo` (`tests/bench/demo_twice.py`), not by hand: twice
`make demo ARGS="{' '.join(words)}"`. The first asks the teacher, the second finds its artifacts.
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
