"""Is the report one file that needs no network, says its numbers in text, and draws what it was given?"""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from energyq.commands import run
from energyq.report import drawings, study_report
from energyq.study import read_csv
from energyq.svg import Axis, decades, nice

GRID = """pipeline,student,stage,kwh,quality,seed,artifact
sft,1B,prerun,0.1,,0,
sft,1B,student.train,6,0.61,0,
sft,1B,student.train,6.2,0.63,1,
kd,1B,teacher.logits,5,,0,a
kd,1B,student.train,5,0.66,0,
kd,1B,teacher.logits,5,,1,a
kd,1B,student.train,5.1,0.67,1,
"""


@pytest.fixture
def grid(tmp_path: Path) -> str:
    path = tmp_path / "grid.csv"
    path.write_text(GRID)
    return str(path)


class Balanced(HTMLParser):
    """Fails where a tag closes another than the one that is open."""

    VOID = ("meta", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [v for k, v in attrs if k == "id" and v]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("study", ["poster", "grid"])
def test_the_page_is_whole_small_and_asks_nothing_of_the_network(study: str, grid: str) -> None:
    text = study_report(read_csv(grid if study == "grid" else study), reuse=3, repeatability=0.02)
    reading = Balanced()
    reading.feed(text)
    assert reading.open == []
    assert len(reading.ids) == len(set(reading.ids))
    assert len(text.encode()) < 500_000
    assert re.findall(r"""(?:src|href)=|url\((?!#)|@import|https?://(?!www\.w3\.org)""", text) == []


def test_every_figure_is_valid_svg_alone_and_says_in_words_what_it_shows(grid: str) -> None:
    found = drawings(read_csv(grid), reuse=3, repeatability=None)
    assert set(found) == {"breakdown", "frontier", "breakeven"}
    for name, drawing in found.items():
        root = ElementTree.fromstring(drawing.svg(alone=True))
        words = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert words["title"], name
        assert re.search(r"\d", words["desc"] or ""), name
        numbers = re.findall(r'[ "](-?[\d.]+)"', drawing.svg())
        assert all(abs(float(n)) < 2_000 for n in numbers), name  # nothing far off the picture


def test_a_bar_is_as_long_as_its_energy() -> None:
    svg = drawings(read_csv("poster"), reuse=None, repeatability=None)["breakdown"].svg()
    pattern = r'width="([\d.]+)" height="20.0"><title>student.train: ([\d.]+) kWh'
    found = [(float(width), float(energy)) for width, energy in re.findall(pattern, svg)]
    assert len(found) == 9
    for width, energy in found:
        assert width / energy == pytest.approx(found[0][0] / found[0][1], rel=0.02)


def test_the_numbers_are_in_the_page_as_text_too(grid: str) -> None:
    poster = study_report(read_csv("poster"))
    for number in ("17.02", "40.82", "10.0", "11.2", "2.36"):
        assert f">{number}<" in poster
    assert "No quality is known" in poster
    assert "No doubt is stated" in poster
    found = study_report(read_csv(grid))
    assert ">0.665<" in found
    assert "two or more of each" in found


def test_text_of_a_study_cannot_become_markup(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(GRID.replace("kd,", "<script>alert(1)</script>,"))
    text = study_report(read_csv(str(path)))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_command_writes_the_page_and_its_figures(tmp_path: Path) -> None:
    out, folder = tmp_path / "r.html", tmp_path / "figures"
    assert run(["report", "--study", "poster", "-o", str(out), "--figures", str(folder)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in folder.iterdir()) == ["breakdown.svg", "breakeven.svg"]
    assert run(["report", "--study", "poster", "--format", "json"]) == 2


def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, grid: str) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium missing")
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    page.write_text(study_report(read_csv(grid), reuse=3))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,2400",
         f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000


def test_ticks_are_round_and_cover_the_values() -> None:
    assert nice(0, 42.6) == [0, 10, 20, 30, 40, 50]
    assert nice(0.61, 0.67) == [0.6, 0.62, 0.64, 0.66, 0.68]
    assert nice(3, 3)[0] <= 3 <= nice(3, 3)[-1]
    assert [t for t in decades(1, 100) if 1 <= t <= 100] == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(1, 100, 0, 200, log=True).at(10) == pytest.approx(100)


def test_the_page_of_the_papers_table_in_the_docs_is_what_the_command_writes() -> None:
    kept = Path(__file__).parents[2] / "docs" / "results" / "poster.html"
    assert kept.read_text() == study_report(read_csv("poster"), reuse=6), (
        "made anew by: energyq report --study poster --reuse 6 -o docs/results/poster.html"
    )
