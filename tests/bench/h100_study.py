"""What do the poster's pipelines cost at true shapes on one H100? Runs pieces, makes the page.

    python3 tests/bench/h100_study.py run --out DIR part=students sizes=1b,7b      (h100.py has all settings)
    python3 tests/bench/h100_study.py frontier --out DIR       students that learn for real
    python3 tests/bench/h100_study.py report docs/results/h100-study      writes ….md, ….csv, ….html beside it

A piece ends within its `minutes` and leaves one archive in DIR. Exit 75: more is left; with the archives of
earlier calls in DIR, or in a folder named by --seen, the same command goes on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accuracy import paths


def main() -> int:
    """Run a piece, or write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure one piece")
    runs.add_argument("words", nargs="*", metavar="key=value")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--seen", type=Path, action="append", default=[], help="archives of earlier calls")
    runs.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "energyd-h100-cache")
    learns = commands.add_parser("frontier", help="a teacher and students that learn for real")
    learns.add_argument("words", nargs="*", metavar="key=value", help="of the students' preset")
    learns.add_argument("--out", type=Path, required=True)
    learns.add_argument("--minutes", type=float, default=9.0, help="begins no cell that would end later")
    learns.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "energyd-h100-frontier",
                        help="what stays for the next call")
    learns.add_argument("--teacher", action="append", default=[], metavar="key=value")
    reports = commands.add_parser("report", help="write the pages, beside the folder")
    reports.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        from bench.h100 import piece

        return piece.run(options.words, options.out.resolve(), options.seen, options.cache.resolve())
    if options.command == "frontier":
        from bench.h100 import frontier

        return frontier.measure(
            options.words, options.teacher, options.out.resolve(), minutes=options.minutes,
            place=options.place.resolve(),
        )  # fmt: skip
    sys.path.insert(0, str(paths.ROOT / "pipelines"))
    paths.export()
    from bench.h100 import study

    folder = options.folder.resolve()
    for suffix, text in study.written(folder).items():
        path = folder.with_name(folder.name + suffix)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
