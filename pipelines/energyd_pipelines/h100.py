"""What does each stage of the three pipelines cost at the poster's true shapes, on one H100 80 GB?

    distill run h100 [part=students|logits|generate|eager|teacher] [sizes=1b,7b] [minutes=9] [out=DIR] …

Random weights, nothing downloaded; pieces that fit into minutes and go on where the last one stopped:

  students   idle, idle with a context, burn; then SFT and KD steps and evaluation of each size, and for the
             1B a loader of nested lists that starves the GPU on purpose
  logits     the 32B teacher fills a KD cache: prefill, top-64, copy, write
  generate   it generates at several batch sizes: static cache, one CUDA graph a step
  eager      the same with transformers' own `generate` as it is
  teacher    logits and generate in one model load

Each window is one stage of a run of its own, with counts of tokens; DIR/windows.jsonl has a line for each,
with rates and MFU, beside whatever the daemon's store says. Windows of a piece come `repeats` times in a
random order within one model load. What DIR/windows.jsonl already has is not measured again; what fails (out
of memory, a graph that cannot be recorded) is a line with the reason, and the piece goes on. Exit 75: more
is left than the minutes allowed, the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from energyd_pipelines.errors import AGAIN, DistillError
from energyd_pipelines.h100_config import load, piece_of


def run(words: Sequence[str] = ()) -> int:
    """Measure one piece; the exit code. Raises DistillError for settings that cannot be."""
    config = load(words)
    piece = piece_of(config)
    from energyd_pipelines import h100_students, h100_teacher

    if config.part == "students":
        h100_students.measure(piece)
    else:
        h100_teacher.measure(piece)
    if piece.left:
        click.echo(f"left for the next call: {', '.join(piece.left)}")
        return AGAIN
    return 0


def main() -> int:
    """`python -m energyd_pipelines.h100 key=value …`."""
    try:
        return run(sys.argv[1:])
    except DistillError as error:
        click.echo(error, err=True)
        return error.code


if __name__ == "__main__":
    sys.exit(main())
