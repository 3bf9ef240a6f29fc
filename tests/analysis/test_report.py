"""Is the report one file that needs no network, says its numbers in text, and draws what it was given?"""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from analysis.energy_store import MS, T0, S, Store
from energyd.store.read import open_reader
from energyq.commands import run
from energyq.drawing import Axis, decades, nice
from energyq.report import drawings, find, study_report
from energyq.report_run import run_report
from energyq.study_csv import read_csv
from energyq.svg import svg

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
    text = study_report(find(read_csv(grid if study == "grid" else study), reuse=3, repeatability=0.02))
    reading = Balanced()
    reading.feed(text)
    assert reading.open == []
    assert len(reading.ids) == len(set(reading.ids))
    assert len(text.encode()) < 500_000
    assert re.findall(r"""(?:src|href)=|url\((?!#)|@import|https?://(?!www\.w3\.org)""", text) == []


def test_every_figure_is_valid_svg_alone_and_says_in_words_what_it_shows(grid: str) -> None:
    found = drawings(find(read_csv(grid), reuse=3))
    assert set(found) == {"breakdown", "frontier", "breakeven"}
    for name, drawing in found.items():
        root = ElementTree.fromstring(svg(drawing, alone=True))
        words = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert words["title"], name
        assert re.search(r"\d", words["desc"] or ""), name
        numbers = re.findall(r'[ "](-?[\d.]+)"', svg(drawing))
        assert all(abs(float(n)) < 2_000 for n in numbers), name  # nothing far off the picture


def test_a_bar_is_as_long_as_its_energy() -> None:
    drawn = svg(drawings(find(read_csv("poster")))["breakdown"])
    pattern = r'width="([\d.]+)" height="20.0"><title>student.train: ([\d.]+) kWh'
    found = [(float(width), float(energy)) for width, energy in re.findall(pattern, drawn)]
    assert len(found) == 9
    for width, energy in found:
        assert width / energy == pytest.approx(found[0][0] / found[0][1], rel=0.02)


def test_the_numbers_are_in_the_page_as_text_too(grid: str) -> None:
    poster = study_report(find(read_csv("poster")))
    for number in ("17.02", "40.82", "10.0", "11.2", "2.36"):
        assert f">{number}<" in poster
    assert "No quality is known" in poster
    assert "No doubt is stated" in poster
    found = study_report(find(read_csv(grid)))
    assert ">0.665<" in found
    assert "NOT: seeds, 3 seeds or more of each pipeline and size" in found


