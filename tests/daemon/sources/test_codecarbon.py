"""Does the estimate come from the real CodeCarbon, and does the daemon outlive it?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from energyd.sources import Break, Changed, Event, PowerSamples, codecarbon_child
from energyd.sources.codecarbon import UUID, CodeCarbonSource
from energyd.sources.discover import discover
from energyd.sources.rapl import cpu_model
from energyd_client.clock import now_ns

WHY = "no RAPL package in /sys/class/powercap"


@pytest.fixture
def source() -> Iterator[CodeCarbonSource]:
    made = CodeCarbonSource(WHY)
    yield made
    made.close()


def read_until(
    source: CodeCarbonSource, events: list[Event], done: Callable[[], bool], seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, events
        events += source.read()
        time.sleep(0.05)


def samples(events: list[Event]) -> list[PowerSamples]:
    return [event for event in events if isinstance(event, PowerSamples)]


def test_the_real_codecarbon_estimates_in_a_child_that_dies_and_comes_back(source):
    begin_ns = now_ns()
    source.open()
    opened_s = (now_ns() - begin_ns) / 1e9
    assert source.devices() == []
    # Not known is not absent: a stage that ends before the estimate is there must have no total.
    assert source.domains()[0].state == "unreadable"
    assert "starting" in source.domains()[0].reason
    events: list[Event] = []
    read_until(source, events, lambda: len(samples(events)) >= 3)
    announced_ns = next(e.t_ns for e in events if isinstance(e, Changed))
    assert opened_s < (announced_ns - begin_ns) / 1e9

    (info,) = source.devices()
    assert (info.uuid, info.origin, info.source, info.domain) == (UUID, "estimated", "codecarbon", "cpu")
    assert info.accuracy == 0.40
    assert info.name == cpu_model()
    release = version("codecarbon")
    assert info.driver.startswith(f"codecarbon {release}, load mode, TDP of ")
    assert (" W (CodeCarbon's table: " in info.driver) != (" W (a guess of 4 W a thread" in info.driver)
    cpu, dram = source.domains()
    assert cpu.state == "estimated"
    assert WHY in cpu.reason
    assert info.name in cpu.reason
    assert release in cpu.reason
    assert "load mode" in cpu.reason
    assert info.driver.partition("load mode, ")[2] in cpu.reason
    assert "±40 %" in cpu.reason
    assert dram.state == "absent"
    assert dram.reason
    given = samples(events)
    t_ns = np.concatenate([e.t_ns for e in given])
    energy_uj = np.concatenate([e.energy_uj for e in given])
    power_mw = np.concatenate([e.power_mw for e in given])
    assert (np.diff(t_ns) > 0).all()
    assert t_ns[0] < announced_ns  # the load while CodeCarbon was starting is not lost
    assert power_mw.min() > 0
    means_j = power_mw[1:] * np.diff(t_ns) / 1e12
    assert energy_uj[1:] / 1e6 == pytest.approx(means_j, rel=1e-3)

    child = source._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    known = len(samples(events))
    read_until(source, events, lambda: len(samples(events)) > known + 1)
    (died,) = [e for e in events if isinstance(e, Break)]
    assert died.reason.startswith("lost")
    after = samples(events)[known:]
    t_ns = np.concatenate([samples(events)[known - 1].t_ns[-1:], *(e.t_ns for e in after)])
    power_mw = np.concatenate([samples(events)[known - 1].power_mw[-1:], *(e.power_mw for e in after)])
    assert (np.diff(t_ns) > 0).all()
    # Between the two children nothing was estimated: that step is the straight line, never 0.
    between = next(e for e in after if len(e.t_ns) == 2)
    at = int(np.flatnonzero(t_ns == between.t_ns[0])[0])
    line_j = (int(power_mw[at - 1]) + int(power_mw[at])) / 2 * (t_ns[at] - t_ns[at - 1]) / 1e12
    assert between.energy_uj[0] / 1e6 == pytest.approx(line_j, rel=1e-3)


def test_a_codecarbon_that_cannot_be_imported_leaves_the_cpu_unreadable_with_the_reason(
    source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "codecarbon").mkdir()
    (tmp_path / "codecarbon/__init__.py").write_text("raise ImportError('pandas is broken here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "cannot be used" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "pandas is broken here" in source.domains()[0].reason
    assert any(isinstance(event, Changed) for event in events)
    assert source.devices() == []


def fake_codecarbon(folder: Path, cpu: str = "self.tdp", tdp: str = "8.0", match: str = "None") -> None:
    """A codecarbon whose CPU takes `cpu` watts and whose TDP is `tdp`, as far as the child calls it."""
    for name in ("", "core", "external"):
        (folder / "codecarbon" / name).mkdir(exist_ok=True)
        (folder / "codecarbon" / name / "__init__.py").touch()
    (folder / "codecarbon/core/cpu.py").write_text(
        "class TDP:\n"
        f"    def __init__(self): self.model, self.tdp = self._get_matching_cpu('x') or 'Xeon 9', {tdp}\n"
        f"    def _get_matching_cpu(self, raw): return {match}\n"
    )
    (folder / "codecarbon/external/hardware.py").write_text(
        "from types import SimpleNamespace\n"
        "MODE_CPU_LOAD = 'cpu_load'\n"
        "class CPU:\n"
        "    calls = 0\n"
        "    @classmethod\n"
        "    def from_utils(cls, output_dir, mode, model, tdp):\n"
        "        assert mode == MODE_CPU_LOAD\n"
        "        cpu = cls(); cpu.tdp = tdp; return cpu\n"
        "    def start(self): pass\n"
        f"    def total_power(self): CPU.calls += 1; return SimpleNamespace(W={cpu})\n"
    )


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on the child's path, with a codecarbon in it, still empty."""
    (tmp_path / "codecarbon").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("watts", ["0.0", "-3.0", "float('nan')"])
