"""How much of a device's time and energy lies under several spans together? Each moment once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of time on one device, with the running integral at both ends (None: unknown)."""

    a_ns: int
    a_uj: int | None
    b_ns: int
    b_uj: int | None


def union(spans: Iterable[Span]) -> tuple[int, int | None]:
    """(ns, µJ) under any of the spans; µJ None if an end that counts is unknown."""
    blocks: list[Span] = []
    for span in sorted(spans, key=lambda s: s.a_ns):
        if span.b_ns <= span.a_ns:
            continue
        last = blocks[-1] if blocks else None
        if last is None or span.a_ns > last.b_ns:
            blocks.append(span)
        elif span.b_ns > last.b_ns:
            blocks[-1] = Span(last.a_ns, last.a_uj, span.b_ns, span.b_uj)
    ns, uj = 0, 0
    known = True
    for block in blocks:
        ns += block.b_ns - block.a_ns
        if block.a_uj is None or block.b_uj is None:
            known = False
        else:
            uj += block.b_uj - block.a_uj
    return ns, uj if known else None


def plus(one: int | None, other: int | None) -> int | None:
    """A sum of energies; unknown if either is."""
    return None if one is None or other is None else one + other
