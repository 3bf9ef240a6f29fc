"""Which faults does energyd survive, what does one see of each, and which test shows it?

Writes docs/faults.md from the marks `@pytest.mark.fault(WHAT, seen=…, lost=…)` on tests anywhere under
tests/. Further tests of the same fault give WHAT alone. Run: python tests/faults/page.py
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"

HEAD = """# Faults

What happens when something breaks, what you see of it, what can be lost, and the test that shows it.
`make faults` runs those that take seconds, `make test-long` the long ones. This page is made from the
tests by `python tests/faults/page.py`; a test fails when it is not current.

Promise: a marker whose call returned with its spool writable survives the death of client and daemon
(power cuts excepted); a lost sample is a row in `gaps`, with a reason.
"""


@dataclass
class Fault:
    """One row."""

    what: str
    seen: str = ""
    lost: str = ""
    tests: list[tuple[str, str, bool]] = field(default_factory=list)  # file, function, long


def collect(root: Path = ROOT) -> list[Fault]:
    """Every fault, in order of its name. Raises ValueError where one lacks what is seen or lost."""
    found: dict[str, Fault] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                _marked(node, str(path.relative_to(root)), found)
    bare = [f.what for f in found.values() if not (f.seen and f.lost)]
    if bare:
        raise ValueError(f"say what is seen and what is lost: {bare}")
    return sorted(found.values(), key=lambda f: f.what.lower())


def _marked(node: ast.FunctionDef, file: str, found: dict[str, Fault]) -> None:
    marks = [ast.unparse(d) for d in node.decorator_list]
    for mark in node.decorator_list:
        if not (isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault"):
            continue
        (what,) = (ast.literal_eval(a) for a in mark.args)
        fault = found.setdefault(what, Fault(what))
        for word in mark.keywords:
            assert word.arg is not None
            assert not getattr(fault, word.arg), f"{what}: `{word.arg}` is told twice"
            setattr(fault, word.arg, ast.literal_eval(word.value))
        fault.tests.append((file, node.name, "pytest.mark.long" in marks))


def page(faults: list[Fault]) -> str:
    """The page's text."""
    lines = [HEAD, "| fault | what you see | what can be lost | shown by |", "|---|---|---|---|"]
    for fault in faults:
        tests = "<br>".join(
            f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" + (" (long)" if slow else "")
            for file, name, slow in fault.tests
        )
        lines.append(f"| {fault.what} | {fault.seen} | {fault.lost} | {tests} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(collect()))