def test_an_estimate_of_0_w_leaves_the_cpu_unreadable_with_the_reason(source, fakes, watts):
    fake_codecarbon(fakes, cpu=watts)
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "cannot be used" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "which no processor takes" in source.domains()[0].reason
    assert source.devices() == []
    assert samples(events) == []


def test_a_processor_without_tdp_is_unreadable_and_not_a_constant(source, fakes):
    fake_codecarbon(fakes, tdp="None")
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "cannot be used" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "no TDP for the processor 'Xeon 9'" in source.domains()[0].reason
    assert samples(events) == []


def test_a_kernel_whose_cpu_times_stand_still_is_unreadable_and_not_a_tenth_of_the_tdp(source, fakes):
    fake_codecarbon(fakes)
    (fakes / "psutil.py").write_text("def cpu_times(): return (1.0, 2.0)")
    (fakes / "codecarbon/core/cpu.py").write_text(
        "import time\n"
        "class TDP:\n"
        "    def __init__(self): time.sleep(2); self.model, self.tdp = 'Xeon 9', 8.0\n"
    )
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "cannot be used" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "stand still" in source.domains()[0].reason
    assert samples(events) == []


def test_an_estimate_that_fails_in_mid_run_is_a_gap_with_its_words_and_is_tried_again(source, fakes):
    fake_codecarbon(fakes, cpu="self.tdp if CPU.calls < 5 else 0.0")
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: any(isinstance(event, Break) for event in events))
    died = next(event for event in events if isinstance(event, Break))
    assert "0 W, which no processor takes" in died.reason
    known = len(samples(events))
    read_until(source, events, lambda: len(samples(events)) > known)
    assert min(int(e.power_mw.min()) for e in samples(events)) > 0


def test_a_child_that_dies_before_it_has_spoken_leaves_the_cpu_unreadable_and_is_tried_again(source, fakes):
    (fakes / "codecarbon/__init__.py").write_text("import os; os._exit(9)")
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "tried again" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "ended with code 9" in source.domains()[0].reason
    assert any(isinstance(event, Changed) for event in events)
    shutil.rmtree(fakes / "codecarbon")
    (fakes / "codecarbon").mkdir()
    fake_codecarbon(fakes)
    read_until(source, events, lambda: bool(source.devices()))
    assert source.domains()[0].state == "estimated"


