"""How many bytes does a sample take once its hour is sealed, running integral included?

    python tests/bench/storage.py [--quick] [--out DIR]

The daemon's own code writes them: samples through the running integral into hot.duckdb, half a minute a
commit, then the hour's sealing. Eight devices, one hour. Power is what an H100's ring said under each load of
docs/results/accuracy-h100, repeated with noise of 0.2 % from the second time on (a repetition to the digit
would compress too well), and what the simulated source plays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import ROOT, Bench, run

RECORDED = ROOT / "docs" / "results" / "accuracy-h100"
START_NS = 490_000 * 3_600_000_000_000  # an hour's begin
HOUR_NS = 3_600_000_000_000
NOISE = 0.002
DEVICES = 8

Samples = tuple[NDArray[np.int64], NDArray[np.int32]]


def recorded(paths: list[Path], device: int, length_ns: int) -> Samples:
    """Stamps and mW of one device: the loads one after the other, from another one on each device."""
    rng = np.random.default_rng(device)
    loads = []
    for path in paths[device % len(paths) :] + paths[: device % len(paths)]:
        with np.load(path) as data:
            loads.append((data["ring_t_ns"], data["ring_mw"]))
    steps, power, total, round_ = [], [], 0, 0
    while total < length_ns:
        for t_ns, mw in loads:
            step = np.diff(t_ns, prepend=t_ns[0] - 20_000_000)
            step = np.clip(step, 1_000_000, 50_000_000)
            if round_:
                step = np.maximum(1_000_000, step + 1000 * rng.integers(-20, 21, len(step)))
            steps.append(step)
            power.append(np.rint(mw * rng.normal(1, NOISE, len(mw))) if round_ else mw)
            total += int(step.sum())
        round_ += 1
    t = START_NS + device * 1_234_000 + np.cumsum(np.concatenate(steps))
    keep = t < START_NS + length_ns
    return t[keep].astype(np.int64), np.concatenate(power)[keep].astype(np.int32)


def simulated(device: int, length_ns: int) -> Samples:
    """Stamps and mW of one of the simulated source's curves."""
    from energyd.sources.simulated import CURVES, GRID_NS

    curve = list(CURVES.values())[device % len(CURVES)]
    t = START_NS + np.arange(1, length_ns // GRID_NS, dtype=np.int64) * GRID_NS
    return t, curve.power_mw(t)


def sealed_bytes(folder: Path, devices: list[Samples]) -> tuple[int, int]:
    """(bytes of the sealed file, samples in it)."""
    from energyd.energy import DeviceLog, Totals
    from energyd.store import Layout
    from energyd.store.write import Batch, HotStore

    folder.mkdir()
    store = HotStore(Layout(folder))
    store.hour(START_NS // HOUR_NS)
    logs = [DeviceLog(d, 10**12, Totals()) for d in range(len(devices))]
    piece_ns = 30_000_000_000
    for begin in range(START_NS, START_NS + HOUR_NS, piece_ns):
        batch = Batch()
        for d, (t, mw) in enumerate(devices):
            a, b = np.searchsorted(t, [begin, begin + piece_ns])
            if b > a:
                batch.samples.append((d, logs[d].append(t[a:b], mw[a:b])))
        store.commit(batch)
    found = store.seal(START_NS // HOUR_NS, START_NS // HOUR_NS + 1)
    store.close()
    return (folder / found["samples"]).stat().st_size, sum(len(t) for t, _ in devices)


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    length_ns = HOUR_NS // 60 if bench.options.quick else HOUR_NS
    loads = sorted(RECORDED.glob("*.npz"))
    cases = {
        "recorded H100 loads": [recorded(loads, d, length_ns) for d in range(DEVICES)],
        "the noisiest load alone": [recorded([_noisiest(loads)], d, length_ns) for d in range(DEVICES)],
        "simulated": [simulated(d, length_ns) for d in range(DEVICES)],
    }
    for i, (name, devices) in enumerate(cases.items()):
        size, n = sealed_bytes(folder / str(i), devices)
        bench.raw[name] = {"bytes": size, "samples": n}
        bench.add(f"bytes a sample sealed, {name}", size / n, "bytes", target=9, note=f"{n:,} samples")
        if i == 0:
            day_mb = size / n * DEVICES * 50 * 86_400 / 1e6
            bench.add("a day of it, 50 samples a second", day_mb, "MB", note=f"{DEVICES} devices")


def _noisiest(paths: list[Path]) -> Path:
    """The load whose power changes most from sample to sample."""

    def restless(path: Path) -> float:
        with np.load(path) as data:
            return float(np.median(np.abs(np.diff(data["ring_mw"]))))

    return max(paths, key=restless)


if __name__ == "__main__":
    run("storage", "how many bytes does a sealed sample take?", __doc__, measure)
