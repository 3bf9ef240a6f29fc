"""Does what two_gpus.py read hold? Claims against the counters, and the page of them; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

LIMIT = 0.01
"""What integral and counter may be apart."""

CPU_BUDGET = 0.03
"""Share of a core that the daemon may take while it watches."""

APART_NS = 500_000_000
"""Between two counter reads of a daemon that reads one a second."""

Window = tuple[int, int]


def union(windows: list[Window]) -> list[Window]:
    """The same moments, each once."""
    found: list[Window] = []
    for t0, t1 in sorted(windows):
        if found and t0 <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], t1)
        else:
            found.append((t0, t1))
    return found


def common(a: Window, b: Window) -> list[Window]:
    """Where both are."""
    t0, t1 = max(a[0], b[0]), min(a[1], b[1])
    return [(t0, t1)] if t1 > t0 else []


@dataclass
class Report:
    """Claims as they are checked, and the page of them."""

    raw: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    failed: bool = False
    page: str = ""

    def __post_init__(self) -> None:
        self.gpu = {d["device"]: self.raw["order"].index(d["uuid"])
                    for d in self.raw["devices"] if d["domain"] == "gpu"}  # fmt: skip
        self._steps = {}
        for gpu in self.gpu.values():
            steps = [(t, mj) for k, t, mj in self.raw["steps"] if k == gpu]
            self._steps[gpu] = np.array(steps, dtype=np.int64).T

    def head(self, text: str) -> None:
        """A part of the table."""
        self.lines.append(f"| **{text}** | | |")

    def claim(self, what: str, holds: bool, figures: str) -> None:
        """One row; what does not hold fails the whole."""
        self.failed |= not holds
        self.lines.append(f"| {what} | {figures} | {'yes' if holds else '**no**'} |")

    def agrees(self, what: str, told_j: float | None, counted_j: float, of_j: float | None = None) -> None:
        """A figure against the counter's, to 1 % of `of_j` (default: of the counter's)."""
        whole_j = counted_j if of_j is None else of_j
        off = None if told_j is None or not whole_j else (told_j - counted_j) / whole_j
        shown = "NULL" if told_j is None or off is None else f"{told_j:,.1f} J, {100 * off:+.2f} %"
        self.claim(what, off is not None and abs(off) <= LIMIT, f"{shown} of {counted_j:,.1f} J counted")

    def counted_j(self, gpu: int, windows: list[Window]) -> float:
        """What the counter of a GPU says of some windows in store time, each moment once, J."""
        t, mj = self._steps[gpu]
        edges = np.array(union(windows), dtype=np.int64) - self.raw["offset_ns"]
        if edges.size and (edges.min() < t[0] or edges.max() > t[-1]):
            return float("nan")  # the log does not reach so far
        # Times since the first step: whole ns since the boot are too long for a float.
        at = np.interp((edges - t[0]).ravel(), t - t[0], mj - mj[0]).reshape(-1, 2)
        return float((at[:, 1] - at[:, 0]).sum()) / 1000

    def rows(self, run_id: str, name: str | None = None) -> list[dict[str, Any]]:
        """Energies on GPUs of a run's stages."""
        found = [e for e in self.raw["energies"] if e["run_id"] == run_id]
        return found if name is None else [e for e in found if e["stage"] == name]

    def total(self, run_id: str) -> dict[str, Any]:
        """The run as a whole."""
        found: dict[str, Any] = next(t for t in self.raw["totals"] if t["run_id"] == run_id)
        return found


def window(row: dict[str, Any]) -> Window:
    """When a stage ran, in store time."""
    return row["t0_ns"], row["t1_ns"]


def _seconds(windows: list[Window]) -> float:
    return sum(t1 - t0 for t0, t1 in union(windows)) / 1e9


def _quiet(report: Report) -> None:
    quiet = report.raw["quiet"]
    report.head("The daemon alone")
    reads = [(device, t_ns) for device, t_ns in quiet["reads"]]
    nearest = min((b - a for (_, a), (_, b) in pairwise(reads)), default=0)
    each = [sum(device == d for device, _ in reads) for d in report.gpu]
    report.claim(
        "counters are read in turn, one a second, never two together",
        nearest >= APART_NS and max(each) - min(each) <= 1,
        f"{', '.join(map(str, each))} reads of each GPU in {quiet['wall_s']:.1f} s, the nearest two "
        f"{nearest / 1e9:.2f} s apart",
    )
    share = quiet["cpu_s"] / quiet["wall_s"]
    report.claim(
        f"it takes less than {100 * CPU_BUDGET:g} % of a core", share < CPU_BUDGET,
        f"{100 * share:.2f} % with {len(report.gpu)} GPUs",
    )  # fmt: skip


