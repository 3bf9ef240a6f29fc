"""Do the figures' files show what the page shows, readable on paper, in grey and without overlaps?"""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from analysis.energy_store import MS, T0, S, Store
from energyq import png
from energyq.commands import run
from energyq.drawing import Drawing, Mark, Rect, Words
from energyq.looks import FILL
from energyq.report import drawings, find
from energyq.study_csv import read_csv

CROWD = """pipeline,student,stage,kwh,quality
sft,S,student.train,5,0.600
kd,S,student.train,5.1,0.605
kd,S,teacher.logits,6,
synthetic,S,student.train,5,0.610
synthetic,S,teacher.generate,6,
sft,M,student.train,5.2,0.602
kd,M,student.train,5.19,0.607
kd,M,teacher.logits,6,
"""
"""Points on top of each other, and an N* of hundreds."""

GRID = """pipeline,student,stage,kwh,quality,seed,artifact
sft,1B,student.train,6,0.61,0,
sft,1B,student.train,6.2,0.63,1,
sft,7B,student.train,16,0.71,0,
kd,1B,teacher.logits,5,,0,a
kd,1B,student.train,5,0.66,0,
kd,1B,student.train,5.1,0.67,1,a
kd,7B,teacher.logits,5,,0,a
kd,7B,student.train,15,0.76,0,
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    folder = tmp_path_factory.mktemp("grid")
    found: dict[str, Drawing] = {}
    for name, text in (("grid", GRID), ("crowd", CROWD)):
        (folder / f"{name}.csv").write_text(text)
        study = read_csv(str(folder / f"{name}.csv"))
        found |= {f"{name} {k}": d for k, d in drawings(find(study, reuse=3)).items()}
    return found | {f"poster {k}": d for k, d in drawings(find(read_csv("poster"), reuse=6)).items()}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_a_png_has_each_bar_where_and_as_long_as_the_drawing_says(drawn: dict[str, Drawing]) -> None:
    import matplotlib.image  # every worker collects this file, one runs it

    drawing = drawn["poster breakdown"]
    kept = io.BytesIO()
    png.figure_of(drawing).savefig(kept, dpi=96)  # a pixel a pixel
    kept.seek(0)
    picture = (matplotlib.image.imread(kept, format="png")[:, :, :3] * 255).round().astype(int)
    assert picture.shape[:2] == (round(drawing.height), round(drawing.width))
    bars = [s for s in drawing.shapes if isinstance(s, Rect) and s.hint and "student" in s.kind]
    assert len(bars) == 9
    for bar in bars:
        row = picture[round(bar.y + bar.height / 2)]
        blue = np.flatnonzero((np.abs(row - rgb(FILL["p-student"])) <= 2).all(axis=1))
        assert blue[0] == pytest.approx(bar.x, abs=2)
        assert blue[-1] == pytest.approx(bar.x + bar.width, abs=2)


def test_no_two_texts_of_a_figure_lie_over_each_other_and_none_is_cut_off(drawn: dict[str, Drawing]) -> None:
    assert len(drawn) == 8
    for name, drawing in drawn.items():
        figure = png.figure_of(drawing)
        figure.draw_without_rendering()
        boxes = [(t.get_text(), t.get_window_extent()) for t in figure.axes[0].texts]
        assert len(boxes) == sum(isinstance(s, Words) for s in drawing.shapes) > 8
        for (a, one), (b, other) in itertools.combinations(boxes, 2):
            apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
            assert apart, (name, a, b)
        for text, box in boxes:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, (name, text)
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, (name, text)


def test_no_text_covers_a_mark(drawn: dict[str, Drawing]) -> None:
    for name, drawing in drawn.items():
        figure = png.figure_of(drawing)
        figure.draw_without_rendering()
        to_px = figure.axes[0].transData.transform
        marks = [tuple(to_px((s.x, s.y))) for s in drawing.shapes if isinstance(s, Mark)]
        assert marks or "breakdown" in name
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert not any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for x, y in marks), (
                name,
                text.get_text(),
            )


def test_every_axis_says_its_unit(drawn: dict[str, Drawing]) -> None:
    for name, drawing in drawn.items():
        texts = {s.text for s in drawing.shapes if isinstance(s, Words)}
        assert "energy / kWh" in texts, name


def test_parts_of_a_bar_can_be_told_apart_in_grey() -> None:
    grey = {
        name: float(np.dot(rgb(c), (0.2126, 0.7152, 0.0722))) for name, c in FILL.items() if name[0] == "p"
    }
    for a, b in itertools.combinations(grey, 2):
        assert abs(grey[a] - grey[b]) > 12, (a, b)  # of 255; the teacher's is hatched besides


def test_the_command_writes_each_figure_in_each_format_asked_for(tmp_path: Path) -> None:
    folder, out = tmp_path / "figures", tmp_path / "r.html"
    both = ["--figure-format", "png", "--figure-format", "svg"]
    assert run(["report", "--study", "poster", "-o", str(out), "--figures", str(folder), *both]) == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "breakdown.png", "breakdown.svg", "breakeven.png", "breakeven.svg"
    ]  # fmt: skip
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 200_000


def test_without_matplotlib_a_png_is_refused_with_a_cure_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(png, "find_spec", lambda name: None)
    command = [
        "report",
        "--study",
        "poster",
        "-o",
        str(tmp_path / "r.html"),
        "--figures",
        str(tmp_path / "f"),
    ]
    assert run([*command, "--figure-format", "png"]) == 78
    assert "pip install 'energyd[figures]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(command) == 0


def test_reports_of_runs_stand_below_each_other_and_their_traces_become_files(
    store: Store, tmp_path: Path
) -> None:
    store.device(0)
    store.power(0, range(T0, T0 + 60 * S, 20 * MS), lambda t: 100_000 + 300_000 * (t // (10 * S) % 2))
    for number in range(2):
        begin = T0 + S + number * 25 * S
        store.run(f"r{number}", f"train {number}", begin, begin + 20 * S)
        store.stage(f"r{number}", f"s{number}", "student.train", begin, begin + 20 * S)
    root, out, folder = str(store.write()), tmp_path / "r.html", tmp_path / "f"
    command = ["report", "r0", "train 1", "--store", root, "-o", str(out), "--figures", str(folder)]
    assert run([*command, "--figure-format", "png"]) == 0
    assert out.read_text().count("<h1>") == 2
    assert sorted(p.name for p in folder.iterdir()) == ["power-1.png", "power-2.png"]
