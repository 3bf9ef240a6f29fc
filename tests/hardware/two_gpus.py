"""Are ranks, devices and totals right on a host with two GPUs? Runs everything, keeps what was read.

    python3 tests/hardware/two_gpus.py measure --out DIR    (6 minutes; --shape tiny --seconds 4: a rehearsal)
    python3 tests/hardware/two_gpus.py page DIR > docs/results/two-gpus.md

A daemon of its own, then: it alone, nothing running (what does it cost, when does it read which counter?);
torchrun with one rank a GPU, which train a model of true shape by DDP, then rank 0 alone, then both one after
the other; two runs at once, one a GPU, told apart by CUDA_VISIBLE_DEVICES; the same with nothing said at all,
so that only NVML's lists tell; two runs on one GPU. Meanwhile another process logs both counters, and
everything is held against those. DIR gets two-gpus.json (all rows and counter steps) and store.tar.gz; exit 1
if a claim of the page does not hold. Needs torch and transformers beside energyd's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accuracy import paths
from hardware import two_gpus_page
from hardware.release_on_gpu import said, wait_for

PROGRAMS = str(Path(__file__).with_name("two_gpus_programs.py"))
SETTLE_S = 8.0  # the first live files are written 2 s after the start
TICK = os.sysconf("SC_CLK_TCK")
FAKE = "FAKE_NVML_CONTROL"
"""Set: the library is the tests' own, which has no processes but those that its script names."""


class Bench:
    """One daemon and what is asked of it."""

    def __init__(self, out: Path, store: str, options: argparse.Namespace) -> None:
        self.out, self.store, self.shape, self.seconds = out, store, options.shape, options.seconds

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = said("energyd", "status", "--store", self.store, "--json")
        return found

    def query(self, sql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = said("energyq", "--store", self.store, "--format", "json", sql)
        return found

    def settled(self) -> None:
        """Wait until no stage is open or pending."""
        if not wait_for(lambda: not (self.status()["open_stages"] + self.status()["pending_stages"]), 60):
            sys.exit(f"stages stay open or pending: {self.status()}")

    def quiet(self) -> dict[str, Any]:
        """The daemon alone: its CPU time, and its counter reads."""
        time.sleep(min(SETTLE_S, self.seconds))
        status = self.status()
        pid, t0_ns, cpu_s = status["pid"], status["now_ns"], _cpu_s(status["pid"])
        began = time.monotonic()
        time.sleep(self.seconds)
        spent, wall = _cpu_s(pid) - cpu_s, time.monotonic() - began
        t1_ns = self.status()["now_ns"]
        reads = self.query(
            f"SELECT device, t_ns FROM counters WHERE t_ns BETWEEN {t0_ns} AND {t1_ns} ORDER BY t_ns"
        )
        return {"cpu_s": spent, "wall_s": wall, "reads": [[r["device"], r["t_ns"]] for r in reads]}

    def ranks(self) -> dict[str, Any]:
        """One run of two ranks under torchrun; what they counted themselves."""
        options = ["--shape", self.shape, "--seconds", str(self.seconds), "--out", str(self.out)]
        done = subprocess.run(
            [sys.executable, PROGRAMS, "launch", *options], check=True, stdout=subprocess.PIPE, text=True
        )
        told = [json.loads((self.out / f"rank-{k}.json").read_text()) for k in range(2)]
        return {"run_id": done.stdout.strip(), "positions": [one["positions"] for one in told]}

    def pair(self, name: str, gpus: tuple[int, int], *, told: bool) -> dict[str, Any]:
        """Two loads at once, the second a third later. `told`: by CUDA_VISIBLE_DEVICES; else by nothing."""
        with contextlib.ExitStack() as stack:
            loads = [stack.enter_context(self._load(f"{name} {k}", gpu, told)) for k, gpu in enumerate(gpus)]
            pids = [int(_line(one)) for one in loads]
            if FAKE in os.environ:
                _list_in_fake(zip(gpus, pids, strict=True))
            time.sleep(2.5)  # NVML's lists are read once a second
            for k, one in enumerate(loads):
                time.sleep(k * self.seconds / 6)
                assert one.stdin is not None
                one.stdin.write("go\n")
                one.stdin.flush()
            return {"run_ids": [_line(one) for one in loads], "gpus": list(gpus)}

    @contextlib.contextmanager
    def _load(self, name: str, gpu: int, told: bool) -> Iterator[subprocess.Popen[str]]:
        options = ["--name", name, "--seconds", str(self.seconds / 2), "--gpu", "0" if told else str(gpu)]
        env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        env |= {"CUDA_VISIBLE_DEVICES": str(gpu)} if told else {}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [sys.executable, PROGRAMS, "load", *options], env=env, stdin=pipe, stdout=pipe, text=True
        ) as process:
            yield process
        if process.returncode:
            sys.exit(f"load {name!r}: exit {process.returncode}")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _list_in_fake(users: Iterator[tuple[int, int]]) -> None:
    control = Path(os.environ[FAKE])
    lists: dict[int, list[str]] = {}
    for gpu, pid in users:
        lists.setdefault(gpu, []).append(str(pid))
    kept = [line for line in control.read_text().splitlines() if not line.startswith("pids")]
    new = control.with_suffix(".next")
    new.write_text("\n".join([*kept, *(f"pids {gpu} {' '.join(pids)}" for gpu, pids in lists.items()), ""]))
    new.replace(control)


