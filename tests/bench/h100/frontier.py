"""How is the study with students that learn for real run: a teacher, an equal budget, a target?

Three steps, each of which goes on where an earlier call on this machine stopped (exit 75):

  teacher    the preset h100-frontier-teacher, beside a daemon with a store of its own: it is no student,
             and what it took is told beside the study, not in it
  budget     the preset h100-frontier: sizes x pipelines x seeds, all for as many steps
  to target  the same cells in the same store, each until it is as good as REACH of the worst size's
             baseline was after its budget, for at most as many steps

What stays between calls lies in a folder named by the settings. `OUT/frontier-TIME.tar.gz` holds both stores,
the results of all cells, the machine and the log; a later call's holds all that an earlier one's did.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from bench.h100.piece import FRONTIER, beside_daemon, python

AGAIN: Final = 75
REACH: Final = 0.9
"""All sizes must get there, and not by luck: seeds of one size spread by several hundredths."""
EVAL_EVERY: Final = 10  # steps, on the way to the target: how sharply its cost is known
TEACHER, BUDGET, TARGET = "frontier-teacher", "frontier", "frontier-to-target"


def measure(words: list[str], teacher_words: list[str], out: Path, *, minutes: float, place: Path) -> int:
    """Train the teacher, then all students; the exit code: 75 where cells are left."""
    deadline = time.monotonic() + 60 * minutes
    os.environ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1"  # fp32 weights, products at the tensor cores' rate
    here = place / hashlib.sha256(json.dumps([words, teacher_words]).encode()).hexdigest()[:12]
    teachers = here / "teacher"

    def teach(folder: Path) -> int:
        return python("energyd_pipelines", "run", "h100-frontier-teacher", *teacher_words, at=folder)

    def learn(folder: Path) -> int:
        code = _study(folder, BUDGET, [f"teacher.ref={teacher}", *words], deadline)
        if code == 0 and (target := target_of(_results(folder, BUDGET))) is not None:
            every = [] if any(w.startswith("train.eval_every=") for w in words) else [_EVAL]
            aims = [f"train.target={target:.4f}", "train.stop=to_target", *every]
            code = _study(folder, TARGET, [f"teacher.ref={teacher}", *words, *aims], deadline)
        both = [*_results(folder, BUDGET), *_results(folder, TARGET)]
        (folder / "results.json").write_text(json.dumps(both, indent=1))
        return code

    if not (made := _teacher(teachers)):
        code = beside_daemon(TEACHER, teacher_words, here / "kept", teach, keep=[], place=teachers)
        if code:
            return code
        made = _teacher(teachers)
    (teacher,) = made
    return beside_daemon(
        FRONTIER, [*words, *teacher_words], out, learn, keep=["results.json"], place=here / "students",
        also=[(teachers / "store", "teacher-store")],
    )  # fmt: skip


_EVAL: Final = f"train.eval_every={EVAL_EVERY}"


def target_of(results: list[dict[str, Any]]) -> float | None:
    """What every size is to reach: REACH of the least mean exact match of a size's baseline; None without."""
    by_size: dict[str, list[float]] = {}
    for result in results:
        if result["pipeline"] == "sft":
            by_size.setdefault(result["student"], []).append(result["exact_match"])
    return REACH * min(map(fmean, by_size.values())) if by_size else None


def _teacher(place: Path) -> list[Path]:
    """The trained teacher's folder, once it is finished."""
    return [p.parent / "student" for p in place.glob(f"work/runs/{TEACHER}-*/sft-*/result.json")]


def _study(folder: Path, name: str, words: list[str], deadline: float) -> int:
    """Begin a study, or go on with it; the exit code."""
    minutes = (deadline - time.monotonic()) / 60
    if minutes <= 0:
        return AGAIN
    # The names of folders of two studies begin alike: a date tells this one's.
    again = ["--resume"] if any(folder.glob(f"runs/{name}-2*")) else []
    return python(
        "energyd_pipelines", "run", "h100-frontier", f"name={name}", *words, "--minutes", f"{minutes:.3f}",
        *again, at=folder,
    )  # fmt: skip


def _results(folder: Path, name: str) -> list[dict[str, Any]]:
    """Of the finished cells, with the study that each is of."""
    found = sorted(folder.glob(f"runs/{name}-2*/*/result.json"))
    return [{"study": name, **json.loads(path.read_text())} for path in found]
