"""Which sources does `--source` mean on this machine?"""

from __future__ import annotations

from pathlib import Path

from energyd.sources import Source, SourceError
from energyd.sources.codecarbon import CodeCarbonSource
from energyd.sources.gpu import GpuSource
from energyd.sources.rapl import RaplSource
from energyd.sources.rapl_zones import POWERCAP, look
from energyd.sources.replay import ReplaySource
from energyd.sources.simulated import SimulatedSource


def discover(
    spec: str, *, speed: float = 1.0, interval_s: float = 0.5, powercap: Path = POWERCAP
) -> list[Source]:
    """The sources of `auto`, `replay:DIR` or `simulated`, not yet open. Raises SourceError for any other.

    `auto` is the GPUs by NVML and the CPU by RAPL where that can be read, else by CodeCarbon's estimate,
    which then says why.
    """
    kind, colon, folder = spec.partition(":")
    if kind == "replay" and folder:
        return [ReplaySource(Path(folder), speed, interval_s)]
    if speed != 1:
        raise SourceError(f"--speed {speed:g}: only a replay has a speed.\nUse it with --source replay:DIR.")
    if kind == "simulated" and not colon:
        return [SimulatedSource(interval_s)]
    if kind == "auto" and not colon:
        return [GpuSource(interval_s), _cpu(powercap)]
    raise SourceError(f"--source {spec}: unknown.\nThe choices are auto, replay:DIR and simulated.")


def _cpu(powercap: Path) -> Source:
    found = look(powercap)
    if any(zone.domain == "cpu" for zone in found.zones):
        return RaplSource(powercap)
    why = found.denied.get("cpu") or found.missing or f"{powercap} has no package zone"
    dram = found.denied.get("dram")
    if any(zone.domain == "dram" for zone in found.zones):
        dram = "RAPL's memory counters are read only beside its package counters"
    return CodeCarbonSource(why, dram)