@contextlib.contextmanager
def _counters(log: Path) -> Iterator[None]:
    """Both counters are logged meanwhile."""
    with log.open("w") as lines, subprocess.Popen(
        [sys.executable, PROGRAMS, "counters"], stdin=subprocess.PIPE, stdout=lines
    ) as logger:  # fmt: skip
        if not wait_for(lambda: log.stat().st_size):
            sys.exit("the log of counters stays empty: do they step? (`nvidia-smi`)")
        yield
        time.sleep(0.5)  # a step after the last edge
        assert logger.stdin is not None
        logger.stdin.close()


def measure(bench: Bench) -> dict[str, Any]:
    """Everything, as it was read."""
    log = bench.out / "counters.jsonl"
    raw: dict[str, Any] = {"quiet": bench.quiet()}
    with _counters(log):
        raw["ranks"] = bench.ranks()
        raw["one each"] = bench.pair("one each", (0, 1), told=True)
        raw["one each, unsaid"] = bench.pair("unsaid", (0, 1), told=False)
        raw["both on one"] = bench.pair("both on one", (0, 0), told=True)
    bench.settled()
    raw["steps"] = [json.loads(line) for line in log.read_text().splitlines()]
    raw["offset_ns"] = bench.query("SELECT offset_ns FROM boots ORDER BY t_ns DESC LIMIT 1")[0]["offset_ns"]
    raw["devices"] = bench.query(
        "SELECT device, uuid, domain, name, driver, source FROM devices ORDER BY device"
    )
    raw["order"] = [d["uuid"] for d in bench.status()["devices"] if d["domain"] == "gpu"]
    raw["energies"] = bench.query("FROM stage_energy WHERE domain = 'gpu' ORDER BY t0_ns, device")
    raw["totals"] = bench.query("FROM run_totals ORDER BY t0_ns")
    return raw


def main() -> int:
    """Measure, or print the page; say whether all of it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("measure")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--shape", default="1b", choices=("tiny", "1b"))
    runs.add_argument("--seconds", type=float, default=60, help="of the longest part; the others are shorter")
    pages = commands.add_parser("page")
    pages.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "measure":
        out = options.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        paths.export()
        os.environ["PYTHONPATH"] = f"{paths.ROOT / 'pipelines'}{os.pathsep}{os.environ['PYTHONPATH']}"
        store = str(Path(tempfile.mkdtemp(prefix="2g")) / "s")
        os.environ |= {"ENERGYD_ENDPOINT": f"ipc://{store}/energyd.sock", "ENERGYD_SPOOL": f"{store}/spool"}
        said("energyd", "start", "--store", store)
        try:
            raw = measure(Bench(out, store, options))
        finally:
            said("energyd", "stop", "--store", store)
        raw |= {"machine": _machine(), "shape": options.shape, "seconds": options.seconds}
        (out / "two-gpus.json").write_text(json.dumps(raw, separators=(",", ":")))
        with tarfile.open(out / "store.tar.gz", "w:gz") as archive:
            archive.add(store, "store", filter=lambda one: one if one.isfile() or one.isdir() else None)
    report = two_gpus_page.judge(json.loads(((options.out if options.command == "measure" else options.folder)
                                             / "two-gpus.json").read_text()))  # fmt: skip
    print(report.page)
    return int(report.failed)


def _machine() -> dict[str, Any]:
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "kernel": os.uname().release, "cores": os.cpu_count(), "torch": version("torch"),
        "transformers": version("transformers"), "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "fake": FAKE in os.environ,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
