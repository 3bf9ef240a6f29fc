"""What does a study in a table say: a CSV with one row a stage, somebody's own or one that is shipped?"""

from __future__ import annotations

import csv
import math
from importlib.resources import files
from pathlib import Path
from typing import Final

from energyq.find import NotFound, Refused
from energyq.study import J_PER_KWH, Execution, Study

_COLUMNS: Final = ("pipeline", "student", "stage", "kwh")
_OPTIONAL: Final = ("u_kwh", "quality", "seed", "artifact", "stop")


def read_csv(word: str) -> Study:
    """The study of a CSV file, or one that is shipped (`poster`). Raises NotFound, Refused."""
    shipped = files("energyq").joinpath("studies", f"{word}.csv")
    if word.isidentifier() and shipped.is_file():
        return _parse(word, shipped.read_text(encoding="utf-8").splitlines())
    path = Path(word)
    if path.suffix.lower() != ".csv":
        raise NotFound(
            f"no study is called {word!r}\n  cure: one of {', '.join(shipped_names())}, or FILE.csv"
        )
    try:
        return _parse(path.stem, path.read_text(encoding="utf-8-sig").splitlines(), str(path))
    except FileNotFoundError as error:
        raise NotFound(f"no file {word}\n  cure: a CSV with columns {', '.join(_COLUMNS)}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{word} is no text in UTF-8\n  cure: save it as CSV, UTF-8") from error


def shipped_names() -> list[str]:
    """Studies that come with energyq."""
    return sorted(f.name.removesuffix(".csv") for f in files("energyq").joinpath("studies").iterdir()
                  if f.name.endswith(".csv"))  # fmt: skip


def _parse(name: str, lines: list[str], where: str | None = None) -> Study:
    where = where or name
    rows = csv.DictReader(lines, skipinitialspace=True)
    have = [c.strip() for c in rows.fieldnames or ()]
    lacking = [c for c in _COLUMNS if c not in have]
    unknown = [c for c in have if c not in _COLUMNS + _OPTIONAL]
    if lacking or unknown:
        what = f"lacks the column {lacking[0]}" if lacking else f"has an unknown column {unknown[0]}"
        raise Refused(
            f"{where} {what}\n  cure: columns {', '.join(_COLUMNS)} and, if wanted, {', '.join(_OPTIONAL)}"
        )
    found: dict[tuple[str, ...], Execution] = {}
    for row in rows:
        at = f"{where}, line {rows.line_num}"
        if None in row or None in row.values():
            few = "more" if None in row else "fewer"
            raise Refused(f"{at}: has {few} cells than columns\n  cure: one value a column")
        pipeline, student, stage = (row[c].strip() for c in ("pipeline", "student", "stage"))
        if not (pipeline and student and stage):
            raise Refused(f"{at}: pipeline, student or stage is empty\n  cure: fill it in")
        seed, stop = ((row.get(c) or "").strip() or None for c in ("seed", "stop"))
        key = (pipeline, student, seed or "", stop or "")
        run = found.setdefault(key, Execution(pipeline, student, seed, stop=stop))
        if stage in run.stages:
            raise Refused(
                f"{at}: {stage} of {pipeline} {student} is there twice\n"
                "  cure: repetitions get a column `seed`"
            )
        run.stages[stage] = _number(row, "kwh", at, J_PER_KWH)
        run.u_stages[stage] = _number(row, "u_kwh", at, J_PER_KWH)
        quality = _number(row, "quality", at, signed=True)
        run.quality = quality if quality is not None else run.quality
        if artifact := (row.get("artifact") or "").strip():
            run.artifacts |= {artifact}
    if not found:
        raise Refused(f"{where} has no rows\n  cure: one row a stage")
    return Study(name, list(found.values()))


def _number(
    row: dict[str, str], column: str, at: str, scale: float = 1.0, *, signed: bool = False
) -> float | None:
    """A cell as number; None where it is empty: not known."""
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and not signed):
        raise Refused(
            f"{at}: {column} is {text!r}, no number that fits\n  cure: a number, or empty for unknown"
        )
    return value * scale
