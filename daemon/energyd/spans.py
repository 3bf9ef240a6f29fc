"""How much of a device's time and energy lies under several spans together? Unions, each moment once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A piece of time on one device, with the running integral at both ends (None: unknown)."""

    a_ns: int
    a_uj: int | None
    b_ns: int
    b_uj: int | None


class SpanUnion:
    """The union of spans, so that time under two stages counts once. Spans come mostly in order of end."""

    def __init__(
        self, spans: list[Span] | None = None, folded_ns: int = 0, folded_uj: int | None = 0
    ) -> None:
        self.spans = spans or []
        self.folded_ns = folded_ns
        self.folded_uj = folded_uj

    def add(self, new: Span) -> None:
        """Add one span, merging with what it touches."""
        if new.b_ns <= new.a_ns:
            return
        later: list[Span] = []
        while self.spans and self.spans[-1].a_ns > new.b_ns:
            later.append(self.spans.pop())
        while self.spans and self.spans[-1].b_ns >= new.a_ns:
            old = self.spans.pop()
            a = old if old.a_ns <= new.a_ns else new
            b = old if old.b_ns >= new.b_ns else new
            new = Span(a.a_ns, a.a_uj, b.b_ns, b.b_uj)
        self.spans.append(new)
        self.spans.extend(reversed(later))

    def fold(self, safe_ns: int) -> None:
        """Add up what ended before safe_ns, where no span can begin any more (a step loop has millions)."""
        while self.spans and self.spans[0].b_ns < safe_ns:
            self.folded_ns, self.folded_uj = _plus(self.folded_ns, self.folded_uj, self.spans.pop(0))

    def total(self) -> tuple[int, int | None]:
        """(ns, µJ) of the union; µJ None if any end is unknown."""
        ns, uj = self.folded_ns, self.folded_uj
        for span in self.spans:
            ns, uj = _plus(ns, uj, span)
        return ns, uj


def _plus(ns: int, uj: int | None, span: Span) -> tuple[int, int | None]:
    """A sum of time and energy with one more span; an unknown end makes the energy unknown."""
    ns += span.b_ns - span.a_ns
    if uj is None or span.a_uj is None or span.b_uj is None:
        return ns, None
    return ns, uj + span.b_uj - span.a_uj
