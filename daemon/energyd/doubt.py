"""How wrong may a stage's energy be, and which of its two figures is the better one?

Two figures are independent of each other: the integral of power samples, and the difference of the hardware
counter. Each gets a random doubt from what its own sensor may have missed; the board's systematic error,
the same for all stages on it, comes on top. All doubts are k = 2. Terms and sources: docs/measurement.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from energyd.beats import GAIN_SHARE, Beat
from energyd.energy import Edge
from energyd.sensing import Sensing
from energyd.stages import Anchor
from energyd.unseen import edges_variance_j2, place_variance_j2, unseen_variance_j2

K: Final = 2.0
_RECT: Final = 1 / 3  # variance of a value that lies anywhere within ±1

FLOOR_W: Final = 5.0
"""Systematic error of a GPU's sensor at low power, W: NVIDIA's older ±5 W; a share of little is less."""


@dataclass(frozen=True)
class Device:
    """What the doubt of a device's energies depends on."""

    source: str
    origin: str
    period_ns: int
    accuracy: float | None = None  # half-width of the systematic error, as a share; None: exact
    floor_w: float = 0.0
    counter_period_ns: int = 0
    sensor: str = ""  # of a replay: the one that was recorded

    @property
    def power(self) -> str:
        """The sensor whose power is integrated."""
        return self.sensor or self.source


@dataclass(frozen=True)
class Figure:
    """A stage's energy on a device as it is told, µJ."""

    energy_uj: int
    method: str  # integral | counter
    u_random_uj: int
    u_total_uj: int
    u_integral_uj: int
    u_counter_uj: int | None = None
    flags: set[str] = field(default_factory=set)
    note: str | None = None


def integral_variance_j2(sensing: Sensing, begin: Edge, end: Edge, doubt_ns: int) -> float:
    """Of the power integral between two edges. `doubt_ns`: by how much a marker may be off."""
    gaps = end.bridge_j2 - begin.bridge_j2 + begin.split_j2 + end.split_j2
    marker = (doubt_ns / 1e9) ** 2 * _RECT * max(begin.p_w, end.p_w) ** 2
    seen = unseen_variance_j2(sensing, begin.rough, end.rough) + edges_variance_j2(sensing, begin, end)
    return seen + gaps + marker


def counter_variance_j2(
    device: Device, sensing: Sensing, reads: tuple[Anchor, Anchor], edges: tuple[Edge, Edge], doubt_ns: int
) -> float:
    """Of the counter's difference, carried from its reads to the edges by the power integral."""
    step_s = device.counter_period_ns / 1e9
    variance = 0.0
    for read, edge in zip(reads, edges, strict=True):
        # Each read is as old as the counter's last step; half of that is taken off its stamp.
        variance += step_s**2 / 12 * (read.p_w**2 + read.range_w**2)
        variance += unseen_variance_j2(sensing, read.rough, edge.rough)
        variance += abs(edge.bridge_j2 - read.bridge_j2) + edge.split_j2
        variance += place_variance_j2(sensing, edge) + place_variance_j2(sensing, read)
    marker = (doubt_ns / 1e9) ** 2 * _RECT * max(edge.p_w for edge in edges) ** 2
    return variance + marker


def u_uj(variance_j2: float) -> int:
    """Doubt in µJ, k = 2."""
    return round(K * math.sqrt(variance_j2) * 1e6)


def reconcile(
    device: Device,
    integral_uj: int,
    u_integral_uj: int,
    counter: tuple[int, int, int] | None,
    length_ns: int,
    beat: Beat = Beat(),  # noqa: B008 (frozen)
) -> Figure:
    """Which figure is told. `counter`: its µJ, its doubt in µJ, and the ns that the integral carried it.

    A ring's integral always, since it sees all power and its edges are sharp; of a polled sensor's integral
    and the counter, the one that is less in doubt. Where the two part beyond doubt and gain, the doubt is
    widened to reach the other, unless it is the counter's beside instant power. `beat`: how far the two were
    apart over the last seconds, which one stage's own samples may not show.
    """
    word = "aliased" if device.power == "instant" else "disagree"
    flags = {word} if beat else set[str]()
    note = _parting(device, beat) if beat else None
    u_integral_uj = round(math.hypot(u_integral_uj, _beat_uj(beat, integral_uj, length_ns)))
    if counter is None or counter[0] < 0:  # less than nothing: carried to the edges by a wrong integral
        u_total = _total(device, integral_uj, u_integral_uj, length_ns)
        return Figure(integral_uj, "integral", u_integral_uj, u_total, u_integral_uj, None, flags, note)
    counter_uj, u_counter, carried_ns = counter
    apart = abs(integral_uj - counter_uj)
    allowed = math.hypot(u_integral_uj, u_counter) + GAIN_SHARE * abs(counter_uj)
    by_counter = False
    if device.power in ("instant", "average"):
        # Calm samples are no proof of a calm load: the counter's word is a bound of what they missed.
        u_integral_uj = max(u_integral_uj, apart)
        # An integral that is off by a share is off where it carries the counter to the edges too: there by
        # more or less than on the whole, since a beat with the sensor comes and goes.
        carried = min(carried_ns / max(length_ns, 1), 1)
        carry_uj = math.hypot(2.5 * apart * carried, _beat_uj(beat, carried * counter_uj, carried_ns))
        u_counter = round(math.hypot(u_counter, carry_uj))
        by_counter = u_counter < u_integral_uj
    u_random = u_counter if by_counter else u_integral_uj
    if apart > allowed:
        flags.add(word)
        # Of instant power it is known how it goes wrong; else nobody knows which of the two does.
        u_random = u_random if device.power == "instant" and by_counter else max(u_random, apart)
        note = _parted(device, integral_uj, counter_uj, allowed, by_counter)
    energy, method = (counter_uj, "counter") if by_counter else (integral_uj, "integral")
    u_total = _total(device, energy, u_random, length_ns)
    return Figure(energy, method, u_random, u_total, u_integral_uj, u_counter, flags, note)


def _beat_uj(beat: Beat, energy_uj: float, length_ns: int) -> int:
    return u_uj(beat.variance_j2(energy_uj / 1e6, length_ns / 1e9))


def _parting(device: Device, beat: Beat) -> str:
    return (
        f"over the seconds around, the {device.power} integral was off the counter by"
        f" {100 * max(beat.bias, beat.swing):.1f} %"
    )


def _total(device: Device, energy_uj: int, u_random_uj: int, length_ns: int) -> int:
    """With the board's systematic error, which has the same sign in every stage on it."""
    if device.accuracy is None:
        return u_random_uj
    half_uj = max(device.accuracy * abs(energy_uj), device.floor_w * length_ns / 1e3)
    return round(math.hypot(u_random_uj, K * math.sqrt(_RECT) * half_uj))


def _parted(device: Device, integral_uj: int, counter_uj: int, allowed: float, by_counter: bool) -> str:
    share = f" ({100 * (integral_uj / counter_uj - 1):+.1f} %)" if counter_uj else ""
    why = (
        "the load may swing at the sensor's own period, or one of the two is wrong"
        if device.power == "instant"
        else "one of the two sensors is wrong"
    )
    kept = "the counter's is told" if by_counter else "the integral's is told, its doubt reaches the other"
    return (
        f"{device.power} integral {integral_uj / 1e6:.1f} J, counter {counter_uj / 1e6:.1f} J{share}:"
        f" further apart than the {allowed / 1e6:.1f} J that their doubts allow; {why}; {kept}"
    )
