"""Is everything that docs/comparison.md says of energyd shown, and of others sourced?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
MARKS = "●◐○?"


def tables() -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Names of the tools, rows of features, rows of sources; each row as its cells."""
    features, sources = re.findall(r"((?:^\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    titles = [c.strip() for c in features.splitlines()[0].split("|")[1:-1]]
    kept = [[c.strip() for c in line.split("|")[1:-1]] for line in features.splitlines()[2:]]
    rows = [r for r in kept if not r[0].startswith("**")]
    return titles, rows, [[c.strip() for c in line.split("|")[1:-1]] for line in sources.splitlines()[2:]]


TITLES, ROWS, SOURCES = tables()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_claim_about_us_names_a_test_or_page_that_exists(row: list[str]) -> None:
    assert len(row) == len(TITLES)
    feature, ours, *theirs, shown = row
    assert all(cell[:1] in MARKS and len(cell) > 0 for cell in (ours, *theirs)), feature
    tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", shown)
    pages = re.findall(r"\]\(([^)]+)\)", shown)
    assert bool(tests or pages) == (ours[0] in "●◐"), feature
    for file, name in tests:
        text = (ROOT / file).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), name
    assert all((PAGE.parent / page).exists() for page in pages)


def test_every_tool_that_is_compared_has_a_version_a_date_and_a_place() -> None:
    assert [source[0] for source in SOURCES] == TITLES[2:-1]
    for tool, version, when, where in SOURCES:
        assert version, tool
        assert re.fullmatch(r"[A-Z][a-z]+ 20\d\d", when), tool
        assert "https://" in where or "same repository" in where, tool


def test_every_footnote_is_used_and_written() -> None:
    text = PAGE.read_text()
    written = {int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)}
    signs = "⁰¹²³⁴⁵⁶⁷⁸⁹"
    used = {
        int("".join(str(signs.index(c)) for c in note))
        for row in ROWS
        for cell in row
        for note in re.findall(f"[{signs}]+", cell)
    }
    assert used == written


def test_the_page_says_where_others_are_better() -> None:
    worse = [row for row in ROWS if row[1] == "○"]
    assert len(worse) >= 5
    assert all(any(cell.startswith("●") for cell in row[2:-1]) for row in worse)
