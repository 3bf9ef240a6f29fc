"""How does a report look in a browser, light, dark and printed? Pictures beside the page, for the docs.

    make screenshots PAGE=docs/results/poster.html

Needs chromium, pdftoppm (poppler-utils) and Pillow, which matplotlib brings.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

WIDE: Final = 1100  # px
TALL: Final = 6000  # px, then cut to the page's end
MOST: Final = 200_000  # bytes a picture
LOOKS: Final = {"light": [], "dark": ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]}


def main(page: Path) -> int:
    """Write PAGE-light.png, PAGE-dark.png and PAGE-print.png; 1 where something is missing."""
    for program in ("chromium", "pdftoppm"):
        if shutil.which(program) is None:
            print(f"screenshots: {program} is not installed", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        for look, options in LOOKS.items():
            browse(Path(folder), page, [*options, f"--window-size={WIDE},{TALL}", f"--screenshot={raw}"])
            keep(ends_cut_off(Image.open(raw).convert("RGB")), page.with_name(f"{page.stem}-{look}.png"))
        pdf = Path(folder) / "page.pdf"
        browse(Path(folder), page, ["--no-pdf-header-footer", f"--print-to-pdf={pdf}"])
        subprocess.run(["pdftoppm", "-r", "70", "-png", pdf, Path(folder) / "sheet"], check=True)
        sheets = [Image.open(p).convert("RGB") for p in sorted(Path(folder).glob("sheet*.png"))]
        keep(beside(sheets), page.with_name(f"{page.stem}-print.png"))
    return 0


def browse(folder: Path, page: Path, options: list[str]) -> None:
    """Open the page in a headless browser of its own."""
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", *options, page.resolve().as_uri()],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip


def ends_cut_off(picture: Image.Image) -> Image.Image:
    """Without the empty paper below the page."""
    paper = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))  # type: ignore[arg-type]
    from PIL import ImageChops

    box = ImageChops.difference(picture, paper).getbbox()
    return picture.crop((0, 0, picture.width, min(picture.height, (box[3] if box else 0) + 30)))


def beside(sheets: list[Image.Image]) -> Image.Image:
    """Printed sheets side by side on grey."""
    gap = 12
    wide = sum(s.width + gap for s in sheets) + gap
    found = Image.new("RGB", (wide, max(s.height for s in sheets) + 2 * gap), "#999999")
    left = gap
    for sheet in sheets:
        found.paste(sheet, (left, gap))
        left += sheet.width + gap
    return found


def keep(picture: Image.Image, path: Path) -> None:
    """As PNG of 64 colours, the rare ones too: text and bars lose nothing, and it is a third of the size."""
    few = picture.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path} {size / 1000:.0f} kB" + (", too large" if size > MOST else ""))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