def _ranks(report: Report) -> None:
    ranks = report.raw["ranks"]
    rows, total = report.rows(ranks["run_id"]), report.total(ranks["run_id"])
    report.head("Two ranks of one run under torchrun")
    top = [r for r in rows if r["parent_id"] is None]
    report.claim(
        "both ranks are in one run, which ended well", len({r["stage"] for r in top}) == 5 == len(top)
        and total["status"] == "ok", f"{len(top)} of ranks, {total['n_stages']} in all, {total['status']}",
    )  # fmt: skip
    right = all(report.gpu[r["device"]] == int(r["stage"][-1]) for r in top)
    steps = {r["stage_id"] for r in rows if r["parent_id"]}
    report.claim(
        "each stage covers the GPU that it names, and no other", right and len(steps) == len(rows) - len(top),
        ", ".join(f"{r['stage']}: GPU {report.gpu[r['device']]}" for r in top),
    )  # fmt: skip
    for row in top:
        gpu = report.gpu[row["device"]]
        report.agrees(f"`{row['stage']}`, {_seconds([window(row)]):.1f} s", row["energy_j"],
                      report.counted_j(gpu, [window(row)]))  # fmt: skip
    by_gpu = {gpu: [window(r) for r in rows if report.gpu[r["device"]] == gpu] for gpu in report.gpu.values()}
    counted = sum(report.counted_j(gpu, windows) for gpu, windows in by_gpu.items())
    report.agrees("the run: both GPUs, over the union of its intervals", total["gpu_j"], counted)
    span = [(min(r["t0_ns"] for r in rows), max(r["t1_ns"] for r in rows))]
    apart = sum(report.counted_j(gpu, span) for gpu in by_gpu) - counted
    only_once = total["gpu_j"] is not None and apart > 0 and total["gpu_j"] < counted + apart / 2
    report.claim(
        "GPU 1 is not charged while rank 0 works alone", only_once,
        f"{apart:,.1f} J that both took between the run's stages are in none",
    )  # fmt: skip
    told = (total["counts"] or {}).get("positions")
    report.claim("tokens are summed over ranks", told == sum(ranks["positions"]) > 0,
                 f"{' + '.join(f'{n:,}' for n in ranks['positions'])} = {told or 0:,}")  # fmt: skip


def _pair(report: Report, name: str, words: str) -> None:
    pair = report.raw[name]
    report.head(f"Two runs at once, {words}")
    mine = [report.rows(run_id) for run_id in pair["run_ids"]]
    placed = [[report.gpu[r["device"]] for r in rows] for rows in mine]
    report.claim("each is charged for its own GPU alone", placed == [[gpu] for gpu in pair["gpus"]],
                 "; ".join(f"GPU {', '.join(map(str, gpus))}" for gpus in placed))  # fmt: skip
    if [len(rows) for rows in mine] != [1, 1]:
        return
    (a,), (b,) = mine
    together = common(window(a), window(b))
    for k, (row, run_id) in enumerate(((a, pair["run_ids"][0]), (b, pair["run_ids"][1])), 1):
        gpu, whole = pair["gpus"][k - 1], window(row)
        beside = together if pair["gpus"][0] == pair["gpus"][1] else []
        full_j, shared_j = report.counted_j(gpu, [whole]), report.counted_j(gpu, beside)
        report.agrees(f"run {k}: full energy", row["energy_j"], full_j)
        report.agrees(f"run {k}: its total", report.total(run_id)["gpu_j"], full_j)
        report.agrees(f"run {k}: exclusive energy", row["exclusive_j"], full_j - shared_j, full_j)
        report.claim(
            f"run {k}: overlap", abs(row["overlap_s"] - _seconds(beside)) < 1e-6
            and ("shared_gpu" in row["flags"]) == bool(beside),
            f"{row['overlap_s']:.3f} s of {_seconds([whole]):.3f} s; {', '.join(row['flags']) or 'no flags'}",
        )  # fmt: skip


def judge(raw: dict[str, Any]) -> Report:
    """The claims and the page."""
    report = Report(raw)
    _quiet(report)
    _ranks(report)
    _pair(report, "one each", "one a GPU by CUDA_VISIBLE_DEVICES")
    _pair(report, "one each, unsaid", "one a GPU, nothing said")
    _pair(report, "both on one", "on one GPU")
    machine = raw["machine"]
    gpus = [d for d in raw["devices"] if d["domain"] == "gpu"]
    where = f"{len(gpus)} × {gpus[0]['name']} (driver {gpus[0]['driver']}, source {gpus[0]['source']})"
    if machine["fake"]:
        where = f"the tests' fake NVML library, no hardware: {where}"
    report.page = "\n".join([
        f"# Two GPUs of one host{': fake NVML library, no hardware' if machine['fake'] else ''}",
        "",
        f"Generated by `tests/hardware/two_gpus.py page`; measured {machine['day']} on {where}, "
        f"{machine['cores']} cores,",
        f"Linux {machine['kernel']}, torch {machine['torch']}, transformers {machine['transformers']}. "
        f"Ranks: shape `{raw['shape']}`, DDP, {raw['seconds']:g} s.",
        "",
        "Each figure is held against the GPUs' own energy counters, logged step by step by a process of its",
        f"own: to {100 * LIMIT:g} %.",
        "",
        "| | seen | holds |",
        "|---|---|---|",
        *report.lines,
    ])  # fmt: skip
    return report