HELLO = {
    "model": "AMD EPYC 7763 64-Core Processor", "match": "AMD EPYC 7763", "tdp_w": 280.0, "processors": 2,
    "threads": 256, "virtual": False, "mode": "load", "version": "3.3.2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, ["TDP of 2 x 280 W", "table: AMD EPYC 7763"]),
        ({"match": None, "tdp_w": 1024.0, "processors": 1}, ["1024 W (a guess of 4 W a thread"]),
        ({"virtual": True, "processors": 1, "threads": 8}, ["virtual machine has 8 CPUs", "too much"]),
        (
            {"virtual": True, "match": None, "processors": 1, "threads": 8},
            ["virtual machine of 8 CPUs", "guess"],
        ),
    ],
)
def test_the_devices_row_and_the_domains_reason_say_what_the_estimate_is_made_of(facts, words):
    source = CodeCarbonSource(WHY)
    assert [type(event) for event in source._take({**HELLO, **facts}, now_ns())] == [Changed]
    (info,) = source.devices()
    assert info.name == HELLO["model"]
    for word in ["3.3.2", "load mode", *words]:
        assert word in info.driver
        assert word in source.domains()[0].reason


def test_sockets_of_a_machine_count_and_those_of_a_virtual_machine_do_not(monkeypatch):
    cpuinfo = "flags\t\t: fpu vme{}\nphysical id\t: 0\n\nflags\t\t: fpu vme{}\nphysical id\t: 1\n"

    class Table:
        model, tdp = "AMD EPYC 7763 64-Core Processor", 280.0

        def __init__(self):
            self._get_matching_cpu(self.model)

        def _get_matching_cpu(self, raw):
            return "AMD EPYC 7763"

    real = Path.read_text
    for flags, processors in (("", 2), (" hypervisor", 1)):
        text = cpuinfo.format(flags, flags)
        monkeypatch.setattr(Path, "read_text", lambda p, text=text: text if p.name == "cpuinfo" else real(p))
        facts = codecarbon_child._processor(SimpleNamespace(TDP=Table))
        assert (facts["processors"], facts["match"]) == (processors, "AMD EPYC 7763")


def test_codecarbons_rapl_mode_is_out_of_reach_even_where_its_counters_are_for_root_only(
    monkeypatch, tmp_path: Path
):
    """`CPU(mode="intel_rapl")` says 0 W where it may not read; energyd's choice is made without it."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("65712999613")
    (zone / "energy_uj").mkdir()  # not even root reads a folder
    _, made = discover("auto", powercap=tmp_path)
    assert isinstance(made, CodeCarbonSource)
    made.open()
    try:
        events: list[Event] = []
        read_until(made, events, lambda: len(samples(events)) >= 2)
        assert made.domains()[0].state == "estimated"
        assert "energy_uj" in made.domains()[0].reason
        assert min(int(e.power_mw.min()) for e in samples(events)) > 0
    finally:
        made.close()


def test_what_a_library_prints_never_reaches_the_parents_pipe(source, tmp_path, monkeypatch):
    (tmp_path / "codecarbon").mkdir()
    (tmp_path / "codecarbon/__init__.py").write_text(
        "import os; print('noise'); os.write(1, b'noise'); raise RuntimeError('quiet please')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: "cannot be used" in source.domains()[0].reason)
    assert source.domains()[0].state == "unreadable"
    assert "quiet please" in source.domains()[0].reason


def test_the_child_dies_with_a_parent_that_is_killed():
    code = (
        "import sys, time; from energyd.sources.codecarbon import CodeCarbonSource;"
        "s = CodeCarbonSource('x'); s.open(); print(s._child.pid, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie waits for whoever adopted it


def test_pandas_is_not_loaded_into_the_sampling_process():
    code = (
        "import sys; from energyd.sources.discover import discover; s = discover('auto');"
        "[x.open() for x in s]; [x.read() for x in s]; [x.close() for x in s];"
        "print('pandas' in sys.modules, 'codecarbon' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["False", "False"]
