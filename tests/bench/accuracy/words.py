"""What does the report say around its tables?"""

from __future__ import annotations

from typing import Final


def _line(text: str) -> str:
    return " ".join(text.split())


HOW: Final = _line("""
    All tools read at once, each in a process of its own, while one load ran in another. They are used
    as their documentation says; where one knows one window at a time it has a process for each window
    length and takes those windows that do not overlap.
""")
REFERENCE: Final = _line("""
    It is itself a sensor with NVIDIA's ±5 %: what is compared here is tools with the board's own
    account, not with a wattmeter.
""")
POOLED: Final = _line("""
    Signed error p50, p95 of the absolute error and rate of missing results (no answer, or 0 J) over
    windows that begin and end at a step of the counter, so that each has an exact reference. Beside
    them windows of any phase, as a user's are: the mean of all repeats against the mean of the
    reference (± its standard error), and p95 of the absolute error against the counter drawn as a
    straight line between its steps. That reference is itself off by some per cent in the shortest
    windows of uneven loads.
""")
EACH: Final = _line("""
    Signed error p50 / p95 of the absolute error (missing results, if any) over tick windows; in the
    last columns the mean of repeats of any phase.
""")
HELPED: Final = _line("""
    p95 of the absolute error over all tick windows, recomputed from the kept samples (`variants.py`). A
    lag is what is taken off the driver's own stamps. Best lags were fitted on every other window of 0.2
    and 1 s; these two columns show the windows that were not fitted. The counter-anchored rows use
    steps of the counter that do not depend on the windows; they are the only ones that use the counter
    at all.
""")
BURSTY: Final = _line("""
    Square waves of 50 ms half period and more, and random bursts. The ratio says how many times further
    off than energyd's ring integral a tool is (p95 of the absolute error).
""")
LLM: Final = _line("""
    p50 of the signed error, largest absolute error (n): over windows of 12 s and more, the one over the
    whole steady time among them; over that one alone; and over the windows of 10 s.
""")
AS_GOOD: Final = _line("""
    report a difference of the very counter that is the reference, and tick windows begin just after it
    stepped, so there they are exact by construction; over windows of 10 s and more a user may take them
    as such. At a phase of its own such a difference is off by up to a step (100 ms) at each edge: the
    columns for any phase show it. It costs two reads of the counter inside the measured program.
""")
DOUBT: Final = _line("""
    Stages of the client over tick windows. Within: share of stages whose error is no larger than the
    stated doubt (`u_random_j` of `energy_j`, `u_integral_j` of `integral_j`, k = 2); in brackets, where
    the reference's own doubt (how well its steps' instants are known, times the window's mean power) is
    allowed beside it. A figure that was taken from the counter is not independent of the reference; the
    integral always is. Stages begin and end a few milliseconds after the step; the ring's power over
    these moments carries them back to it.
""")
