"""Which run or stage does a word on the command line mean?"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energyd.store.read import Reader


class NotFound(Exception):
    """No run or stage, or more than one, goes by that word."""


class Refused(Exception):
    """What is asked for makes no sense as it was typed: exit code 2. What, where, cure in the text."""


@cache
def question(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return files("energyq").joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")


def find_run(reader: Reader, word: str | None) -> str | None:
    """The id of the run meant by an id, the beginning of one, or a name (its latest run).

    None as word: the latest run. The word `all`: None, which means every run. Raises NotFound.
    """
    if word == "all":
        return None
    if word is None:
        latest = reader.sql(question("latest_run")).fetchall()
        if not latest:
            raise NotFound(f"no run in {reader.store} yet\n  cure: run a program that uses energyd_client")
        return str(latest[0][0])
    found = reader.sql(question("find_run"), {"run": word}).dicts()
    if not found:
        names = [str(name) for (name,) in reader.sql("SELECT DISTINCT name FROM runs").rows]
        near = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise NotFound(
            f"no run is called or begins with {word!r} in {reader.store}\n"
            f"  cure: {hint}`energyq runs` lists them"
        )
    if found[0]["found_by"] == "prefix" and len(found) > 1:
        raise NotFound(f"{word!r} begins {len(found)} run ids\n  cure: one of {_few(found, 'run_id')}")
    return str(found[0]["run_id"])


def find_stage(reader: Reader, word: str) -> dict[str, Any]:
    """The stage meant by an id, the beginning of one, or a name or path (its latest). Raises NotFound."""
    found = reader.sql(question("find_stage"), {"stage": word}).dicts()
    if not found:
        raise NotFound(
            f"no stage is called or begins with {word!r} in {reader.store}\n"
            '  cure: energyq "SELECT stage_id, path FROM stages" lists them'
        )
    if found[0]["found_by"] == "prefix" and len(found) > 1:
        raise NotFound(f"{word!r} begins {len(found)} stage ids\n  cure: one of {_few(found, 'stage_id')}")
    return found[0]


def _few(rows: list[dict[str, Any]], key: str) -> str:
    shown = ", ".join(str(row[key]) for row in rows[:4])
    return shown + (" …" if len(rows) > 4 else "")