def test_text_of_a_study_cannot_become_markup(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(GRID.replace("kd,", "<script>alert(1)</script>,"))
    text = study_report(find(read_csv(str(path))))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_command_writes_the_page_and_its_figures(tmp_path: Path) -> None:
    out, folder = tmp_path / "r.html", tmp_path / "figures"
    assert run(["report", "--study", "poster", "-o", str(out), "--figures", str(folder)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in folder.iterdir()) == ["breakdown.svg", "breakeven.svg"]
    assert run(["report", "--study", "poster", "--format", "json"]) == 2


def test_without_a_baseline_there_is_a_report_that_says_what_it_lacks(
    tmp_path: Path, grid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kd.csv"
    path.write_text("".join(f"{line}\n" for line in GRID.splitlines() if not line.startswith("sft")))
    asked = ["report", "--study", str(path), "-o", str(tmp_path / "r.html")]
    assert run([*asked, "--figures", str(tmp_path / "f")]) == 0
    assert "no break-even" in (said := capsys.readouterr().err)
    assert "pipeline=sft" in said
    text = (tmp_path / "r.html").read_text()
    assert "Where the energy goes" in text
    assert "no baseline among its pipelines kd" in text
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["breakdown.svg", "frontier.svg"]
    assert run([*asked, "--reuse", "5"]) == 0  # the cheapest of those there are can be told
    assert "at 5 uses for 1B, kd 1B takes least" in (tmp_path / "r.html").read_text()


def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, grid: str) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium missing")
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    page.write_text(study_report(find(read_csv(grid), reuse=3)))
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
    assert kept.read_text() == study_report(find(read_csv("poster"), reuse=6)), (
        "made anew by: energyq report --study poster --reuse 6 -o docs/results/poster.html"
    )


def test_the_page_of_the_demos_grid_in_the_docs_has_all_nine_cells_and_stands_alone() -> None:
    """Its figures are of one hour of one machine; what the page must hold is not."""
    text = (Path(__file__).parents[2] / "docs" / "results" / "tiny.html").read_text()
    reading = Balanced()
    reading.feed(text)
    assert reading.open == []
    assert len(text.encode()) <= 500_000
    assert re.findall(r'(?:src|href)="(?!#)', text) == []  # nothing to fetch
    assert "/tmp/" not in text
    for title in ("Where the energy goes", "What quality costs", "When distilling pays", "Measured with"):
        assert title in text
    cells = re.findall(r"<tr><t[dh][^>]*>(sft|kd|synthetic)</t[dh]><t[dh][^>]*>(S|M|L)</t[dh]>", text)
    assert len(set(cells)) == 9
    assert len(re.findall(r'class="power', text)) >= 3  # the trace of one run a pipeline


@pytest.fixture
def run_page(store: Store) -> str:
    store.device(0, power_limit_mw=700_000, driver="570.1")
    store.device(1, "cpu", max_step_ns=3 * S, period_ns=S)
    store.doubts = {0: (0.01, 0.05), 1: (0.01, 0.05)}
    store.power(0, range(T0, T0 + 60 * S, 20 * MS), lambda t: 100_000 + 300_000 * (t // (10 * S) % 2))
    store.power(1, range(T0, T0 + 60 * S, S), lambda t: 50_000)
    store.run("r1", "train", labels='{"seed": 3}')
    store.stage("r1", "s1", "student.train", T0 + S, T0 + 41 * S, counts={"label": 1000})
    store.stage("r1", "s2", "<b>evaluate", T0 + 41 * S, T0 + 51 * S)
    with open_reader(store.write()) as reader:
        return run_report(reader, ["r1"])[0]


def test_a_runs_page_has_its_stages_its_power_and_what_measured_it(run_page: str) -> None:
    reading = Balanced()
    reading.feed(run_page)
    assert reading.open == []
    for text in (
        "student.train",
        "&lt;b&gt;evaluate",
        ">570.1<",
        "seed: 3",
        "J per label token",
        "gpu 0",
        "cpu 1",
    ):
        assert text in run_page, text
    assert "<b>evaluate" not in run_page
    assert len(run_page.encode()) < 500_000


def test_the_trace_shows_the_power_that_was(run_page: str) -> None:
    """Each device is one unbroken line, and its ends are where its power was."""
    lines = re.findall(r'<path class="line l-(\d)" vector-effect[^>]* d="M([^"]*)"', run_page)
    assert [series for series, _ in lines] == ["0", "1"]
    ticks = {int(w): float(y) for y, w in re.findall(r'y="([\d.]+)" text-anchor="end">(\d+)<', run_page)}
    watt = (ticks[0] - ticks[400]) / 400
    for (_, line), powers in zip(lines, ({100, 400}, {50}), strict=True):
        heights = [float(point.split()[1]) for point in line.split("L")]
        seen = {round((ticks[0] + 0 - y - 4) / watt / 10) * 10 + 0 for y in heights}
        assert {p for p in powers if any(abs(p - s) <= 20 for s in seen)} == powers, seen


def test_a_browser_zooms_the_trace_by_the_wheel_and_back_by_a_double_click(
    tmp_path: Path, run_page: str
) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium missing")
    acts = """<script>const p=document.querySelector('.power svg svg'),r=p.getBoundingClientRect(),seen=[];
    const now=()=>seen.push(p.getAttribute('viewBox').split(' ')[2]|0);now();
    const turn={deltaY:-1,clientX:r.left+r.width/2,cancelable:true};
    for(let i=0;i<5;i++)p.dispatchEvent(new WheelEvent('wheel',turn));
    now();p.dispatchEvent(new MouseEvent('dblclick'));now();
    document.title='seen '+seen.join(' ')</script></body>"""
    page = tmp_path / "run.html"
    page.write_text(run_page.replace("</body>", acts))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    whole, near, again = map(int, re.findall(r"<title>seen (\d+) (\d+) (\d+)", done.stdout)[0])
    assert near == pytest.approx(whole * 0.8**5, rel=0.01)
    assert again == whole
